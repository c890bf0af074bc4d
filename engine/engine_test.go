package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"millrace/codec"
)

func TestMain(m *testing.M) {
	if name := os.Getenv(childEnv); name != "" {
		runChild(name)
	}
	goleak.VerifyTestMain(m,
		// gnet keeps one ants pool for the life of the process
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).purgeStaleWorkers"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*poolCommon).ticktock"),
		goleak.IgnoreAnyFunction("github.com/panjf2000/ants/v2.(*goWorker).run.func1"),
	)
}

// funcs is a Handler of functions; a nil one does nothing.
type funcs struct {
	accept func(*Session)
	read   func(*Session, codec.Packet)
	close  func(*Session, Reason)
	fin    func(*Session)
}

func (f *funcs) OnSocketAccept(s *Session) {
	if f.accept != nil {
		f.accept(s)
	}
}
func (f *funcs) OnSocketRead(s *Session, p codec.Packet) {
	if f.read != nil {
		f.read(s, p)
	}
}
func (f *funcs) OnSocketClose(s *Session, why Reason) {
	if f.close != nil {
		f.close(s, why)
	}
}
func (f *funcs) OnSocketFin(s *Session) {
	if f.fin != nil {
		f.fin(s)
	}
}

func echo(s *Session, p codec.Packet) { s.Reply(p, p.Body) }

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// serve starts a server for the test and stops it at its end.
func serve(t testing.TB, cfg Config, h Handler) *Server {
	t.Helper()
	if len(cfg.Addrs) == 0 {
		cfg.Addrs = []string{"tcp://127.0.0.1:0"}
	}
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	srv, err := New(cfg, h)
	if err != nil {
		t.Fatal(err)
	}
	if err := srv.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		srv.Stop(ctx)
		if n := srv.table.count(); n != 0 {
			t.Errorf("%d sessions left after Stop", n)
		}
		if n := unaccounted(srv); n != 0 {
			t.Errorf("%d bytes still counted against the budget after Stop", n)
		}
		for _, l := range *srv.loops.Load() {
			if n := l.out.Queued.Load(); n != 0 {
				t.Errorf("loop %d: %d bytes still counted in the outbox after Stop", l.index, n)
			}
		}
	})
	return srv
}

// unaccounted is how much is counted against the memory budget beyond what the empty logs
// of broadcasts keep.
func unaccounted(srv *Server) int {
	n := srv.budget.Used()
	if kept := len(srv.allLoops()) * emptyLog; n > 0 && srv.casts.Load() > 0 {
		return max(0, n-kept)
	}
	return n
}

// emptyLog is how much memory the empty log of a loop keeps at most, in bytes.
const emptyLog = 64 << 10

// client is a blocking frame client.
type client struct {
	net.Conn
	t testing.TB
	r *codec.Reader
}

func dial(t testing.TB, srv *Server) *client {
	t.Helper()
	c, err := dialAddr(t, srv.Addrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func dialAddr(t testing.TB, a net.Addr) (*client, error) {
	nc, err := net.DialTimeout(a.Network(), a.String(), time.Minute)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { nc.Close() })
	return &client{Conn: nc, t: t, r: codec.NewReader(nc, nil)}, nil
}

func (c *client) send(main, sub uint16, body string) {
	c.t.Helper()
	if _, err := c.Write(codec.Packet{Main: main, Sub: sub, Body: []byte(body)}.Append(nil)); err != nil {
		c.t.Fatal(err)
	}
}

func (c *client) read() (codec.Packet, error) {
	c.SetReadDeadline(time.Now().Add(time.Minute))
	return c.r.Next()
}

func (c *client) expect(main, sub uint16, body string) {
	c.t.Helper()
	p, err := c.read()
	if err != nil {
		c.t.Fatalf("got %v, want %d/%d %q", err, main, sub, body)
	}
	if p.Main != main || p.Sub != sub || string(p.Body) != body {
		c.t.Fatalf("got %d/%d %.80q, want %d/%d %.80q", p.Main, p.Sub, p.Body, main, sub, body)
	}
}

func (c *client) expectError(code ErrorCode, handle uint32) {
	c.t.Helper()
	p, err := c.read()
	if err != nil {
		c.t.Fatalf("got %v, want ERROR %v", err, code)
	}
	if p.Main != 0 || p.Sub != SubError || len(p.Body) < 6 {
		c.t.Fatalf("got %d/%d %q, want ERROR %v", p.Main, p.Sub, p.Body, code)
	}
	if got := ErrorCode(binary.BigEndian.Uint16(p.Body)); got != code {
		c.t.Fatalf("got ERROR %v (%s), want %v", got, p.Body[6:], code)
	}
	if got := binary.BigEndian.Uint32(p.Body[2:]); got != handle {
		c.t.Fatalf("got ERROR about %#x, want about %#x", got, handle)
	}
}

func (c *client) expectEOF() {
	c.t.Helper()
	if p, err := c.read(); err != io.EOF {
		c.t.Fatalf("got %v %v, want EOF", p, err)
	}
}

func waitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited a minute for %s", what)
		}
	}
}

