package engine

import (
	"context"
	"fmt"
	"io"
	"iter"
	"net"
	"runtime"
	"syscall"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine/internal/dispatch"
	"millrace/engine/internal/netio"
)

// load is a set of connections that echo in lockstep: each round every connection
// writes pipe frames and then reads them. It allocates nothing per round.
type load struct {
	conns []net.Conn
	out   []byte
	in    []byte
}

func newLoad(b testing.TB, srv *Server, conns, pipe, body int) *load {
	l := &load{}
	for range pipe {
		l.out = codec.Packet{Main: 1, Sub: 1, Body: make([]byte, body)}.Append(l.out)
	}
	l.in = make([]byte, len(l.out))
	for range conns {
		c, err := net.Dial("tcp", srv.Addrs()[0].String())
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close() })
		l.conns = append(l.conns, c)
	}
	return l
}

func (l *load) round(b testing.TB) {
	for _, c := range l.conns {
		if _, err := c.Write(l.out); err != nil {
			b.Fatal(err)
		}
	}
	for _, c := range l.conns {
		if _, err := io.ReadFull(c, l.in); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkEcho is the hot path over real loopback sockets, client included; one op is
// one frame there and back.
func BenchmarkEcho(b *testing.B) {
	for _, d := range dispatches {
		for _, shape := range []struct{ conns, pipe, body int }{{1, 1, 64}, {64, 1, 64}, {1, 16, 64}, {64, 16, 64}, {16, 8, 4096}} {
			b.Run(fmt.Sprintf("dispatch=%v/conns=%d/pipe=%d/body=%d", d, shape.conns, shape.pipe, shape.body), func(b *testing.B) {
				srv := serve(b, Config{Dispatch: d}, &funcs{read: echo})
				l := newLoad(b, srv, shape.conns, shape.pipe, shape.body)
				for range 200 { // also what adaptive dispatch learns
					l.round(b)
				}
				frames := shape.conns * shape.pipe
				rounds := max(1, b.N/frames)
				var before, after runtime.MemStats
				runtime.ReadMemStats(&before)
				b.ReportAllocs()
				b.ResetTimer()
				for range rounds {
					l.round(b)
				}
				b.StopTimer()
				runtime.ReadMemStats(&after)
				n := float64(rounds * frames)
				b.ReportMetric(float64(after.Mallocs-before.Mallocs)/n, "allocs/frame")
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/n, "ns/frame")
			})
		}
	}
}

// BenchmarkStrand is the path of a packet over the pool without a socket: post, run,
// reply, flush, on a wire that takes everything.
func BenchmarkStrand(b *testing.B) {
	for _, pipe := range []int{1, 16} {
		b.Run(fmt.Sprintf("pipe=%d", pipe), func(b *testing.B) {
			srv, s, w := loose(b, &funcs{read: echo})
			var frames []byte
			for range pipe {
				frames = codec.Packet{Main: 1, Sub: 1, Body: make([]byte, 64)}.Append(frames)
			}
			b.ReportAllocs()
			for b.Loop() {
				want := w.wrote + len(frames)
				s.loop.queue(s, frames, nil)
				for w.wrote < want {
					srv.turnAll()
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*pipe), "ns/frame")
		})
	}
}

// BenchmarkSend is one Send onto a session's stage, and a flush for each 32.
func BenchmarkSend(b *testing.B) {
	srv, s, _ := loose(b, &funcs{})
	body := make([]byte, 64)
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		if err := s.Send(1, 1, body); err != nil {
			b.Fatal(err)
		}
		if n++; n%32 == 0 {
			srv.turnAll()
		}
	}
}

// BenchmarkLookup finds a session by its ID.
func BenchmarkLookup(b *testing.B) {
	t := newTable(10_000)
	var ids []ID
	for range 10_000 {
		s := &Session{}
		t.acquire(s)
		ids = append(ids, s.id)
	}
	i := 0
	for b.Loop() {
		if t.lookup(ids[i]) == nil {
			b.Fatal("lost")
		}
		if i++; i == len(ids) {
			i = 0
		}
	}
}

// BenchmarkPoolSubmit is a function's way through the pool.
func BenchmarkPoolSubmit(b *testing.B) {
	p, _ := NewPool(PoolConfig{})
	p.Start(context.Background())
	defer p.Stop(context.Background())
	done := make(chan struct{})
	fn := func() { done <- struct{}{} }
	b.ReportAllocs()
	for b.Loop() {
		if err := p.Submit(fn); err != nil {
			b.Fatal(err)
		}
		<-done
	}
}

