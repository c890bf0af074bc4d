package engine

import (
	"encoding/binary"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine/internal/netio"
)

// A session can be found by anybody as soon as it has a slot: what others do to it then
// comes behind its OnSocketAccept, and its slot comes free.
func TestWhoeverFindsASessionEarlyFindsItWhole(t *testing.T) {
	for _, d := range dispatches {
		t.Run(d.String(), func(t *testing.T) {
			var accepts, closes atomic.Int64
			h := &funcs{
				accept: func(s *Session) { accepts.Add(1); s.SetValue(true) },
				close: func(s *Session, _ Reason) {
					closes.Add(1)
					if s.Value() == nil {
						t.Error("OnSocketClose before OnSocketAccept")
					}
				},
			}
			srv := serve(t, Config{Dispatch: d, Timeouts: Timeouts{Linger: 50 * time.Millisecond}, Limits: Limits{MaxConns: 64}}, h)
			stop := make(chan struct{})
			var hunters, wg sync.WaitGroup
			for range 2 {
				hunters.Add(1)
				go func() {
					defer hunters.Done()
					for {
						select {
						case <-stop:
							return
						case <-time.After(20 * time.Microsecond):
						}
						srv.Sessions(func(s *Session) bool {
							if time.Since(s.ConnectedAt()) > time.Hour {
								t.Error("a session without a time")
							}
							s.Submit(func() {
								if s.Value() == nil {
									t.Error("a submitted function before OnSocketAccept")
								}
							})
							s.Close()
							return true
						})
					}
				}()
			}
			const n = 400
			for range 4 {
				wg.Add(1)
				go func() {
					defer wg.Done()
					for range n / 4 {
						c, err := net.Dial("tcp", srv.Addrs()[0].String())
						if err != nil {
							t.Error(err)
							return
						}
						c.SetReadDeadline(time.Now().Add(time.Minute))
						if _, err := c.Read(make([]byte, 1)); err == nil {
							t.Error("got a byte")
						}
						c.Close()
					}
				}()
			}
			wg.Wait()
			waitFor(t, "every session to end", func() bool { return srv.table.count() == 0 })
			close(stop)
			hunters.Wait()
			if accepts.Load() != n || closes.Load() != n {
				t.Errorf("%d accepts, %d closes, want %d of each", accepts.Load(), closes.Load(), n)
			}
		})
	}
}

// A slot that is used again and again never brings its new client what was sent to an
// old one, by whatever handle the sender still has.
func TestLateSendsNeverReachTheNextClientOfASlot(t *testing.T) {
	n := 10_000
	if *long {
		n = 100_000
	}
	d := newDesk(t, Config{}, &funcs{})
	type old struct {
		s  *Session
		id ID
	}
	olds := make(chan old, 64)
	var wg sync.WaitGroup
	var late, stale atomic.Int64
	for range 2 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for o := range olds {
				body := binary.BigEndian.AppendUint64(nil, uint64(o.id))
				for _, err := range []error{d.Send(o.id, 1, 1, body), o.s.Send(1, 1, body), o.s.Push(1, 1, body),
					o.s.Submit(func() { o.s.Send(1, 1, body) }), d.CloseSocket(o.id)} {
					if late.Add(1); errors.Is(err, ErrClosed) {
						stale.Add(1)
					}
				}
			}
		}()
	}
	var index uint32
	for i := range n {
		s, w := d.open(-1)
		if i > 0 && s.Index() != index {
			t.Fatalf("slot %d after %d", s.Index(), index)
		}
		index = s.Index()
		s.Send(1, 1, binary.BigEndian.AppendUint64(nil, uint64(s.ID())))
		olds <- old{s, s.ID()} // while it is there, and long after
		if late.Add(1); d.Send(s.ID(), 1, 1, binary.BigEndian.AppendUint64(nil, uint64(s.ID()))) != nil {
			stale.Add(1) // the goroutines above have closed it already
		}
		d.turns()
		d.l.disconnected(s, netio.EndReset)
		for d.table.count() > 0 {
			d.turns()
			runtime.Gosched()
		}
		for b := w.got; len(b) > 0; {
			p, size, _, err := codec.Default().Decode(b)
			if err != nil || ID(binary.BigEndian.Uint64(p.Body)) != s.ID() {
				t.Fatalf("session %v got a frame for %v (%v)", s.ID(), p.Body, err)
			}
			b = b[size:]
		}
	}
	close(olds)
	wg.Wait()
	d.turns()
	if stale.Load() < late.Load()/2 || stale.Load() == late.Load() {
		t.Errorf("%d of %d late sends found nobody: both kinds are wanted", stale.Load(), late.Load())
	}
}

