package enginetest

import (
	"strings"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
)

// deaf is an echo that forgets an answer, when chance has it that a frame is the third of
// its session: a bug for the kit to find.
type deaf struct{ w *World }

func (d deaf) OnSocketAccept(s *engine.Session) { s.SetValue(new(int)) }
func (d deaf) OnSocketRead(s *engine.Session, p codec.Packet) {
	n := s.Value().(*int)
	if *n++; *n == 3 && p.Sub == 2 {
		return
	}
	_ = s.Reply(p, p.Body)
}
func (d deaf) OnSocketClose(*engine.Session, engine.Reason) {}

func deafWorld(w *World) {
	srv := w.Server(engine.Config{}, deaf{w})
	var clients []*Client
	for range 1 + w.Pick(4) {
		clients = append(clients, w.Dial(srv))
	}
	for n := range w.Pick(30) {
		c := clients[w.Pick(len(clients))]
		c.Send(1, uint16(w.Pick(3)), number(n, size(w, 3000)))
		w.Advance(w.Between(0, time.Millisecond))
	}
	for _, c := range clients {
		w.UntilWithin(time.Second, func() bool { return c.answers(1) >= len(c.life.sent) })
		if got, want := c.answers(1), len(c.life.sent); got != want {
			w.Fatalf("client %d: %d answers, want %d", c.conn.ID(), got, want)
		}
	}
}

// The report of a failing run has its seed, the command that repeats it, and a simpler run that
// fails in the same way; repeating that one fails again.
func TestAFailureIsToldAndShrunk(t *testing.T) {
	o, err := Options{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	seed, r := uint64(0), result{}
	for ; r.failed == ""; seed++ {
		if seed == 200 {
			t.Fatal("200 seeds have not found the bug")
		}
		r = runOnce(t, o, seed, seeded(seed), false, deafWorld)
	}
	best, tried := r.shrink(t, o, seed, deafWorld)
	t.Logf("%d choices, %d events; in %d runs %d choices, %d of them not 0, %d events", len(r.rec), r.events, tried, len(best.rec), some(best.rec), best.events)
	if some(best.rec) > 20 || best.events > r.events {
		t.Errorf("shrunk to %d choices that are not 0 and %d events, from %d", some(best.rec), best.events, r.events)
	}
	text := r.report(t, o, seed, deafWorld)
	for _, want := range []string{"ENGINETEST_SEED=", "-run '^TestAFailureIsToldAndShrunk$'", "ENGINETEST_REPLAY=", "answers, want", "OnSocketRead"} {
		if !strings.Contains(text, want) {
			t.Errorf("the report has no %q:\n%.2000s", want, text)
		}
	}
	rec, err := decode(encode(best.rec))
	if err != nil {
		t.Fatal(err)
	}
	if again := runOnce(t, o, seed, played(rec), true, deafWorld); kind(again.failed) != kind(r.failed) {
		t.Errorf("played again: got %q, want %q", again.failed, r.failed)
	}
}

// Each case breaks a guarantee that enginetest checks in every run.
func TestWhatAHandlerBreaksIsFound(t *testing.T) {
	o, err := Options{Patience: 20 * time.Second}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []struct {
		name string
		fn   func(w *World)
		want string
	}{
		{"a panic", func(w *World) {
			srv := w.Server(engine.Config{}, does{read: func(*engine.Session) { panic("on purpose") }})
			w.Dial(srv).Send(1, 1, nil)
			w.Advance(time.Second)
		}, "1 callbacks panicked"},
		{"a hold that is never released", func(w *World) {
			srv := w.Server(engine.Config{}, does{read: func(s *engine.Session) { s.Hold() }})
			w.Dial(srv).Send(1, 1, nil)
			w.Advance(time.Second)
		}, "Stop, although no client was disturbed"},
		{"an answer that does not come", func(w *World) {
			srv := w.Server(engine.Config{}, does{})
			c := w.Dial(srv)
			c.Send(1, 1, nil)
			c.Next(1, 1)
		}, "no frame 1/1"},
		{"a handler that never returns", func(w *World) {
			srv := w.Server(engine.Config{Dispatch: engine.Ordered}, does{read: func(s *engine.Session) { <-s.Context().Done() }})
			c := w.Dial(srv)
			c.Send(1, 1, nil)
			c.Send(1, 1, nil)
			w.Advance(time.Second)
		}, "were not handled"},
		{"a run without an end", func(w *World) {
			var again func()
			again = func() { w.After(time.Microsecond, again) }
			again()
			w.opt.MaxSteps = 10_000
			w.Until(func() bool { return false })
		}, "the run does not end"},
	} {
		t.Run(x.name, func(t *testing.T) {
			if r := runOnce(t, o, 1, seeded(1), false, x.fn); !strings.Contains(r.failed, x.want) {
				t.Errorf("got %q, want %q", r.failed, x.want)
			}
		})
	}
}

// does is a handler that does one thing.
type does struct{ read func(*engine.Session) }

func (d does) OnSocketAccept(*engine.Session) {}
func (d does) OnSocketRead(s *engine.Session, _ codec.Packet) {
	if d.read != nil {
		d.read(s)
	}
}
func (d does) OnSocketClose(*engine.Session, engine.Reason) {}

// knower is a handler that takes its time, and serves nothing but 1/1.
type knower struct{ does }

func (knower) Knows(handle uint32) bool { return handle == 1<<16|1 }

// The engine learns which handles a handler knows.
func TestAHandlerIsAskedWhatItKnows(t *testing.T) {
	Run(t, Options{Seeds: 1}, func(w *World) {
		srv := w.Server(engine.Config{Overload: engine.Overload{Costs: true}}, knower{does{read: func(*engine.Session) { time.Sleep(time.Millisecond) }}})
		c := w.Dial(srv)
		c.Send(9, 1, nil)
		c.Send(1, 1, nil)
		w.Advance(time.Second)
		known, others := false, false
		for _, x := range srv.Costs().Handles {
			known, others = known || x.Main == 1, others || x.Other
			if x.Main == 9 {
				w.Errorf("%d/%d has an account", x.Main, x.Sub)
			}
		}
		if !known || !others {
			w.Errorf("accounts: %+v, want that of 1/1 and the others", srv.Costs().Handles)
		}
	})
}

// Ten thousand simulated seconds with open connections take little real time.
func TestIdleTimeIsCheap(t *testing.T) {
	Run(t, Options{Seeds: 1}, func(w *World) {
		srv := w.Server(engine.Config{Heartbeat: 100 * time.Second}, echo{})
		c := w.Dial(srv)
		c.Send(1, 1, []byte("x"))
		w.Advance(10_000 * time.Second)
		if n := c.Count(engine.SystemMain, engine.SubPing); n < 90 {
			w.Fatalf("%d PINGs in 10,000 s with a heartbeat of 100 s", n)
		}
	})
}
