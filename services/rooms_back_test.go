package services_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"millrace/dbasync"
	"millrace/engine"
	"millrace/services"
	"millrace/services/events"
	"millrace/timerwheel"
)

// A tick keeps its rhythm whatever the room does: none comes early, two never overlap, and
// those whose time comes while one waits or runs are left out.
func TestATickKeepsItsRhythm(t *testing.T) {
	const period, ticks, long = 10 * time.Millisecond, 30, 10
	rs := open(t, config{})
	done := make(chan bool)
	var at []time.Time
	var began time.Time
	must(t, rs.Post("game", func(r *room) {
		began = time.Now()
		must(t, r.SetTimer(1, period, ticks, func(f timerwheel.Firing) {
			at = append(at, time.Now())
			if len(at) == long {
				time.Sleep(7*period + period/2) // the room is late
			}
			if f.Left == 0 {
				close(done)
			}
		}))
	}))
	receive(t, done)
	if len(at) != ticks {
		t.Fatalf("ticked %d times, want %d", len(at), ticks)
	}
	for i, a := range at {
		if d := a.Sub(began); d < time.Duration(i+1)*period {
			t.Errorf("tick %d came %v behind the start", i+1, d)
		}
	}
	if late := at[long].Sub(at[long-1]); late < 7*period {
		t.Errorf("tick %d ran %v behind one that took %v", long+1, late, 7*period)
	}
	// No pile-up: behind the long one at most one is at hand at once. n ticks later n-1
	// periods have gone.
	for n := 2; long+n < ticks; n++ {
		if d := at[long+n].Sub(at[long]); d < time.Duration(n-1)*period {
			t.Errorf("%d ticks in %v behind the late one", n, d)
		}
	}
}

// A delay event, and an answer that comes later, of what a room began come back to it, and
// end with it.
func TestCallsAndEventsComeBackToTheRoom(t *testing.T) {
	r := serve(t, nil, func(c *services.Controller) {})
	rs := open(t, config{Pool: r.pool, Timers: r.timers, Idle: engine.Off})
	var inside atomic.Int32
	enter := func() func() {
		if inside.Add(1) != 1 {
			t.Error("two in the room at once")
		}
		return func() { inside.Add(-1) }
	}
	got := make(chan string, 100)
	must(t, services.Register(r.c, hLater, services.Stages[pair, total]{
		Handle: func(ctx *services.Context, req *pair, res *total) error {
			defer enter()()
			if ctx.Home() == nil || ctx.Session() != nil {
				t.Error("an event of no room")
			}
			reply := ctx.Defer()
			go func() { reply.Done(&total{Sum: req.A}, nil) }()
			return nil
		},
		Last: func(ctx *services.Context, req *pair, res *total) error {
			defer enter()()
			got <- fmt.Sprint(ctx.Home().(*room), " ", res.Sum)
			return nil
		},
	}, services.Internal()))
	event := func(rm *room, seconds float64, n int64) *services.Delayed {
		d, err := services.After(r.c.ContextIn(rm), seconds, hLater, pair{A: n})
		must(t, err)
		return d
	}
	posted(t, rs, "tea", func(rm *room) {
		defer enter()()
		for n := range int64(20) {
			event(rm, 0.001, n)
		}
		if !event(rm, 10, 100).Cancel() {
			t.Error("not cancelled")
		}
		event(rm, 10, 101) // the room has ended by then
	})
	for range 20 {
		must(t, rs.Post("tea", func(*room) { enter()() }))
	}
	seen := map[string]bool{}
	for range 20 {
		seen[receive(t, got)] = true
	}
	for n := range 20 {
		if !seen[fmt.Sprint("tea ", n)] {
			t.Errorf("event %d did not come back", n)
		}
	}
	old := rs.Find("tea")
	must(t, old.Close())
	posted(t, rs, "tea", func(rm *room) {
		event(rm, 0.01, 7)
		ctx := r.c.ContextIn(old)
		if ctx.Lasting().Err() == nil {
			t.Error("the context of a room that has ended lives on")
		}
		if _, err := services.After(ctx, 1, hLater, pair{}); err == nil {
			t.Error("an event of a room that has ended")
		}
	})
	if text := receive(t, got); text != "tea 7" {
		t.Errorf("got %q from the old room", text)
	}
}

// Rooms that are one of a manager's services get its pool and timers, and stop behind the
// server and in front of these. Answers of its database come back to the room that asked, or
// are stale when it has ended.
func TestAManagersRoomsAndItsDatabase(t *testing.T) {
	pg := database(t)
	var whys []engine.Reason
	rs, err := services.NewRooms(config{Logger: quiet,
		New:     func(*room) (*[]string, error) { return new([]string), nil },
		OnClose: func(_ *room, why engine.Reason) { whys = append(whys, why) },
	})
	must(t, err)
	m := manage(t, services.Config{
		DB:       events.Database(dbasync.Config{URL: pg}, events.Config{}),
		Services: []services.Spec{{Name: "rooms", Service: rs}},
	})
	must(t, m.Start(background))
	eventually(t, "the database", func() bool { return m.Healthy() == nil })
	var inside atomic.Int32
	const queries = 200
	done := make(chan int, queries)
	ask := func(r *room, sql string, arg any, then func(dbasync.QueryResult)) {
		must(t, events.DB(m).Query(r.Context(), r, func(res dbasync.QueryResult) {
			then(res)
		}, dbasync.Stmt{SQL: sql, Slow: arg == nil}))
	}
	for n := range queries {
		must(t, rs.Post("tea", func(r *room) {
			if inside.Add(1) != 1 {
				t.Error("two in the room at once")
			}
			ask(r, "select 1", n, func(res dbasync.QueryResult) {
				if inside.Add(1) != 1 || res.Stale || res.Err != nil {
					t.Errorf("a result beside the room, or %v", res.Err)
				}
				*r.State = append(*r.State, "result")
				done <- len(*r.State)
				inside.Add(-1)
			})
			inside.Add(-1)
		}))
	}
	for n := range queries {
		if got := receive(t, done); got != n+1 {
			t.Fatalf("result %d, want %d", got, n+1)
		}
	}
	stale := make(chan bool, 1)
	posted(t, rs, "tea", func(r *room) {
		must(t, events.DB(m).Query(background, r, func(res dbasync.QueryResult) { stale <- res.Stale }, dbasync.Stmt{SQL: "select pg_sleep(0.2)", Slow: true}))
		must(t, r.Close())
	})
	posted(t, rs, "tea", func(r *room) {
		must(t, r.SetTimer(1, time.Millisecond, 1, func(timerwheel.Firing) { done <- 0 }))
	})
	if !receive(t, stale) {
		t.Error("a result of a room that has ended is not stale")
	}
	receive(t, done)
	must(t, m.Stop(limited(t)))
	if fmt.Sprint(whys) != "[server_closed stopped]" {
		t.Errorf("the rooms ended for %v", whys)
	}
}
