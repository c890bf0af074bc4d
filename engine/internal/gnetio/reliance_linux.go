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

// Behaviour of gnet that this package relies on and gnet does not promise, each with the test that
// fails when it changes:
//
//   - A loop ends on an error for which errors.Is(err, ErrAcceptSocket), which is a variable:
//     TestAcceptWithoutFilesEndsNothing.
//   - A failed accept is logged as "Accept() failed …", on the goroutine that accepts: TestAcceptWithoutFilesEndsNothing.
//   - The goroutine that accepts gives each connection to its loop before it accepts the next, and
//     before the loop's end; it calls accept on any descriptor in its epoll set that is readable:
//     TestStopClosesWhatWasAccepted.
//   - Connections and listeners are level-triggered in the epoll set of their loop, their
//     event's data is the descriptor, a masked one reports only hang-up and error, and
//     /proc/self/fdinfo lists the set: TestPausedReadingHoldsBytesBack, TestLoopsAreFound.
//   - After a hang-up without a read, OnClose gets io.EOF itself; after a FIN, a wrapped io.EOF:
//     TestEndsAreTold.
//   - OnTick first runs when all loops have been made: TestStartedMeansEveryLoopListens.
//   - Next gives a window of the read buffer and nothing stays in gnet's own:
//     TestReadingAllocatesNothing.
//   - A loop's poller has a field wakeupCall that is not 0 from when a task is queued until all are
//     done, and whoever sets it wakes the poller: TestTasksOfGnetAreSeen,
//     TestReaderLeavesTheLoopToGnet. If there is no such field, gnet reads.
//   - EventLoop.Close in OnOpen closes the descriptor and removes the connection before it returns:
//     TestGnetForgetsConnections.
//   - A connection that was removed from gnet's epoll set can still be closed: TestEndsAreTold.
//   - gnet keeps a table of engines by address; gnet.Stop removes an engine from it, also one that
//     has ended; an address may have a #fragment, which makes it unique:
//     TestStoppedNetworksAreCollected, TestStopOfOneLeavesTheOther.
//   - gnet keeps the logger of the last engine for good: TestStoppedNetworksAreCollected.
//   - gnet removes any file at the path of a unix address, at start and at stop, and no other file:
//     TestUnixPathIsOnlyItsOwn.
//   - tcp://0.0.0.0 is IPv4, tcp://[::] IPv6 and tcp://: both, for every loop:
//     TestFamilyIsWhatWasAskedFor.
//   - EventLoop.Close works on any goroutine while the loop's is inside a callback, and
//     an event for a closed descriptor is ignored: TestStandInServesTheOthers.
//   - EventLoop.Enroll registers a connection with that loop and no other: TestStandInGivesNewConnectionsToOtherLoops.
//   - Rotate returns when a loop's goroutine has ended by runtime.Goexit, and has then not
//     closed its connections: TestGoexitLeaksNothing.
//
// testedGnet is the version that was tested for this.
const (
	gnetPath   = "github.com/panjf2000/gnet/v2"
	testedGnet = "v2.10.0"
)

// otherGnet returns the version of gnet that the program was built with if it is not testedGnet,
// else "".
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
		n.cfg.Logger.Warn("gnet has not been tested in this version: build with the tested one", "version", v, "tested", testedGnet)
	}
}

// When accept fails, for lack of descriptors or memory, gnet returns ErrAcceptSocket, and its loops
// end, with all connections, on an error for which errors.Is(err, ErrAcceptSocket). errors.Is
// compares with ==, and a NaN is not equal to itself: with ErrAcceptSocket a NaN, that is false,
// and the loops go on. It is set during package initialisation, before gnet can read it.
var _ = func() bool {
	gneterr.ErrAcceptSocket = survivable(math.NaN())
	return true
}()

type survivable float64

func (survivable) Error() string { return "gnet: accept a new connection error" }

const acceptFailedText = "Accept() failed"

// engines counts the addresses given to gnet, to make them unique.
var engines atomic.Uint64

// namedApart makes addresses unique in gnet's table of engines.
func namedApart(addrs []string) []string {
	var out []string
	for _, a := range addrs {
		if strings.HasPrefix(a, "tcp") {
			a = fmt.Sprintf("%s#%d", a, engines.Add(1))
		}
		out = append(out, a) // a unix address has a random part already
	}
	return out
}

// forgetEngine removes an engine that has ended from gnet's table.
func forgetEngine(addrs []string) {
	now, cancel := context.WithCancel(context.Background())
	cancel()
	for _, a := range addrs {
		//lint:ignore SA1019 it is the only way, and here it stops nothing
		_ = gnet.Stop(now, a)
	}
}

// endOf returns how a connection ended, by the error that OnClose got.
func endOf(err error) netio.End {
	switch {
	case err == io.EOF: // it saw EPOLLHUP or EPOLLERR and did not read
		return netio.EndHangup
	case errors.Is(err, io.EOF):
		return netio.EndFIN
	}
	return netio.EndReset
}

// gnetLog logs gnet's warnings and errors at debug level, and keeps the last error. gnet keeps its
// last logger for good, so r is set to nil at the end: else it would keep the Network in memory.
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

// tasksOf returns the address of the wakeupCall of a gnet loop's poller, which is not 0 while tasks
// wait; nil if gnet has no such field.
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
