package engine

import (
	"context"
	"errors"
	"testing"
	"time"

	"millrace/codec"
)

// Stop waits for the hooks, so from one of them it would wait for itself: ErrInCallback, on
// whichever goroutine it is called.
func TestStopFromAHook(t *testing.T) {
	for _, from := range []string{"OnNearMiss", "OnFlight", "OnStall on a worker", "OnStall on a loop"} {
		t.Run(from, func(t *testing.T) {
			answers := make(chan error, 100)
			stop := func(s *Server) { answers <- s.Stop(context.Background()) }
			var srv *Server
			ready := make(chan bool)
			hook := func() { <-ready; stop(srv) }
			cfg := Config{Dispatch: Ordered, Recorder: RecorderErrors, Limits: Limits{MaxGroups: 10}}
			switch from {
			case "OnNearMiss":
				cfg.OnNearMiss = func(NearMiss) { hook() }
			case "OnFlight":
				cfg.OnFlight = func(Flight) { hook() }
			case "OnStall on a loop":
				cfg.Dispatch = Inline
				fallthrough
			default:
				cfg.StallAfter = 20 * time.Millisecond
				cfg.OnStall = func(Stall) { hook() }
			}
			end := make(chan bool)
			srv = serve(t, cfg, &funcs{read: func(s *Session, p codec.Packet) {
				switch from {
				case "OnNearMiss":
					for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
						_, _ = s.Server().Group(name).Join(s)
					}
				case "OnFlight":
					panic("on purpose")
				default:
					<-end
				}
			}})
			close(ready)
			dial(t, srv).send(1, 1, "")
			select {
			case err := <-answers:
				if !errors.Is(err, ErrInCallback) || srv.Draining() {
					t.Errorf("got %v, draining: %v", err, srv.Draining())
				}
			case <-time.After(20 * time.Second):
				t.Error("Stop waits for itself")
			}
			close(end)
		})
	}
}
