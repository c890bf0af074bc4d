package engine

import (
	"context"
	"errors"
	"flag"
	"io"
	"iter"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"millrace/codec"
	"millrace/engine/internal/netio"
)

// long turns on the large variants of the tests.
var long = flag.Bool("long", false, "run the large variants of the tests")

// check runs a rapid property, ten times as often when long.
func check(t *testing.T, prop func(*rapid.T)) {
	t.Helper()
	flag.Set("rapid.nofailfile", "true") // the seed is in the output
	if *long {
		flag.Set("rapid.checks", "1000")
	}
	rapid.Check(t, prop)
}

// desk is a server without sockets: one loop whose turns the test runs by hand, and
// wires that take as much as the test lets them.
type desk struct {
	*Server
	t testing.TB
	l *loop

	mu   sync.Mutex
	asks int // turns asked for and not yet run; guarded by mu

	alone bool // nothing but its own work waits for the loop
}

func (d *desk) Execute() error {
	d.mu.Lock()
	d.asks++
	d.mu.Unlock()
	return nil
}

func (d *desk) Kind() netio.LoopKind { return netio.LoopAccepts }
func (d *desk) Idle() bool           { return d.alone }

func (d *desk) StandIn(netio.Conn, iter.Seq[netio.Conn]) (func(), bool) { return nil, false }

// newDesk makes a desk with a running pool.
func newDesk(t testing.TB, cfg Config, h Handler) *desk {
	t.Helper()
	cfg.Addrs = []string{"tcp://127.0.0.1:0"}
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	srv, err := New(cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	srv.table = newTable(1 << 12)
	srv.serving.Store(true)
	d := &desk{Server: srv, t: t}
	d.l = srv.addLoop(d)
	if cfg.Pool != nil {
		return d
	}
	if err := srv.pool.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		srv.pool.Stop(ctx)
	})
	return d
}

// turn runs one turn if one was asked for, and tells whether it did.
func (d *desk) turn() bool {
	d.mu.Lock()
	ask := d.asks > 0
	if ask {
		d.asks--
	}
	d.mu.Unlock()
	if !ask {
		select {
		case <-d.rearm:
		default:
			return false
		}
	}
	d.l.Turn()
	return true
}

// settleAll runs turns until none is asked for and the pool is idle.
func (d *desk) settleAll() {
	d.t.Helper()
	ran := uint64(0) // the statistics are not of one moment: a strand may pass from worker to worker meanwhile
	for calm, end := 0, time.Now().Add(time.Minute); calm < 3; {
		if time.Now().After(end) {
			d.t.Fatal("the loop does not come to rest")
		}
		st := d.pool.Stats()
		if d.turn() || st.Sessions > 0 || st.Queue > 0 || st.Idle < st.Workers || st.Ran != ran {
			calm, ran = 0, st.Ran
		} else {
			calm++
		}
		runtime.Gosched()
	}
}

// sweepNow has the next turn sweep.
func (d *desk) sweepNow() {
	d.l.mu.Lock()
	d.l.sweepDue = true
	d.l.arm()
}

// fakeWire is a wire that takes room bytes, then no more until it is given more.
type fakeWire struct {
	s       *Session
	got     []byte
	room    int // -1: no limit
	fail    error
	writes  int
	watched bool
	finned  bool
	closed  bool
	masked  bool
	nomask  bool
	blind   bool // got stays empty
	nofiles bool // Detach fails

	unread   int        // what Unread says
	unacked  int        // what Unacked says
	acks     netio.Acks // what Acks says
	looks    int        // calls of Acks
	wasReset bool
}

func (w *fakeWire) Write(p []byte) (int, error) {
	w.writes++
	n := len(p)
	if w.room >= 0 {
		n = min(n, w.room)
		w.room -= n
	}
	if !w.blind {
		w.got = append(w.got, p[:n]...)
	}
	if n < len(p) && w.fail != nil {
		return n, w.fail
	}
	return n, nil
}
func (w *fakeWire) NotifyWritable(uint64) error { w.watched = true; return nil }
func (w *fakeWire) PauseReading(stop bool) bool {
	if w.nomask {
		return false
	}
	w.masked = stop
	return true
}
func (w *fakeWire) CloseWrite()                { w.finned = true }
func (w *fakeWire) Unread() int                { return w.unread }
func (w *fakeWire) Unacked() int               { return w.unacked }
func (w *fakeWire) ReadRest(func([]byte)) bool { return true }
func (w *fakeWire) Detach() bool               { return !w.nofiles }
func (w *fakeWire) Close()                     { w.closed = true }
func (w *fakeWire) Abort()                     { w.wasReset = true }
func (w *fakeWire) Acks() netio.Acks {
	w.looks++
	return w.acks
}
func (w *fakeWire) LocalAddr() net.Addr                   { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2} }
func (w *fakeWire) SyscallConn() (syscall.RawConn, error) { return nil, net.ErrClosed }
func (w *fakeWire) RemoteAddr() net.Addr                  { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 1} }

// give lets the wire take n more bytes and tells the session, as the watcher would.
func (w *fakeWire) give(n int) {
	w.room += n
	if w.watched && n > 0 {
		w.watched = false
		w.s.canWrite()
	}
}

var errBroken = errors.New("broken")

// open accepts a session on the desk's loop.
func (d *desk) open(room int) (*Session, *fakeWire) {
	d.t.Helper()
	w := &fakeWire{room: room}
	s := &Session{srv: d.Server, loop: d.l, conn: w}
	w.s = s
	if !d.l.accept(s) {
		d.t.Fatal("no slot")
	}
	return s, w
}

func frame(main, sub uint16, body string) []byte {
	return codec.Packet{Main: main, Sub: sub, Body: []byte(body)}.Append(nil)
}

// turns runs what turns are asked for, without waiting for the pool.
func (d *desk) turns() {
	for d.turn() {
	}
}

// still runs a subtest whose clock goes on in pass alone.
func still(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// pass lets time go by, in ticks with a sweep each. The machine has its own go by too, unless the
// test is in a bubble of synctest.
func (d *desk) pass(total, tick time.Duration) {
	for ; total > 0; total -= tick {
		d.epoch = d.epoch.Add(-tick)
		d.sweepNow()
		d.turns()
	}
}

const mib = 1 << 20

// within is a context that ends after d, and with the test.
func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// logText is a log that can be read while it is written.
type logText struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func textLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }
