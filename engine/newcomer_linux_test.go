package engine

import (
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// A handle that was quick may wait, one day, for somebody who has still to connect: the
// default dispatch serves him whatever loops there are and whoever accepts.
func TestHandlersMayWaitForNewcomers(t *testing.T) {
	for _, loops := range []int{1, 2} {
		for _, where := range []string{"tcp", "single", "unix"} {
			t.Run(fmt.Sprint(where, " ", loops), func(t *testing.T) {
				cfg := Config{Loops: loops, Limits: Limits{MaxConns: 100}}
				switch where {
				case "single":
					cfg.Accept = AcceptSingle
				case "unix":
					cfg.Addrs = []string{"unix://" + t.TempDir() + "/s"}
				}
				var waits atomic.Bool
				came := make(chan bool, 100)
				srv := serve(t, cfg, &funcs{read: func(s *Session, p codec.Packet) {
					switch {
					case p.Sub == 2:
						came <- true
					case p.Sub == 1 && waits.Load():
						<-came
					}
					echo(s, p)
				}})
				dialOne := func() *client {
					c, err := dialAddr(t, srv.Addrs()[0])
					if err != nil {
						t.Fatal(err)
					}
					return c
				}
				first := dialOne()
				for range 20 {
					first.send(1, 1, "quick")
					first.expect(1, 1, "quick")
				}
				waits.Store(true)
				first.send(1, 1, "waits")
				time.Sleep(2 * standInAfter) // it holds its loop up, if it runs there
				var others []*client
				for range 8 { // wherever they go
					c := dialOne()
					c.send(1, 2, "here")
					c.expect(1, 2, "here")
					others = append(others, c)
				}
				first.expect(1, 1, "waits")
				for _, c := range others {
					c.send(1, 3, "still")
					c.expect(1, 3, "still")
				}
			})
		}
	}
}

// When the goroutines of all loops have been ended from inside callbacks, those who are
// there and those who come are served all the same.
func TestNewcomersWhenEveryLoopHasDied(t *testing.T) {
	srv := serve(t, Config{Loops: 1, Dispatch: Inline, Limits: Limits{MaxConns: 100}}, &funcs{read: func(s *Session, p codec.Packet) {
		if p.Sub == 9 {
			blowUp("goexit")
		}
		echo(s, p)
	}})
	old, last := dial(t, srv), dial(t, srv)
	old.send(1, 1, "x")
	old.expect(1, 1, "x")
	last.send(1, 9, "")
	for range 5 {
		c := dial(t, srv)
		c.send(1, 1, "new")
		c.expect(1, 1, "new")
	}
	old.send(1, 1, "y")
	old.expect(1, 1, "y")
}

// A handler that waits for its client's end hears of it in every dispatch.
func TestHandlersMayWaitForTheirClientsEnd(t *testing.T) {
	for _, mode := range dispatches {
		for _, how := range []string{"fin", "reset"} {
			t.Run(mode.String()+" "+how, func(t *testing.T) {
				closed := make(chan Reason, 1)
				srv := serve(t, Config{Loops: 1, Dispatch: mode}, &funcs{
					read: func(s *Session, p codec.Packet) {
						if p.Sub == 2 {
							<-s.InputContext().Done()
						}
						echo(s, p)
					},
					close: func(_ *Session, why Reason) { closed <- why },
				})
				if mode == Adaptive {
					srv.SetDispatch(1<<16|2, Inline)
				}
				c := dial(t, srv)
				c.send(1, 2, "waits")
				time.Sleep(3 * standInAfter) // until it does
				if how == "fin" {
					half(c)
					c.expect(1, 2, "waits")
					c.expectEOF()
				} else {
					c.Conn.(*net.TCPConn).SetLinger(0)
					c.Close()
				}
				select {
				case <-closed:
				case <-time.After(time.Minute):
					t.Fatal("the handler waits for ever")
				}
			})
		}
	}
}