// takesAll is a wire that takes everything.
type takesAll struct {
	wrote int
}

func (w *takesAll) Write(p []byte) (int, error)           { w.wrote += len(p); return len(p), nil }
func (w *takesAll) NotifyWritable(uint64) error           { return nil }
func (w *takesAll) PauseReading(bool) bool                { return true }
func (w *takesAll) CloseWrite()                           {}
func (w *takesAll) Unread() int                           { return 0 }
func (w *takesAll) Unacked() int                          { return 0 }
func (w *takesAll) LocalAddr() net.Addr                   { return nil }
func (w *takesAll) SyscallConn() (syscall.RawConn, error) { return nil, net.ErrClosed }
func (w *takesAll) ReadRest(func([]byte)) bool            { return true }
func (w *takesAll) Detach() bool                          { return true }
func (w *takesAll) Close()                                {}
func (w *takesAll) Acks() netio.Acks                      { return netio.Acks{} }
func (w *takesAll) Abort()                                {}
func (w *takesAll) RemoteAddr() net.Addr                  { return nil }

// handExec runs a loop's turns when the test says so.
type handExec struct{}

func (handExec) Execute() error                                          { return nil }
func (handExec) Kind() netio.LoopKind                                    { return netio.LoopAccepts }
func (handExec) Idle() bool                                              { return false }
func (handExec) StandIn(netio.Conn, iter.Seq[netio.Conn]) (func(), bool) { return nil, false }

func (srv *Server) turnAll() {
	for _, l := range *srv.loops.Load() {
		l.mu.Lock()
		due := l.armed
		l.mu.Unlock()
		if due {
			l.Turn()
		}
	}
	runtime.Gosched()
}

// loose makes a server without sockets: one loop that the test turns by hand, one
// session on a takesAll.
func loose(b testing.TB, h Handler) (*Server, *Session, *takesAll) {
	srv, err := New(Config{Addrs: []string{"tcp://127.0.0.1:0"}, Dispatch: Ordered, Logger: quiet}, h)
	if err != nil {
		b.Fatal(err)
	}
	srv.table = newTable(16)
	srv.serving.Store(true)
	srv.pool.Start(context.Background())
	b.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		srv.pool.Stop(ctx)
	})
	l := srv.addLoop(handExec{})
	w := &takesAll{}
	s := &Session{srv: srv, loop: l, conn: w}
	srv.table.acquire(s)
	l.accept(s)
	return srv, s, w
}

// BenchmarkInlineTurn is what a loop does with one read of 32 frames: decode, call,
// stage, flush, on a wire that takes everything.
func BenchmarkInlineTurn(b *testing.B) {
	for _, d := range []Dispatch{Inline, Adaptive} {
		b.Run(d.String(), func(b *testing.B) {
			srv, s, _ := loose(b, &funcs{read: echo})
			srv.cfg.Dispatch, s.loop.mode = d, dispatch.Mode(d)
			if d == Adaptive {
				srv.handles.learns, srv.handles.timed = true, true
				for range 8 {
					srv.handles.table.Learn(1<<16|1, 0)
				}
			}
			waitFor(b, "the accept", s.in.Quiet)
			var frames []byte
			for range 32 {
				frames = codec.Packet{Main: 1, Sub: 1, Body: make([]byte, 64)}.Append(frames)
			}
			b.ReportAllocs()
			for b.Loop() {
				s.loop.received(s, frames)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*32), "ns/frame")
		})
	}
}

// BenchmarkGroupSend is a group's message to 1,000 members, on wires that take everything.
func BenchmarkGroupSend(b *testing.B) {
	for _, size := range []int{64, 4096} {
		b.Run(fmt.Sprintf("body=%d", size), func(b *testing.B) {
			const members = 1000
			srv, s, _ := loose(b, &funcs{})
			srv.table = newTable(members + 1)
			g := srv.Group("g")
			for range members {
				m := &Session{srv: srv, loop: s.loop, conn: &takesAll{}}
				s.loop.accept(m)
				if _, err := g.Join(m); err != nil {
					b.Fatal(err)
				}
				waitFor(b, "the accept", m.in.Quiet)
			}
			body := make([]byte, size)
			b.ReportAllocs()
			for b.Loop() {
				if n, err := g.Send(1, 1, body); n != members || err != nil {
					b.Fatal(n, err)
				}
				for s.loop.out.Queued.Load() > 0 {
					s.loop.Turn()
					for len(srv.rearm) > 0 {
						<-srv.rearm
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*members), "ns/delivery")
		})
	}
}
