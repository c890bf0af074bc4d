package services_test

import (
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
)

// Requests are counted by handle, with how they ended and how long they took; those of
// services that peers can't ask for are not, and without Measure nothing is.
func TestHandlesAreMeasured(t *testing.T) {
	for _, on := range []bool{true, false} {
		r := serve(t, func(cc *services.ControllerConfig, _ *engine.Config) { cc.Measure = on }, func(c *services.Controller) {
			slow := func(ctx *services.Context, _ *services.None, _ *services.None) error {
				time.Sleep(20 * time.Millisecond)
				return nil
			}
			fail := func(ctx *services.Context, _ *services.None, _ *services.None) error {
				return services.Errorf(engine.CodeConflict, "no")
			}
			for _, err := range []error{
				c.Raw(services.Handle(1, 1), func(s *engine.Session, p codec.Packet) error { return s.Reply(p, p.Body) }, services.Name("echo")),
				c.Raw(services.Handle(1, 2), func(s *engine.Session, p codec.Packet) error { return services.Errorf(engine.CodeLimit, "no") }),
				services.Register(c, services.Handle(1, 3), services.Stages[services.None, services.None]{Handle: slow}, services.Blocking()),
				services.Register(c, services.Handle(1, 4), services.Stages[services.None, services.None]{Handle: fail}),
				services.Register(c, services.Handle(1, 5), services.Stages[services.None, services.None]{Handle: fail}, services.Internal()),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
		})
		c := r.dial(nil)
		const n = 300
		for range n {
			if _, err := c.Do(limited(t), services.Handle(1, 1), []byte("x")); err != nil {
				t.Fatal(err)
			}
		}
		for sub := range uint16(3) {
			_, _ = c.Do(limited(t), services.Handle(1, sub+2), nil)
		}
		_, _ = c.Do(limited(t), services.Handle(1, 5), nil)
		all := r.c.HandleStats()
		if len(all) != 4 {
			t.Fatalf("%d handles, want the 4 that can be asked for", len(all))
		}
		want := map[uint32]uint64{1: n, 2: 1, 3: 1, 4: 1}
		for i, h := range all {
			sub := h.Handle & 0xffff
			if h.Handle != services.Handle(1, uint16(i+1)) || h.Blocking != (sub == 3) || (h.Name == "echo") != (sub == 1) {
				t.Errorf("place %d: %x %q", i, h.Handle, h.Name)
			}
			if !on {
				if h.Requests != 0 || h.Time.Count() != 0 || len(h.Errors) != 0 {
					t.Errorf("1/%d is measured", sub)
				}
				continue
			}
			if h.Requests != want[sub] || h.Time.Count() > h.Requests || h.Time.Count() < min(h.Requests, 64) {
				t.Errorf("1/%d: %d requests of which %d timed, want %d", sub, h.Requests, h.Time.Count(), want[sub])
			}
			if sub == 3 && h.Time.Quantile(1) < 20*time.Millisecond || sub == 1 && h.Time.Quantile(0.5) > 20*time.Millisecond {
				t.Errorf("1/%d took %v", sub, h.Time.Quantile(0.5))
			}
			if n := h.Errors[engine.CodeLimit]; (n == 1) != (sub == 2) {
				t.Errorf("1/%d: %d errors limit", sub, n)
			}
			if n := h.Errors[engine.CodeConflict]; (n == 1) != (sub == 4) {
				t.Errorf("1/%d: %d errors conflict", sub, n)
			}
		}
		if got := r.c.Stats().Unknown; got != 1 {
			t.Errorf("%d unknown, want 1", got)
		}
	}
}
