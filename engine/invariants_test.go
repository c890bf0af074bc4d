package engine

import (
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// Invariant 6: with every worker stuck and the pool's queue full, loops go on: they
// accept, read, answer what is inline and PINGs, hand out broadcasts and close.
func TestLoopsDoNotWaitForThePool(t *testing.T) {
	gate := make(chan bool)
	srv := serve(t, Config{Dispatch: Inline, Workers: 1, SpareWorkers: Off, MaxQueue: 4, Timeouts: Timeouts{Linger: 50 * time.Millisecond}, Handles: map[uint32]Dispatch{1<<16 | 4: Ordered}},
		&funcs{read: func(s *Session, p codec.Packet) {
			if p.Sub == 4 {
				<-gate
			}
			echo(s, p)
		}})
	stuck := dial(t, srv)
	stuck.send(1, 4, "")
	waitFor(t, "the worker to be stuck", func() bool { st := srv.Pool().Stats(); return st.Idle == 0 && st.Sessions == 0 })
	var full error
	for range 10 {
		if err := srv.Pool().Submit(func() {}); err != nil {
			full = err
		}
	}
	if !errors.Is(full, ErrOverloaded) {
		t.Errorf("got %v, want ErrOverloaded", full)
	}
	began := time.Now()
	for range 20 {
		c := dial(t, srv)
		c.send(1, 1, "x")
		c.expect(1, 1, "x")
		if err := srv.Broadcast(2, 2, []byte("all")); err != nil {
			t.Fatal(err)
		}
		c.expect(2, 2, "all")
		stuck.expect(2, 2, "all")
		stuck.send(0, SubPing, "there?")
		stuck.expect(0, SubPong, "there?")
		c.Close()
	}
	if took := time.Since(began); took > 20*time.Second { // a loop that waits does so until gate is closed
		t.Errorf("20 rounds took %v", took)
	}
	for range 5 { // the other way round: a worker's callbacks while a loop is at work
		stuck.send(1, 1, "waits")
	}
	close(gate)
	stuck.expect(1, 4, "")
	for range 5 {
		stuck.expect(1, 1, "waits")
	}
}

// Invariants 4 and 5: while sessions come and go, each gets every broadcast from its own
// first one on, none twice and none missing, though others are moved into the places of
// those that leave. The race detector watches the loops' lists.
func TestBroadcastsMissNobodyUnderChurn(t *testing.T) {
	for _, mode := range dispatches {
		t.Run(mode.String(), func(t *testing.T) {
			srv := serve(t, Config{Dispatch: mode, Limits: Limits{MaxConns: 300}, DrainBudget: 3, Timeouts: Timeouts{Linger: 20 * time.Millisecond}}, &funcs{read: echo})
			stop := make(chan bool)
			var busy, clients sync.WaitGroup
			busy.Add(2)
			go func() {
				defer busy.Done()
				for n := uint64(0); ; n++ {
					select {
					case <-stop:
						return
					default:
					}
					if err := srv.Broadcast(2, 2, binary.BigEndian.AppendUint64(nil, n)); err != nil {
						t.Error(err)
					}
					if n%8 == 0 {
						time.Sleep(200 * time.Microsecond)
					}
				}
			}()
			go func() { // others look and send all the while
				defer busy.Done()
				for {
					select {
					case <-stop:
						return
					case <-time.After(100 * time.Microsecond):
					}
					srv.Stats()
					srv.Sessions(func(s *Session) bool {
						s.Send(3, 3, nil)
						s.Stats()
						return true
					})
				}
			}()
			var got atomic.Int64
			for i := range 60 {
				clients.Add(1)
				go func() {
					defer clients.Done()
					for round := range 4 {
						c := dial(t, srv)
						c.send(1, 1, "x")
						last := int64(-1)
						for n := 0; n < 20+i; {
							p, err := c.read()
							if err != nil {
								t.Error(err)
								return
							}
							if p.Main != 2 {
								continue
							}
							seq := int64(binary.BigEndian.Uint64(p.Body))
							if last >= 0 && seq != last+1 {
								t.Errorf("broadcast %d after %d", seq, last)
								return
							}
							last = seq
							n++
							got.Add(1)
						}
						if round%2 == i%2 {
							c.Conn.(*net.TCPConn).SetLinger(0)
						}
						c.Close()
					}
				}()
			}
			clients.Wait()
			close(stop)
			busy.Wait()
			t.Logf("%d broadcasts received", got.Load())
		})
	}
}

// Invariant 1: whatever wakes a strand, at most one goroutine runs it.
func TestOneStrandRunsOnOneGoroutine(t *testing.T) {
	for _, mode := range dispatches {
		t.Run(mode.String(), func(t *testing.T) {
			var inside, runs atomic.Int32
			visit := func() {
				if inside.Add(1) != 1 {
					t.Error("two at once")
				}
				for range 20 {
					_ = inside.Load()
				}
				runs.Add(1)
				inside.Add(-1)
			}
			d := newDesk(t, Config{Dispatch: mode, Limits: Limits{MaxOutbound: 2 << 10, MaxOutbox: 1 << 20, MaxTasks: 1 << 20}, Workers: 8}, &funcs{
				read: func(s *Session, p codec.Packet) {
					visit()
					s.Reply(p, p.Body) // it parks and is woken again and again
					if len(p.Body)%7 == 0 {
						s.Broadcast(2, 2, nil)
					}
				},
			})
			s, w := d.open(0)
			d.settleAll()
			stop := make(chan bool)
			var wg sync.WaitGroup
			var submitted atomic.Int32
			for range 2 {
				wg.Add(1)
				go func() {
					defer wg.Done()
					for {
						select {
						case <-stop:
							return
						default:
						}
						if s.Submit(visit) == nil {
							submitted.Add(1)
						}
						s.wakeStrand() // as the outbox would, at any time
						time.Sleep(10 * time.Microsecond)
					}
				}()
			}
			const n = 3000
			for i := range n {
				d.l.received(s, frame(1, 1, string(make([]byte, i%300))))
				w.give(i % 400)
				d.turns()
			}
			close(stop)
			wg.Wait()
			w.room = -1
			s.canWrite()
			d.settleAll()
			if got, want := runs.Load(), n+submitted.Load(); got != want {
				t.Errorf("%d runs, want %d", got, want)
			}
		})
	}
}
