package engine

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// plain is a Handler that knows nothing of a FIN.
type plain struct{ read func(*Session, codec.Packet) }

func (plain) OnSocketAccept(*Session)                   {}
func (h plain) OnSocketRead(s *Session, p codec.Packet) { h.read(s, p) }
func (plain) OnSocketClose(*Session, Reason)            {}
func half(c *client)                                    { c.Conn.(interface{ CloseWrite() error }).CloseWrite() }
func sessionOf(srv *Server) (found *Session) {
	srv.Sessions(func(s *Session) bool { found = s; return false })
	return
}
func netAddrs(t testing.TB) []string {
	return []string{"tcp://127.0.0.1:0", "unix://" + t.TempDir() + "/s"}
}

// What came before a FIN is answered in full, whether the handler answers at once, on a
// worker, or later from elsewhere; then comes the server's FIN.
func TestHalfCloseIsAnsweredInFull(t *testing.T) {
	for _, mode := range dispatches {
		for _, a := range netAddrs(t) {
			t.Run(mode.String()+" "+a[:4], func(t *testing.T) {
				srv := serve(t, Config{Dispatch: mode, Addrs: []string{a}, Limits: Limits{MaxConns: 200, MaxOutbound: 64 << 10}, Socket: Socket{SocketSendBuffer: 16 << 10}, Handles: map[uint32]Dispatch{1<<16 | 4: Ordered}},
					plain{func(s *Session, p codec.Packet) {
						switch p.Sub {
						case 3: // later, from elsewhere
							p = p.Clone()
							release := s.Hold()
							time.AfterFunc(5*time.Millisecond, func() { // in the session's order, where it is not refused
								if err := s.Submit(func() {
									s.Reply(p, p.Body)
									release()
								}); err != nil {
									t.Error(err)
								}
							})
						case 4:
							time.Sleep(time.Millisecond)
							s.Reply(p, p.Body)
						default:
							s.Reply(p, p.Body)
						}
					}})
				for _, sub := range []uint16{1, 3, 4} {
					for _, n := range []int{1, 50} {
						for _, size := range []int{0, 20_000} {
							c := dial(t, srv)
							go func() {
								var b []byte
								for range n {
									b = codec.Packet{Main: 1, Sub: sub, Body: bytes.Repeat([]byte{7}, size)}.Append(b)
								}
								c.Write(b)
								half(c)
							}()
							if size > 0 {
								time.Sleep(2 * time.Millisecond) // unread for a while
							}
							for i := range n {
								if p, err := c.read(); err != nil || p.Sub != sub || len(p.Body) != size {
									t.Fatalf("sub %d: answer %d of %d: %v, %d bytes", sub, i, n, err, len(p.Body))
								}
							}
							c.expectEOF()
							c.Close()
						}
					}
				}
				waitFor(t, "every session to end", func() bool { return srv.table.count() == 0 })
				if st := srv.Stats(); st.Closes[ReasonPeerClosed] != 12 || st.LostBytes != 0 || st.Dropped != 0 {
					t.Errorf("closes %v, %d bytes lost, %d frames dropped", st.Closes, st.LostBytes, st.Dropped)
				}
			})
		}
	}
}

// A peer that closes while its reading is paused is still answered as far as it can be:
// what the kernel had of it is handled. Nothing is left behind.
func TestPeerThatClosesWhilePausedIsReadToTheEnd(t *testing.T) {
	for _, a := range netAddrs(t) {
		t.Run(a[:4], func(t *testing.T) {
			var bytesIn atomic.Int64
			gate := make(chan bool)
			srv := serve(t, Config{Addrs: []string{a}, Limits: Limits{MaxConns: 10, MaxPending: 32 << 10}, Dispatch: Ordered}, plain{func(s *Session, p codec.Packet) {
				<-gate
				bytesIn.Add(int64(len(p.Body)))
			}})
			c := dial(t, srv)
			b := bytes.Repeat(frame(1, 1, strings.Repeat("x", 992)), 100)
			if _, err := c.Write(b); err != nil { // about 100 KB: it fits the kernel's buffers
				t.Fatal(err)
			}
			waitFor(t, "reading to pause", func() bool { return pauses(srv) > 0 })
			c.Close()
			time.Sleep(10 * time.Millisecond)
			close(gate)
			waitFor(t, "the session to end", func() bool { return srv.table.count() == 0 })
			if got := bytesIn.Load(); got != 99_200 {
				t.Errorf("%d bytes handled, want 99200", got)
			}
			if st := srv.Stats(); st.Closes[ReasonPeerClosed] != 1 {
				t.Errorf("closes %v", st.Closes)
			}
		})
	}
}

