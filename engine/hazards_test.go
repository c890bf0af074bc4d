package engine

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
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
			srv := serve(t, Config{Dispatch: d, Linger: 50 * time.Millisecond, MaxConns: 64}, h)
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
						c.SetReadDeadline(time.Now().Add(10 * time.Second))
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