var dispatches = []Dispatch{Adaptive, Ordered, Inline}

func TestEchoInEveryDispatchOverEveryNetwork(t *testing.T) {
	for _, d := range dispatches {
		for _, a := range []string{"tcp://127.0.0.1:0", "tcp://[::1]:0", "tcp://:0", "tcp4://127.0.0.1:0", "unix://" + t.TempDir() + "/s"} {
			t.Run(d.String()+" "+a[:6], func(t *testing.T) {
				srv := serve(t, Config{Dispatch: d, Addrs: []string{a}}, &funcs{read: echo})
				c := dial(t, srv)
				for range 50 {
					c.send(1, 1, "hello")
					c.send(1, 1, "")
					c.expect(1, 1, "hello")
					c.expect(1, 1, "")
				}
				c.send(0, 1, "ping")
				c.expect(0, 2, "ping")
			})
		}
	}
}

func TestSeveralAddressesAndAcceptModes(t *testing.T) {
	for _, accept := range []AcceptMode{AcceptReusePort, AcceptSingle} {
		for _, b := range []Balance{RoundRobin, LeastConnections, SourceHash} {
			cfg := Config{Accept: accept, Balance: b, Limits: Limits{MaxConns: 100}, Addrs: []string{"tcp://127.0.0.1:0", "tcp://127.0.0.1:0", "unix://" + t.TempDir() + "/s"}}
			srv := serve(t, cfg, &funcs{read: echo})
			for _, a := range srv.Addrs() {
				for range 4 {
					c, err := dialAddr(t, a)
					if err != nil {
						t.Fatal(err)
					}
					c.send(1, 1, "x")
					c.expect(1, 1, "x")
				}
			}
		}
	}
}

func TestAcceptReadsCloseComeInOrderAndOnce(t *testing.T) {
	for _, d := range dispatches {
		t.Run(d.String(), func(t *testing.T) {
			type state struct {
				opened, closed atomic.Int32
				reads          int
				inside         atomic.Int32
			}
			var all sync.Map
			enter := func(s *Session) *state {
				v, _ := all.LoadOrStore(s.ID(), &state{})
				st := v.(*state)
				if st.inside.Add(1) != 1 {
					t.Error("two callbacks of one session at once")
				}
				return st
			}
			h := &funcs{
				accept: func(s *Session) {
					st := enter(s)
					defer st.inside.Add(-1)
					if st.opened.Add(1) != 1 || st.reads != 0 || st.closed.Load() != 0 {
						t.Error("accept is not the first call")
					}
				},
				read: func(s *Session, p codec.Packet) {
					st := enter(s)
					defer st.inside.Add(-1)
					if st.opened.Load() != 1 || st.closed.Load() != 0 {
						t.Error("a read before accept or after close")
					}
					if got := int(binary.BigEndian.Uint32(p.Body)); got != st.reads {
						t.Errorf("read %d, want %d", got, st.reads)
					}
					st.reads++
					s.Reply(p, p.Body)
				},
				close: func(s *Session, _ Reason) {
					st := enter(s)
					defer st.inside.Add(-1)
					if st.opened.Load() != 1 || st.closed.Add(1) != 1 {
						t.Error("close without accept, or twice")
					}
				},
			}
			srv := serve(t, Config{Dispatch: d}, h)
			var wg sync.WaitGroup
			for range 20 {
				wg.Add(1)
				go func() {
					defer wg.Done()
					for range 5 {
						c := dial(t, srv)
						for i := range 300 {
							c.Write(codec.Packet{Main: 1, Sub: 1, Body: binary.BigEndian.AppendUint32(nil, uint32(i))}.Append(nil))
						}
						for i := range 300 {
							p, err := c.read()
							if err != nil || binary.BigEndian.Uint32(p.Body) != uint32(i) {
								t.Errorf("reply %d: got %v, %v", i, p, err)
								return
							}
						}
						c.Close()
					}
				}()
			}
			wg.Wait()
			waitFor(t, "every session to end", func() bool { return srv.table.count() == 0 })
			n := 0
			all.Range(func(_, v any) bool {
				n++
				if st := v.(*state); st.opened.Load() != 1 || st.closed.Load() != 1 {
					t.Errorf("opened %d, closed %d times", st.opened.Load(), st.closed.Load())
				}
				return true
			})
			if n != 100 {
				t.Errorf("%d sessions, want 100", n)
			}
		})
	}
}

