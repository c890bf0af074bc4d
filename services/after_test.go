package services_test

import (
	"errors"
	"fmt"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/timerwheel"
)

type later struct {
	Seconds float64 `json:"seconds"`
	ID      int     `json:"id"`
}

type event struct {
	ID     int     `json:"id"`
	LateMS float64 `json:"late_ms"`
}

// delaying registers 4/5, which has 4/6 run later for its session.
func delaying(tb testing.TB, c *services.Controller) {
	must(tb, services.Register(c, hLater, services.Stages[later, services.None]{
		Handle: func(ctx *services.Context, req *later, _ *services.None) error {
			_, err := services.After(ctx, req.Seconds, hPush, event{ID: req.ID})
			return err
		}}))
	must(tb, services.Register(c, hPush, services.Stages[event, event]{
		Pre: func(ctx *services.Context, req, _ *event) error {
			if late, ok := ctx.Late(); !ok || late < 0 {
				return fmt.Errorf("late %v, %v", late, ok)
			}
			return nil
		},
		Handle: func(ctx *services.Context, req, res *event) error {
			late, _ := ctx.Late()
			*res = event{req.ID, float64(late) / float64(time.Millisecond)}
			return nil
		}}, services.Internal()))
}

func TestDelayEventsAreNeverEarly(t *testing.T) {
	r := serve(t, nil, func(c *services.Controller) { delaying(t, c) })
	c := r.dial(nil)
	const n = 200
	var mu sync.Mutex
	due := map[int]time.Time{}
	got := make(chan error, n)
	c.On(hPush, func(p codec.Packet) {
		now := time.Now()
		var e event
		err := jsonDecode(p.Body, &e)
		mu.Lock()
		at, ok := due[e.ID]
		delete(due, e.ID)
		mu.Unlock()
		if err == nil && (!ok || now.Before(at) || e.LateMS < 0) {
			err = fmt.Errorf("event %+v: due %v, came %v", e, at, now)
		}
		got <- err
	})
	for i := range n {
		d := time.Duration(i%40) * 7 * time.Millisecond
		mu.Lock()
		due[i] = time.Now().Add(d)
		mu.Unlock()
		call[struct{}](t, c, hLater, later{d.Seconds(), i})
	}
	for range n {
		select {
		case err := <-got:
			must(t, err)
		case <-limited(t).Done():
			t.Fatal("events are missing")
		}
	}
	if s := r.c.Stats(); s.Delayed != n || s.Dropped != 0 {
		t.Errorf("stats: %+v", s)
	}
}

func TestDelayEventErrors(t *testing.T) {
	r := serve(t, func(cc *services.ControllerConfig, _ *engine.Config) { cc.MaxDelayed = 3 }, func(c *services.Controller) { delaying(t, c) })
	ctx := r.c.Context(nil)
	for _, seconds := range []float64{-1, -1e-9, math.NaN(), math.Inf(1), 1e10} {
		if _, err := services.After(ctx, seconds, hPush, event{}); services.ErrorOf(err).Code != engine.CodeBadBody {
			t.Errorf("%v s: got %v", seconds, err)
		}
	}
	if _, err := services.After(ctx, 1, hOther, event{}); !errors.Is(err, services.ErrUnknownHandle) {
		t.Errorf("nobody there: got %v", err)
	}
	if _, err := services.After(ctx, 1, hPush, 5); !errors.Is(err, services.ErrTypes) {
		t.Errorf("another type: got %v", err)
	}
	c := r.dial(nil)
	for i := range 3 {
		call[struct{}](t, c, hLater, later{60, i})
	}
	refused(t, c, hLater, later{60, 3}, engine.CodeLimit)
	call[struct{}](t, r.dial(nil), hLater, later{60, 3}) // another session's own

	none, err := services.NewController(services.ControllerConfig{})
	must(t, err)
	delaying(t, none)
	if _, err := services.After(none.Context(nil), 1, hPush, event{}); services.ErrorOf(err).Code != engine.CodeUnavailable {
		t.Errorf("without timers: got %v", err)
	}
}

