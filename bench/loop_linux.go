package bench

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"golang.org/x/sys/unix"
)

// phase is the state of a generator process.
type phase int

const (
	connecting phase = iota
	waiting          // every connection is open; the parent has not said start
	warming
	measuring
	draining
	finished
)

// errSkip is the reason why the target does not serve the workload.
type errSkip struct{ reason string }

func (e errSkip) Error() string { return e.reason }

// driver is a scenario: it decides what each connection sends and checks what it receives. All its
// methods run on the loop's goroutine.
type driver interface {
	// open is called with a connected, greeted connection; the driver calls loop.ready for it, now
	// or later.
	open(l *loop, c *conn) error
	// begin is called when every connection is ready and the traffic may start.
	begin(l *loop) error
	// frame is called with a complete frame; body is valid until it returns.
	frame(l *loop, c *conn, handle uint32, body []byte) error
	// after is called after the frames of one read.
	after(l *loop, c *conn) error
	// closed is called when a connection was lost; it returns nil if that was expected.
	closed(l *loop, c *conn, why error) error
	// tick runs before each wait and returns when it wants to run again (0: never).
	tick(l *loop) (at int64, err error)
	// owed counts requests without a reply.
	owed(l *loop) int
	// overdue records (loop.note) missing replies of the window when the generator stops waiting.
	overdue(l *loop)
	// streams are the results, the main one first.
	streams() []*stream
}

// loop is the event loop of a generator process. Its goroutine owns all fields.
type loop struct {
	spec      genSpec
	drv       driver
	routes    []route     // addresses that connections use in turn
	tlsConfig *tls.Config // nil: no route has a door
	records   []byte      // of one read; nil without TLS
	ep, tfd   int
	zero      time.Time
	now       int64 // nanoseconds since zero, refreshed after each wait and each read
	phase     phase
	conns     []*conn
	byIndex   []*conn // connections by the number in epoll events; an entry is never reused
	pending   int     // connections that are still connecting or in a handshake
	opened    int     // connections that are ready
	spare     []*conn // churn: closed slots to dial again
	buf       []byte
	events    []unix.EpollEvent
	out       io.Writer

	open, shut window
	verified   uint64
	progress   int64 // when the last frame came
	settleBy   int64
	armed      int64 // what the timerfd is set to, 0 = off
}

// window is one edge of the measured interval.
type window struct {
	at           int64
	user, system time.Duration
}

const (
	controlEvent = -1
	timerEvent   = -2
	maxDials     = 256
	maxKnocks    = 32 // concurrent handshakes: fewer than a server's limit, over all generators
	readSize     = 256 << 10
)

func newLoop(spec genSpec, drv driver, out io.Writer) (*loop, error) {
	l := &loop{
		spec: spec, drv: drv, out: out, zero: time.Now(),
		buf: make([]byte, readSize+maxFrame(spec)), events: make([]unix.EpollEvent, 512),
	}
	if err := l.route(spec.Addrs); err != nil {
		return nil, err
	}
	var err error
	if l.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("bench: epoll: %w", err)
	}
	if l.tfd, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		return nil, fmt.Errorf("bench: timerfd: %w", err)
	}
	if err = l.watch(l.tfd, timerEvent); err != nil {
		return nil, err
	}
	return l, l.watch(0, controlEvent)
}

// route reads the addresses and makes what their doors need.
func (l *loop) route(addrs []string) error {
	for _, a := range addrs {
		r, err := parseRoute(a)
		if err != nil {
			return err
		}
		l.routes = append(l.routes, r)
		if r.tls || r.ws {
			l.tlsConfig = clientTLS()
			l.records = make([]byte, readSize/2) // its plain text fits after a partial frame, with what TLS had buffered
		}
	}
	return nil
}

// maxFrame returns the length of the longest frame that this workload can receive.
func maxFrame(spec genSpec) int {
	if spec.Kind == Replay {
		return 1 << 20
	}
	return 2*spec.Body + 64<<10
}

func (l *loop) watch(fd int, number int32) error {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: number}
	if err := unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("bench: epoll add: %w", err)
	}
	return nil
}

func (l *loop) nanos() int64 { return int64(time.Since(l.zero)) }

// run drives the workload until the parent has ended it.
func (l *loop) run() error {
	for range l.spec.Mine {
		l.spare = append(l.spare, l.newConn())
	}
	l.progress = l.nanos()
	for l.phase != finished {
		if err := l.turn(); err != nil {
			return err
		}
	}
	return nil
}

func (l *loop) turn() error {
	l.now = l.nanos()
	if err := l.dialSome(); err != nil {
		return err
	}
	at, err := l.drv.tick(l)
	if err != nil {
		return err
	}
	if err := l.arm(at); err != nil {
		return err
	}
	n, err := unix.EpollWait(l.ep, l.events, 200)
	if err != nil && !errors.Is(err, unix.EINTR) {
		return fmt.Errorf("bench: epoll_wait: %w", err)
	}
	l.now = l.nanos()
	for i := range max(n, 0) {
		if err := l.dispatch(&l.events[i]); err != nil {
			return err
		}
	}
	return l.watchdog()
}