func TestFinIsAnsweredInFull(t *testing.T) {
	for _, d := range dispatches {
		t.Run(d.String(), func(t *testing.T) {
			h := &funcs{read: func(s *Session, p codec.Packet) {
				if p.Sub == 4 {
					time.Sleep(50 * time.Millisecond)
				}
				echo(s, p)
			}}
			srv := serve(t, Config{Dispatch: d, Handles: map[uint32]Dispatch{1<<16 | 4: Ordered}}, h)
			c := dial(t, srv)
			c.send(1, 1, "a")
			c.send(1, 4, "b")
			c.send(1, 1, "c")
			c.Conn.(*net.TCPConn).CloseWrite()
			c.expect(1, 1, "a")
			c.expect(1, 4, "b")
			c.expect(1, 1, "c")
			c.expectEOF()
			waitFor(t, "the session to end", func() bool { return srv.table.count() == 0 })
			if got := srv.Stats().Closes[ReasonPeerClosed]; got != 1 {
				t.Errorf("closes: %v", srv.Stats().Closes)
			}
		})
	}
}

func TestBadLengthIsRefusedBehindWhatCameBefore(t *testing.T) {
	for _, d := range dispatches {
		for _, n := range []uint32{0, 1, 3, 65537, 1 << 31, 1<<32 - 1} {
			srv := serve(t, Config{Dispatch: d}, &funcs{read: echo})
			c := dial(t, srv)
			b := codec.Packet{Main: 1, Sub: 1, Body: []byte("before")}.Append(nil)
			b = binary.BigEndian.AppendUint32(b, n)
			c.Write(append(b, make([]byte, 1000)...))
			c.expect(1, 1, "before")
			c.expectError(CodeBadFrame, 0)
			c.expectEOF()
			if got := srv.Stats().Closes[ReasonBadFrame]; got != 1 {
				t.Errorf("%v, length %d: closes %v", d, n, srv.Stats().Closes)
			}
		}
	}
}

func TestSendsToWhatHasGone(t *testing.T) {
	srv := serve(t, Config{}, &funcs{read: echo})
	c := dial(t, srv)
	c.send(1, 1, "x")
	c.expect(1, 1, "x")
	var s *Session
	srv.Sessions(func(x *Session) bool { s = x; return false })
	c.Close()
	waitFor(t, "the session to end", func() bool { return srv.table.count() == 0 })
	for name, err := range map[string]error{
		"Session.Send":       s.Send(1, 1, nil),
		"Server.Send":        srv.Send(s.ID(), 1, 1, nil),
		"Session.Submit":     s.Submit(func() { t.Error("ran") }),
		"Session.Close":      s.Close(),
		"Server.CloseSocket": srv.CloseSocket(s.ID()),
	} {
		if !errors.Is(err, ErrClosed) || !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s: got %v, want ErrClosed", name, err)
		}
	}
}