func TestDelayEventsOfNoSession(t *testing.T) {
	ran := make(chan string, 10)
	var answered atomic.Pointer[services.Reply]
	r := serve(t, nil, func(c *services.Controller) {
		must(t, services.Register(c, hOther, services.Stages[event, event]{
			Handle: func(ctx *services.Context, req, res *event) error {
				if req.ID == 2 {
					answered.Store(ctx.Defer())
				}
				return nil
			},
			Last: func(ctx *services.Context, req, res *event) error {
				ran <- fmt.Sprint(req.ID, ctx.Session() != nil)
				return nil
			},
		}))
		must(t, services.Register(c, hLater, services.Stages[services.None, services.None]{
			Handle: func(ctx *services.Context, _, _ *services.None) error {
				_, err := services.After(ctx, 0.2, hOther, event{ID: 3}, services.Unbound())
				return err
			}}))
	})
	ctx := r.c.Context(nil)
	want := func(text string) {
		t.Helper()
		select {
		case got := <-ran:
			if got != text {
				t.Errorf("got %q, want %q", got, text)
			}
		case <-limited(t).Done():
			t.Fatalf("%q did not run", text)
		}
	}
	_, err := services.After(ctx, 0, hOther, event{ID: 1})
	must(t, err)
	want("1 false")
	_, err = services.After(ctx, 0.01, hOther, event{ID: 2})
	must(t, err)
	for answered.Load() == nil {
		time.Sleep(time.Millisecond)
	}
	answered.Load().Done(nil, nil)
	want("2 false")

	cancelled, err := services.After(ctx, 2, hOther, event{ID: 9})
	must(t, err)
	due := time.Now().Add(2 * time.Second)
	if !cancelled.Cancel() || cancelled.Cancel() {
		t.Error("cancel: want true, then false")
	}
	c := r.dial(nil) // an unbound event outlives its session
	call[struct{}](t, c, hLater, struct{}{})
	c.Close()
	want("3 false")
	select {
	case got := <-ran:
		t.Errorf("a cancelled event ran: %s", got)
	case <-time.After(time.Until(due) + 100*time.Millisecond):
	}
}

// 300 sessions (1,000 with -long) request a delay event and close, and others get their slots: none
// of them gets an event that was meant for another.
func TestDelayEventsAreFenced(t *testing.T) {
	n := 300
	if *long {
		n = 1000
	}
	r := serve(t, func(_ *services.ControllerConfig, ec *engine.Config) { ec.MaxConns = n + 10 }, func(c *services.Controller) {
		delaying(t, c)
		must(t, services.Register(c, hOther, services.Stages[services.None, uint32]{
			Handle: func(ctx *services.Context, _ *services.None, res *uint32) error {
				*res = ctx.Session().Index()
				return nil
			}}))
	})
	open := func() ([]*wire, map[string]bool) {
		ws := make([]*wire, n)
		slots := map[string]bool{}
		for i := range ws {
			ws[i] = r.wire()
			ws[i].send(hOther, "")
		}
		for _, w := range ws {
			slots[w.next()] = true
		}
		return ws, slots
	}
	// The sessions must have gone before the first event is due: where they had not,
	// all of it once more, with more time.
	var slots map[string]bool
	var start time.Time
	before, wait := uint64(0), time.Second
	for tries := 0; ; wait *= 3 {
		before = r.c.Stats().Delayed
		var first []*wire
		first, slots = open()
		start = time.Now()
		for i, w := range first {
			w.send(hLater, fmt.Sprintf(`{"seconds":%v,"id":%d}`, wait.Seconds()+float64(i%10)/20, i))
		}
		for _, w := range first {
			w.want("4/5 ")
			must(t, w.Conn.(*net.TCPConn).SetLinger(0))
			must(t, w.Close())
		}
		r.gone()
		took := time.Since(start)
		if took < wait*3/4 {
			break
		}
		if tries++; tries == 4 {
			t.Fatalf("%d sessions took %v to go", n, took)
		}
	}
	second, again := open()
	same := 0
	for slot := range again {
		if slots[slot] {
			same++
		}
	}
	if same != n {
		t.Fatalf("only %d of %d slots were used again", same, n)
	}
	time.Sleep(time.Until(start.Add(wait + 700*time.Millisecond)))
	for _, w := range second {
		_ = w.SetReadDeadline(time.Now().Add(time.Millisecond))
		if p, err := w.r.Next(); err == nil {
			t.Fatalf("a foreign delivery: %d/%d %s", p.Main, p.Sub, p.Body)
		}
	}
	if n := r.c.Stats().Delayed - before; n != 0 {
		t.Errorf("%d events ran for sessions that had gone", n)
	}
	if left := r.timers.Len(); left != 0 {
		t.Errorf("%d timers are left", left)
	}
}

func TestContextTimersAreTheSessions(t *testing.T) {
	fired := make(chan uint32, 10)
	r := serve(t, nil, func(c *services.Controller) {
		must(t, services.Register(c, hOther, services.Stages[services.None, services.None]{
			Handle: func(ctx *services.Context, _, _ *services.None) error {
				s := ctx.Session()
				return ctx.Timers().SetTimer(1, 10*time.Millisecond, 3, func(timerwheel.Firing) { fired <- s.Index() })
			}}))
	})
	c := r.dial(nil)
	call[struct{}](t, c, hOther, struct{}{})
	for range 3 {
		select {
		case <-fired:
		case <-limited(t).Done():
			t.Fatal("the timer did not fire")
		}
	}
	if r.c.Context(nil).Timers() == nil {
		t.Error("no timers without a session")
	}
}
