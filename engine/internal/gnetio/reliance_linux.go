package gnetio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"unsafe"

	"github.com/panjf2000/gnet/v2"
	gneterr "github.com/panjf2000/gnet/v2/pkg/errors"
	"github.com/panjf2000/gnet/v2/pkg/logging"

	"millrace/engine/internal/netio"
)

// What is relied on that gnet does not promise, with the test that fails when it changes:
//
//   - Loops leave on errors.Is(err, ErrAcceptSocket), which is a variable: TestAcceptWithoutFilesEndsNothing.
//   - A failed accept is logged as "Accept() failed …", on the goroutine that accepts: TestAcceptWithoutFilesEndsNothing.
//   - What was accepted is given to its loop before the next accept, and in front of the loop's
//     end; whatever is readable in the set of the goroutine that accepts, accept is tried on it:
//     TestStopClosesWhatWasAccepted.
//   - Connections and listeners are level-triggered in the epoll set of their loop, their
//     event's data is the descriptor, nothing but the end is told of one masked, and
//     /proc/self/fdinfo shows the set: TestPausedReadingHoldsBytesBack, TestLoopsAreFound.
//   - A hang-up that was not read is OnClose with io.EOF itself, a FIN with io.EOF wrapped:
//     TestEndsAreTold.
//   - OnTick first runs when all loops have been made: TestStartedMeansEveryLoopListens.
//   - Next gives a window of the read buffer and nothing stays in gnet's own:
//     TestReadingAllocatesNothing.
//   - A loop's poller has a word, wakeupCall, that is not 0 from when a task is queued until
//     all are done, and whoever makes it so wakes the poller: TestTasksOfGnetAreSeen,
//     TestReaderLeavesTheLoopToGnet. Where there is no such word, gnet reads.
//   - A connection that is in no epoll set of gnet's is closed all the same: TestEndsAreTold.
//   - A server's engine is in a table under its address; Stop takes it out, also when it
//     has ended; an address may bear a #fragment, so that no two are the same:
//     TestStoppedNetworksAreCollected, TestStopOfOneLeavesTheOther.
//   - The logger of the engine made last is kept: TestStoppedNetworksAreCollected.
//   - Whatever stands at a unix address is removed at start and at stop, only there:
//     TestUnixPathIsOnlyItsOwn.
//   - tcp://0.0.0.0 is IPv4, tcp://[::] IPv6 and tcp://: both, for every loop:
//     TestFamilyIsWhatWasAskedFor.
//   - EventLoop.Close works on any goroutine while the loop's is inside a callback, and
//     an event for a descriptor that has gone is passed over: TestStandInServesTheOthers.
//   - Enroll gives a connection to this loop: TestStandInGivesNewConnectionsToOtherLoops.
//   - Rotate returns when a loop's goroutine has ended by runtime.Goexit, and has then not
//     closed its connections: TestGoexitLeaksNothing.
//
// testedGnet is the version for which that is known to hold.
const (
	gnetPath   = "github.com/panjf2000/gnet/v2"
	testedGnet = "v2.10.0"
)

// otherGnet is the version that the program is built with, if that is not testedGnet.
func otherGnet(info *debug.BuildInfo, ok bool) string {
	if !ok {
		return ""
	}
	for _, m := range info.Deps {
		if m.Path != gnetPath {
			continue
		}
		if m.Replace != nil {
			return strings.TrimSpace(m.Replace.Path + " " + m.Replace.Version)
		}
		if m.Version != testedGnet {
			return m.Version
		}
	}
	return ""
}

func (n *Network) checkGnet() { n.warnOf(otherGnet(debug.ReadBuildInfo())) }

func (n *Network) warnOf(v string) {
	if v != "" {
		n.cfg.Logger.Warn("another version of gnet than the tested one", "version", v, "tested", testedGnet)
	}
}

// An error of accept, for want of files or memory, ends all of gnet's loops and with
// them every connection: they look for gnet's ErrAcceptSocket with errors.Is and leave.
// No error is equal to a NaN, which is not even equal to itself, so they go on. It is
// set before anything can read it.
var _ = func() bool {
	gneterr.ErrAcceptSocket = survivable(math.NaN())
	return true
}()

type survivable float64

func (survivable) Error() string { return "gnet: accept a new connection error" }

const acceptFailedText = "Accept() failed"

// engines counts the addresses that gnet was given.
var engines atomic.Uint64

// namedApart gives addresses names in gnet's table that no other engine's have.
func namedApart(addrs []string) []string {
	var out []string
	for _, a := range addrs {
		if strings.HasPrefix(a, "tcp") {
			a = fmt.Sprintf("%s#%d", a, engines.Add(1))
		}
		out = append(out, a) // a unix address is new each time
	}
	return out
}

// forgetEngine takes an engine that has ended out of gnet's table.
func forgetEngine(addrs []string) {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	for _, a := range addrs {
		//lint:ignore SA1019 it is the only way, and here it stops nothing
		_ = gnet.Stop(now, a)
	}
}

// endOf reads how a connection ended from OnClose's error.
func endOf(err error) netio.End {
	switch {
	case err == io.EOF: // it saw EPOLLHUP or EPOLLERR and did not read
		return netio.EndHangup
	case errors.Is(err, io.EOF):
		return netio.EndFIN
	}
	return netio.EndReset
}

// gnetLog passes gnet's own log lines on, at debug level, and keeps the last error. gnet
// keeps the last logger it was given for good, so r is taken away in the end.
type gnetLog struct {
	r    atomic.Pointer[reactor]
	last atomic.Pointer[string]
}

var _ logging.Logger = (*gnetLog)(nil)

func newGnetLog(r *reactor) *gnetLog {
	g := &gnetLog{}
	g.r.Store(r)
	return g
}

func (g *gnetLog) lastError() string {
	if s := g.last.Load(); s != nil {
		return *s
	}
	return "no reason was given"
}

func (g *gnetLog) log(text string) *reactor {
	r := g.r.Load()
	if r != nil {
		r.n.cfg.Logger.Debug("gnet: " + text)
	}
	return r
}

func (g *gnetLog) Debugf(string, ...any)            {}
func (g *gnetLog) Infof(string, ...any)             {}
func (g *gnetLog) Warnf(format string, args ...any) { g.log(fmt.Sprintf(format, args...)) }
func (g *gnetLog) Errorf(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	g.last.Store(&text)
	if r := g.log(text); r != nil && strings.HasPrefix(text, acceptFailedText) {
		r.n.acceptFailed(r)
	}
}
func (g *gnetLog) Fatalf(format string, args ...any) { g.Errorf(format, args...) }

// tasksOf finds the word in which a loop of gnet's says that tasks wait for it; nil: it is
// not where it was.
func tasksOf(el gnet.EventLoop) *int32 {
	v := reflect.ValueOf(el)
	for _, name := range []string{"poller", "wakeupCall"} {
		if v.Kind() == reflect.Interface {
			v = v.Elem()
		}
		if v.Kind() != reflect.Pointer || v.IsNil() || v.Elem().Kind() != reflect.Struct {
			return nil
		}
		v = v.Elem().FieldByName(name)
	}
	if v.Kind() != reflect.Int32 || !v.CanAddr() {
		return nil
	}
	return (*int32)(unsafe.Pointer(v.UnsafeAddr()))
}
