//go:build linux

package gnetio

import (
	"context"
	"errors"
	"io"
	"iter"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"millrace/engine/internal/netio"
)

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) != "" {
		runChild()
	}
	goleak.VerifyTestMain(m,
		// gnet keeps one ants pool for the life of the process
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*goWorker).run.func1"),
	)
}

var quiet = slog.New(slog.DiscardHandler)

// echoHost sends back what it gets. Its connections and loops keep to the contract as
// the engine would.
type echoHost struct {
	open     func(c *echo) (refuse *netio.Refusal) // nil: all are taken
	received func(c *echo, b []byte) (handled bool)
	closed   func(c *echo, how netio.End)

	mu    sync.Mutex
	loops []*echoLoop
	ids   map[uint64]*echo
	next  uint64

	acceptErrs atomic.Int32
	failed     atomic.Pointer[error]
	failures   atomic.Int32
}

type echoLoop struct {
	h     *echoHost
	n     netio.Loop
	conns map[*echo]bool // loop goroutine
	turns atomic.Int64

	mu   sync.Mutex
	jobs []func() // guarded by mu
}

// echo is one connection.
type echo struct {
	netio.Conn
	l        *echoLoop
	id       uint64
	fd       int
	unsent   []byte // loop goroutine only
	detached bool   // loop goroutine only
	gone     bool   // loop goroutine only
	tag      byte   // the first byte it sent
}

func (h *echoHost) NewLoop(n netio.Loop) netio.Turner {
	l := &echoLoop{h: h, n: n, conns: map[*echo]bool{}}
	h.mu.Lock()
	h.loops = append(h.loops, l)
	h.mu.Unlock()
	return l
}

func (h *echoHost) Open(t netio.Turner, c netio.Conn, fd int) (netio.Sink, netio.Refusal) {
	e := &echo{Conn: c, l: t.(*echoLoop), fd: fd}
	if h.open != nil {
		if no := h.open(e); no != nil {
			return nil, *no
		}
	}
	h.mu.Lock()
	h.next++
	e.id = h.next<<32 | 0xffffffff ^ h.next // both halves count
	if h.ids == nil {
		h.ids = map[uint64]*echo{}
	}
	h.ids[e.id] = e
	h.mu.Unlock()
	e.l.conns[e] = true
	return e, netio.Refusal{}
}

func (h *echoHost) Writable(id uint64) {
	h.mu.Lock()
	e := h.ids[id]
	h.mu.Unlock()
	if e != nil {
		e.l.do(e.flush)
	}
}

func (h *echoHost) AcceptFailed() { h.acceptErrs.Add(1) }
func (h *echoHost) Failed(err error) {
	h.failures.Add(1)
	h.failed.Store(&err)
}

func (h *echoHost) count() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(h.ids)
}

func (h *echoHost) all() []*echoLoop {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]*echoLoop(nil), h.loops...)
}

// do runs fn in a turn.
func (l *echoLoop) do(fn func()) {
	l.mu.Lock()
	l.jobs = append(l.jobs, fn)
	l.mu.Unlock()
	_ = l.n.Execute()
}

// wait runs fn in a turn and waits for it.
func (l *echoLoop) wait(t testing.TB, fn func()) {
	t.Helper()
	done := make(chan struct{})
	l.do(func() { fn(); close(done) })
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Fatal("no turn came")
	}
}

func (l *echoLoop) Turn() {
	l.turns.Add(1)
	l.mu.Lock()
	jobs := l.jobs
	l.jobs = nil
	l.mu.Unlock()
	for _, fn := range jobs {
		fn()
	}
}

func (l *echoLoop) each() iter.Seq[netio.Conn] {
	return func(yield func(netio.Conn) bool) {
		for e := range l.conns {
			if !yield(e.Conn) {
				return
			}
		}
	}
}

func (e *echo) Received(b []byte) {
	if e.tag == 0 {
		e.tag = b[0]
	}
	if e.l.h.received != nil && e.l.h.received(e, b) {
		return
	}
	e.send(b)
}