// The same over sockets: the first client asks for something slow and is cut off, the
// second gets its slot, and the answer finds nobody.
func TestSlowAnswerAfterAResetFindsNobody(t *testing.T) {
	gate := make(chan bool)
	var late sync.WaitGroup
	results := make(chan error, 100)
	srv := serve(t, Config{Limits: Limits{MaxConns: 1}}, &funcs{read: func(s *Session, p codec.Packet) {
		if p.Sub == 1 {
			echo(s, p)
			return
		}
		id := s.ID()
		late.Add(1)
		go func() {
			defer late.Done()
			<-gate
			results <- s.Server().Send(id, 6, 6, []byte("late"))
			results <- s.Send(6, 6, []byte("late"))
		}()
	}})
	n := 50
	var c *client
	for i := range n {
		for {
			c = dial(t, srv)
			c.Write(frame(1, 1, "x"))
			if p, err := c.read(); err == nil && p.Main == 1 {
				break
			}
			c.Close() // the slot is not free yet
		}
		if i == n-1 {
			break
		}
		c.send(1, 2, "")
		c.send(1, 1, "y")
		c.expect(1, 1, "y")
		c.Conn.(*net.TCPConn).SetLinger(0)
		c.Close()
	}
	before := srv.Stats().Stale
	close(gate)
	late.Wait()
	close(results)
	for err := range results {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("a late send: %v", err)
		}
	}
	if got := srv.Stats().Stale - before; got != uint64(2*(n-1)) {
		t.Errorf("%d counted as stale, want %d", got, 2*(n-1))
	}
	c.send(1, 1, "z")
	c.expect(1, 1, "z")
}

// Senders that never rest hold up nobody: another connection of their loop is answered,
// and they are refused.
func TestTightSendersStarveNobody(t *testing.T) {
	srv := serve(t, Config{Loops: 1, Limits: Limits{MaxOutbound: 64 << 10}, Socket: Socket{SocketSendBuffer: 16 << 10}}, &funcs{read: echo})
	sink := dial(t, srv)
	sink.send(1, 1, "x")
	sink.expect(1, 1, "x")
	var target *Session
	srv.Sessions(func(s *Session) bool { target = s; return false })
	go func() { // reads as fast as it can
		b := make([]byte, 64<<10)
		for {
			if _, err := sink.Read(b); err != nil {
				return
			}
		}
	}()
	c := dial(t, srv)
	c.send(1, 1, "x")
	c.expect(1, 1, "x")
	stop := make(chan struct{})
	var busy atomic.Int64
	var wg sync.WaitGroup
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			body := make([]byte, 100)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if err := target.Send(1, 1, body); errors.Is(err, ErrBusy) {
					busy.Add(1)
				} else if err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	const limit = 50 * time.Millisecond * slack
	worst, slow, n := time.Duration(0), 0, 0
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		began := time.Now()
		c.send(1, 1, "x")
		c.expect(1, 1, "x")
		took := time.Since(began)
		if worst, n = max(worst, took), n+1; took > limit {
			slow++
		}
	}
	close(stop)
	wg.Wait()
	if slow > n/5+1 || worst > 10*limit {
		t.Errorf("%d of %d echoes took more than %v, the slowest %v", slow, n, limit, worst)
	}
	if busy.Load() == 0 {
		t.Error("no sender was ever refused")
	}
	t.Logf("slowest echo %v, %d sends refused", worst, busy.Load())
}

// Sends of one goroutine arrive in their order, and a Close comes behind all of them,
// however many they are.
func TestManySendsThenCloseArriveInFull(t *testing.T) {
	for _, n := range []int{1, 1500, 20_000} {
		srv := serve(t, Config{Limits: Limits{MaxOutbound: 64 << 20}}, &funcs{read: func(s *Session, _ codec.Packet) {
			go func() {
				for i := range n {
					body := binary.BigEndian.AppendUint32(nil, uint32(i))
					var err error
					switch i % 3 {
					case 0:
						err = s.Send(1, 1, body)
					case 1:
						err = s.Push(1, 1, body)
					case 2:
						err = s.Server().Broadcast(1, 1, body)
					}
					if err != nil {
						t.Error(err)
					}
				}
				s.Close()
			}()
		}})
		c := dial(t, srv)
		c.send(1, 1, "")
		for i := range n {
			c.expect(1, 1, string(binary.BigEndian.AppendUint32(nil, uint32(i))))
		}
		c.expectEOF()
		c.Close()
	}
}

// A reset in the middle of a large answer: each session closes once, nothing panics and
// nothing stays counted (which serve checks at the end).
func TestResetsInTheMiddleOfAnswers(t *testing.T) {
	n := 200
	if *long {
		n = 2000
	}
	var opens, closes atomic.Int64
	srv := serve(t, Config{Limits: Limits{MaxConns: 1000}}, &funcs{
		accept: func(*Session) { opens.Add(1) },
		read: func(s *Session, p codec.Packet) {
			for range 4 {
				s.Reply(p, make([]byte, 60_000))
			}
		},
		close: func(*Session, Reason) { closes.Add(1) },
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := range n / 8 {
				c := dial(t, srv)
				c.send(1, 1, "")
				c.SetReadDeadline(time.Now().Add(5 * time.Second))
				if i%3 > 0 {
					c.Read(make([]byte, 1+i*100))
				}
				c.Conn.(*net.TCPConn).SetLinger(0)
				c.Close()
			}
		}()
	}
	wg.Wait()
	waitFor(t, "every session to end", func() bool { return srv.table.count() == 0 })
	if opens.Load() != closes.Load() {
		t.Errorf("%d opens, %d closes", opens.Load(), closes.Load())
	}
}