// Close, from wherever: what was sent before arrives, then the end; sends behind it are
// refused, no callback but OnSocketClose comes behind it.
func TestCloseFromAnywhere(t *testing.T) {
	for _, mode := range dispatches {
		for _, from := range []string{"accept", "read", "submit", "elsewhere", "server"} {
			t.Run(mode.String()+" "+from, func(t *testing.T) {
				var closed atomic.Bool
				reasons := make(chan Reason, 2)
				sendAndClose := func(s *Session) {
					for i := range 100 {
						s.Send(1, uint16(i), bytes.Repeat([]byte{byte(i)}, 3000))
					}
					closed.Store(true)
					if from == "server" {
						s.Server().CloseSocket(s.ID())
					} else {
						s.Close()
					}
					if err := s.Send(9, 9, nil); err != ErrClosed {
						t.Errorf("Send behind Close: %v", err)
					}
					if err := s.Close(); err != ErrClosed {
						t.Errorf("Close behind Close: %v", err)
					}
				}
				h := &funcs{
					accept: func(s *Session) {
						if from == "accept" {
							sendAndClose(s)
						}
					},
					read: func(s *Session, p codec.Packet) {
						if closed.Load() {
							t.Error("a read behind the close")
						}
						switch from {
						case "read":
							sendAndClose(s)
						case "submit":
							if p.Sub == 1 {
								s.Submit(func() { sendAndClose(s) })
								time.Sleep(time.Millisecond)
							}
						case "elsewhere", "server":
							done := make(chan bool)
							go func() { sendAndClose(s); close(done) }()
							<-done
						}
					},
					close: func(_ *Session, why Reason) { reasons <- why },
				}
				srv := serve(t, Config{Dispatch: mode, Timeouts: Timeouts{Linger: 100 * time.Millisecond}}, h)
				c := dial(t, srv)
				c.Write(frame(1, 1, ""))
				if from != "submit" {
					c.Write(frame(1, 2, ""))
				}
				for i := range 100 {
					if p, err := c.read(); err != nil || p.Sub != uint16(i) || len(p.Body) != 3000 || p.Body[2999] != byte(i) {
						t.Fatalf("frame %d: %v %v", i, p.Sub, err)
					}
				}
				c.expectEOF()
				c.Close()
				if why := <-reasons; why != ReasonServerClosed {
					t.Errorf("reason %v", why)
				}
				waitFor(t, "the slot to be free", func() bool { return srv.table.count() == 0 })
				if len(reasons) > 0 {
					t.Error("closed twice")
				}
			})
		}
	}
}

// The index of a session is given out again only when its OnSocketClose has returned.
func TestSlotWaitsForOnSocketClose(t *testing.T) {
	gate, inside := make(chan bool), make(chan bool, 10)
	srv := serve(t, Config{Limits: Limits{MaxConns: 1}, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: echo, close: func(*Session, Reason) { inside <- true; <-gate }})
	c := dial(t, srv)
	c.send(1, 1, "x")
	c.expect(1, 1, "x")
	c.Close()
	<-inside
	for range 3 {
		c := dial(t, srv)
		c.expectError(CodeLimit, 0)
		c.Close()
	}
	close(gate)
	waitFor(t, "the slot", func() bool { return srv.table.count() == 0 })
	c = dial(t, srv)
	c.send(1, 1, "y")
	c.expect(1, 1, "y")
}