// arm sets the timerfd for the driver's next tick.
func (l *loop) arm(at int64) error {
	if at == l.armed && at == 0 {
		return nil
	}
	l.armed = at
	var spec unix.ItimerSpec
	if at > 0 {
		spec.Value = unix.NsecToTimespec(max(1, at-l.nanos()))
	}
	if err := unix.TimerfdSettime(l.tfd, 0, &spec, nil); err != nil {
		return fmt.Errorf("bench: timerfd: %w", err)
	}
	return nil
}

func (l *loop) dispatch(ev *unix.EpollEvent) error {
	switch ev.Fd {
	case controlEvent:
		return l.control()
	case timerEvent:
		var b [8]byte
		_, _ = unix.Read(l.tfd, b[:]) // only to clear it; EAGAIN when it was set anew
		return nil
	}
	c := l.byIndex[ev.Fd]
	if uint32(ev.Pad) != c.life || c.fd < 0 {
		return nil // an event of the slot's last connection
	}
	if c.dialing {
		return l.dialed(c)
	}
	if ev.Events&unix.EPOLLOUT != 0 {
		if err := l.flush(c); err != nil {
			return l.lose(c, err)
		}
	}
	if ev.Events&(unix.EPOLLIN|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		return l.readable(c)
	}
	return nil
}

// control executes the parent's commands.
func (l *loop) control() error {
	var b [16]byte
	n, err := unix.Read(0, b[:])
	if n <= 0 || err != nil {
		return errors.New("bench: the parent has exited")
	}
	for _, c := range b[:n] {
		if err := l.obey(c); err != nil {
			return err
		}
	}
	return nil
}

func (l *loop) obey(c byte) error {
	switch c {
	case cmdStart, cmdEcho:
		l.phase = warming
		l.progress = l.now
		return l.drv.begin(l)
	case cmdMeasure:
		l.phase = measuring
		l.open = l.edge()
	case cmdEnd:
		l.shut = l.edge()
		l.phase = draining
		l.settleBy = l.now + int64(l.spec.Settle)
	}
	return nil
}

func (l *loop) edge() window {
	var ru unix.Rusage
	_ = unix.Getrusage(unix.RUSAGE_SELF, &ru) // cannot fail with these arguments
	return window{l.nanos(), time.Duration(ru.Utime.Nano()), time.Duration(ru.Stime.Nano())}
}

// watchdog ends a process that makes no progress.
func (l *loop) watchdog() error {
	if l.phase == draining && (l.drv.owed(l) == 0 || l.now >= l.settleBy) {
		l.drv.overdue(l)
		l.phase = finished
		return nil
	}
	busy := l.phase == connecting || (l.phase == warming || l.phase == measuring) && l.drv.owed(l) > 0
	if !busy || l.now-l.progress < int64(l.spec.Stall) {
		return nil
	}
	if l.phase == connecting {
		return fmt.Errorf("bench: %d of %d connections were ready and nothing happened for %v", l.opened, l.spec.Mine, l.spec.Stall)
	}
	return fmt.Errorf("bench: %d requests had no reply for %v", l.drv.owed(l), l.spec.Stall)
}

// ready says that c can take part; with the last connection it notifies the parent.
func (l *loop) ready(c *conn) error {
	l.opened++
	l.progress = l.now
	if l.phase != connecting || l.opened < l.spec.Mine {
		return nil
	}
	l.phase = waiting
	_, err := fmt.Fprintln(l.out, lineConnected)
	return err
}

// sending reports whether new requests may be sent.
func (l *loop) sending() bool { return l.phase == warming || l.phase == measuring }

// counts reports whether a reply that arrives now belongs to the window.
func (l *loop) counts() bool { return l.phase == measuring }

// note records n replies that arrive now to requests of that time. Replies that arrive after the
// end of the window to requests sent before it don't count as messages, but their latencies do:
// otherwise a server that hangs at the end of the window would hide its slowest replies.
func (l *loop) note(s *stream, asked int64, n int) {
	switch {
	case l.phase == measuring:
		s.record(l.now-asked, n)
	case l.phase == draining && asked < l.shut.at:
		s.measure(l.now-asked, n)
	}
}

// noteAll records everything that s still waits for.
func (l *loop) noteAll(s *stream, waiting *runList) {
	for i := range waiting.n {
		r := waiting.ring[(waiting.head+i)&(len(waiting.ring)-1)]
		l.note(s, r.at, r.count)
	}
}

// randomSource returns a random loopback source address, so that many connections to one port do
// not run out of local ports.
func randomSource() [4]byte {
	n := rand.Uint32()
	return [4]byte{127, byte(n>>16)&0x7f + 1, byte(n >> 8), byte(n)%250 + 1}
}