func (e *echo) send(b []byte) {
	e.unsent = append(e.unsent, b...)
	e.flush()
}

func (e *echo) flush() {
	if e.gone || len(e.unsent) == 0 {
		return
	}
	n, err := e.Write(e.unsent)
	e.unsent = e.unsent[n:]
	switch {
	case err != nil:
		e.end()
	case len(e.unsent) > 0:
		if e.NotifyWritable(e.id) != nil {
			e.end()
		}
	case e.detached:
		e.CloseWrite()
		e.end()
	}
}

// end closes the connection from the loop's side.
func (e *echo) end() {
	if !e.gone {
		e.forget()
		e.Close()
	}
}

func (e *echo) forget() {
	e.gone = true
	delete(e.l.conns, e)
	e.l.h.mu.Lock()
	delete(e.l.h.ids, e.id)
	e.l.h.mu.Unlock()
}

func (e *echo) HungUp(bool) {}

func (e *echo) Closed(how netio.End) {
	if e.l.h.closed != nil {
		e.l.h.closed(e, how)
	}
	if e.gone {
		return
	}
	if how == netio.EndFIN && len(e.unsent) > 0 && e.Detach() {
		e.detached = true
		e.flush()
		return
	}
	e.forget()
}

// listen starts a network on cfg; its end comes with the test's.
func listen(t testing.TB, cfg Config, h *echoHost) *Network {
	t.Helper()
	n, err := tryListen(t, cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func tryListen(t testing.TB, cfg Config, h *echoHost) (*Network, error) {
	t.Helper()
	if len(cfg.Addrs) == 0 {
		cfg.Addrs = []string{"tcp://127.0.0.1:0"}
	}
	if cfg.Loops == 0 {
		cfg.Loops = 2
	}
	if cfg.Linger == 0 {
		cfg.Linger = 100 * time.Millisecond
	}
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	cfg.KeepAlive, cfg.KeepAliveEvery, cfg.KeepAliveCount = 30*time.Second, 10*time.Second, 3
	n := New(cfg, h)
	if err := n.Start(within(t, time.Minute)); err != nil {
		return n, err
	}
	t.Cleanup(func() { halt(t, n, h) })
	return n, nil
}

// halt stops a network and closes what it left to the host, as the engine does.
func halt(t testing.TB, n *Network, h *echoHost) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := n.Stop(ctx); err != nil {
		t.Error(err)
		return
	}
	for _, l := range h.all() {
		for e := range l.conns {
			e.end()
		}
	}
}

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

func waitFor(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

// client is a peer.
type client struct {
	net.Conn
	t testing.TB
}

func dial(t testing.TB, a net.Addr) *client {
	t.Helper()
	c, err := net.DialTimeout(a.Network(), a.String(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(time.Minute))
	return &client{c, t}
}

// says sends text and wants it back.
func (c *client) says(text string) {
	c.t.Helper()
	c.send(text)
	c.gets(text)
}

func (c *client) send(text string) {
	c.t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		c.t.Error(err)
	}
}

func (c *client) gets(text string) {
	c.t.Helper()
	b := make([]byte, len(text))
	if n, err := io.ReadFull(c, b); err != nil || string(b) != text {
		c.t.Errorf("got %d bytes, %.20q…, %v, want %d, %.20q…", n, b[:n], err, len(text), text)
	}
}

func (c *client) getsEOF() {
	c.t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		c.t.Errorf("got %d bytes, %v, want EOF", n, err)
	}
}

func (c *client) closeWrite() { c.Conn.(interface{ CloseWrite() error }).CloseWrite() }

// slowHost makes its loops when it may.
type slowHost struct {
	echoHost
	gate chan bool
}

func (h *slowHost) NewLoop(n netio.Loop) netio.Turner {
	<-h.gate
	return h.echoHost.NewLoop(n)
}