// Groups end at the FIN, not only when the session is done.
func TestGroupsEndAtTheFin(t *testing.T) {
	hold := make(chan func(), 1)
	srv := serve(t, Config{}, plain{func(s *Session, p codec.Packet) {
		s.Server().Group("g").Join(s)
		hold <- s.Hold()
		echo(s, p)
	}})
	c := dial(t, srv)
	c.send(1, 1, "x")
	c.expect(1, 1, "x")
	s := sessionOf(srv)
	if n := srv.Group("g").Len(); n != 1 {
		t.Fatalf("%d members", n)
	}
	half(c)
	waitFor(t, "the group to be empty", func() bool { return srv.Group("g").Len() == 0 })
	if !s.Connected() {
		t.Fatal("closed while an answer is owed")
	}
	s.Send(1, 1, []byte("late"))
	(<-hold)()
	c.expect(1, 1, "late")
	c.expectEOF()
}

// Frames of every size, cut anywhere, over connections whose buffers are small.
func TestFramesOfEverySizeAndCut(t *testing.T) {
	for _, mode := range dispatches {
		t.Run(mode.String(), func(t *testing.T) {
			srv := serve(t, Config{Dispatch: mode, MaxFrame: 1 << 20, Socket: Socket{ReadBuffer: 4 << 10}, Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: echo})
			c := dial(t, srv)
			sizes := []int{0, 1, 4087, 4088, 4089, 4096, 8191, 8192, 65_535, 65_536, 300_000, 1<<20 - 4, 0, 5}
			var b []byte
			for i, n := range sizes {
				b = codec.Packet{Main: 1, Sub: uint16(i), Body: bytes.Repeat([]byte{byte(i + 1)}, n)}.Append(b)
			}
			go func() {
				for i, cut := 0, 1; i < len(b); cut = cut*7%9001 + 1 {
					n := min(cut, len(b)-i)
					c.Write(b[i : i+n])
					i += n
				}
			}()
			r := codec.NewReader(c, must(codec.New(codec.Layout{}, 1<<20)))
			c.SetDeadline(time.Now().Add(20 * time.Second))
			for i, n := range sizes {
				p, err := r.Next()
				if err != nil || p.Sub != uint16(i) || len(p.Body) != n || bytes.Count(p.Body, []byte{byte(i + 1)}) != n {
					t.Fatalf("frame %d: sub %d, %d bytes, %v", i, p.Sub, len(p.Body), err)
				}
			}
		})
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A session keeps nothing of a connection that has gone, and its methods stay safe.
func TestMethodsAfterTheEnd(t *testing.T) {
	srv := serve(t, Config{Timeouts: Timeouts{Linger: 50 * time.Millisecond}}, &funcs{read: echo})
	c := dial(t, srv)
	c.send(1, 1, "x")
	c.expect(1, 1, "x")
	s := sessionOf(srv)
	local := c.LocalAddr().String()
	c.Close()
	waitFor(t, "the end", func() bool { return srv.table.count() == 0 })
	if s.RemoteAddr().String() != local || s.Connected() || srv.Session(s.ID()) != nil || s.ConnectedAt().IsZero() ||
		!strings.Contains(fmt.Sprint(s), local) {
		t.Errorf("%v %v %v", s, s.Connected(), srv.Session(s.ID()))
	}
	if st := s.Stats(); st.FramesIn != 1 || st.FramesOut != 1 || st.BytesIn != 9 || st.BytesOut != 9 || st.Unsent != 0 || st.Pending != 0 {
		t.Errorf("%+v", st)
	}
	if _, err := srv.Group("g").Join(s); err != ErrClosed {
		t.Errorf("join: %v", err)
	}
	if f, err := os.Open("/dev/null"); err == nil { // the descriptor's number may be somebody else's by now
		defer f.Close()
		s.Send(1, 1, []byte("nobody"))
	}
}
