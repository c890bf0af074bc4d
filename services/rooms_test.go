package services_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"millrace/engine"
	"millrace/services"
	"millrace/timerwheel"
)

// Rooms of most tests: the state is the list of what has happened in them.
type (
	room   = services.Room[string, *[]string]
	rooms  = services.Rooms[string, *[]string]
	config = services.RoomsConfig[string, *[]string]
)

// open makes and starts rooms with a pool and timers of their own, which stop at the test's
// end.
func open(tb testing.TB, cfg config) *rooms {
	tb.Helper()
	r := &rig{TB: tb}
	if cfg.Pool == nil {
		pool, err := engine.NewPool(engine.PoolConfig{Logger: quiet})
		r.start(pool, err)
		cfg.Pool = pool
	}
	if cfg.Timers == nil {
		timers, err := timerwheel.New(timerwheel.Config{Logger: quiet}, cfg.Pool)
		r.start(timers, err)
		cfg.Timers = timers
	}
	if cfg.Logger == nil {
		cfg.Logger = quiet
	}
	if cfg.New == nil {
		cfg.New = func(*room) (*[]string, error) { return new([]string), nil }
	}
	rs, err := services.NewRooms(cfg)
	r.start(rs, err)
	return rs
}

// posted posts and waits until fn has run.
func posted(tb testing.TB, rs *rooms, key string, fn func(r *room)) {
	tb.Helper()
	done := make(chan struct{})
	must(tb, rs.Post(key, func(r *room) { defer close(done); fn(r) }))
	receive(tb, done)
}

// receive fails the test when nothing comes in a minute.
func receive[T any](tb testing.TB, from <-chan T) (v T) {
	tb.Helper()
	select {
	case v = <-from:
	case <-time.After(time.Minute):
		tb.Fatal("waited a minute")
	}
	return v
}

func TestARoomIsMadeAtItsFirstMessage(t *testing.T) {
	var made atomic.Int32
	rs := open(t, config{Name: "tables", New: func(r *room) (*[]string, error) {
		made.Add(1)
		return &[]string{"made " + r.Key()}, nil
	}})
	if rs.Find("tea") != nil || rs.Len() != 0 {
		t.Error("there is a room before the first message")
	}
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			must(t, rs.Post([]string{"tea", "coffee"}[i%2], func(r *room) { *r.State = append(*r.State, "message") }))
		})
	}
	wg.Wait()
	lives := map[uint64]bool{}
	for _, key := range []string{"tea", "coffee"} {
		posted(t, rs, key, func(r *room) {
			if got := *r.State; len(got) != 51 || got[0] != "made "+key || r.Key() != key || r.String() != "tables/"+key {
				t.Errorf("%v: %d things happened, the first %q", r, len(got), got[0])
			}
			if r != rs.Find(key) || lives[r.Life()] {
				t.Errorf("%v is another's", r)
			}
			lives[r.Life()] = true
		})
	}
	if st := rs.Stats(); made.Load() != 2 || st.Rooms != 2 || st.Made != 2 || st.Messages != 102 || rs.Len() != 2 {
		t.Errorf("made %d, %+v", made.Load(), st)
	}
}

// A message that comes while the room decides that it is idle makes it live on, and one that
// comes while it says goodbye is the next room's, which begins behind that.
func TestAMessageThatComesMeanwhile(t *testing.T) {
	deciding, decide := make(chan bool), make(chan bool)
	leaving, leave := make(chan engine.Reason), make(chan bool)
	rs := open(t, config{
		Idle:    20 * time.Millisecond,
		OnIdle:  func(*room) bool { deciding <- true; return <-decide },
		OnClose: func(r *room, why engine.Reason) { leaving <- why; <-leave; *r.State = append(*r.State, "goodbye") },
	})
	var first uint64
	var state *[]string
	posted(t, rs, "tea", func(r *room) { first, state = r.Life(), r.State })
	life := func(want string) chan uint64 {
		got := make(chan uint64, 1)
		must(t, rs.Post("tea", func(r *room) {
			if want != "" && (len(*state) == 0 || (*state)[len(*state)-1] != want) {
				t.Errorf("it runs behind %q, want %q", *state, want)
			}
			got <- r.Life()
		}))
		return got
	}
	receive(t, deciding)
	decide <- true // it wants to stay
	receive(t, deciding)
	got := life("")
	decide <- false
	if n := receive(t, got); n != first {
		t.Errorf("the message made room %d, want %d to live on", n, first)
	}
	if st := rs.Stats(); st.LivedOn != 1 || st.Made != 1 {
		t.Errorf("%+v", st)
	}
	receive(t, deciding)
	decide <- false
	if why := receive(t, leaving); why != engine.ReasonIdle {
		t.Errorf("closed for %v", why)
	}
	if rs.Find("tea") != nil || rs.Len() != 1 {
		t.Error("a room that says goodbye is found, or gone")
	}
	got = life("goodbye")
	if rs.Find("tea") == nil {
		t.Error("the next room is not found")
	}
	if st := rs.Stats(); st.Ending != 1 || st.Rooms != 1 || st.Made != 2 {
		t.Errorf("%+v", st)
	}
	select {
	case n := <-got:
		t.Errorf("room %d runs while the one before it says goodbye", n)
	case <-time.After(20 * time.Millisecond):
	}
	leave <- true
	if n := receive(t, got); n == first {
		t.Error("it was the old room")
	}
	receive(t, deciding)
	decide <- false
	receive(t, leaving)
	leave <- true
	eventually(t, "the end", func() bool { return rs.Len() == 0 })
	if st := rs.Stats(); st.Ended[engine.ReasonIdle] != 2 || st.Ending != 0 || st.Lost != 0 {
		t.Errorf("%+v", st)
	}
}

// A room that is sent to, or has a member, is not idle; its own timers don't count.
func TestWhatKeepsARoom(t *testing.T) {
	const idle = 200 * time.Millisecond
	rs := open(t, config{Idle: idle})
	began := time.Now()
	must(t, rs.Post("ticks", func(r *room) {
		must(t, r.SetTimer(1, 5*time.Millisecond, 0, func(timerwheel.Firing) {}))
	}))
	stop := make(chan bool)
	var wg sync.WaitGroup
	var life atomic.Uint64
	wg.Go(func() {
		for last := time.Now(); ; time.Sleep(time.Millisecond) {
			select {
			case <-stop:
				return
			default:
			}
			late := time.Since(last) > idle/2 // the machine stood still: it may have been idle
			last = time.Now()
			must(t, rs.Post("spoken to", func(r *room) {
				if old := life.Swap(r.Life()); old != 0 && old != r.Life() && !late {
					t.Errorf("room %d became %d", old, r.Life())
				}
			}))
		}
	})
	eventually(t, "the idle one to end", func() bool { return rs.Find("ticks") == nil })
	if d := time.Since(began); d < idle {
		t.Errorf("idle after %v", d)
	}
	close(stop)
	wg.Wait()
}

func TestRoomsAreBounded(t *testing.T) {
	pool, err := engine.NewPool(engine.PoolConfig{Logger: quiet})
	(&rig{TB: t}).start(pool, err)
	gate := make(chan bool)
	rs := open(t, config{Pool: pool, MaxRooms: 2, MaxTasks: 3, Idle: engine.Off, OnClose: func(*room, engine.Reason) { <-gate }})
	inside := make(chan bool)
	must(t, rs.Post("a", func(*room) { inside <- true; <-gate }))
	<-inside
	nothing := func(*room) {}
	for range 3 {
		must(t, rs.Post("a", nothing))
	}
	err = rs.Post("a", nothing)
	if !errors.Is(err, engine.ErrTasksFull) || services.ErrorOf(err).Code != engine.CodeOverloaded {
		t.Errorf("a full room: %v", err)
	}
	must(t, rs.Post("b", nothing))
	err = rs.Post("c", nothing)
	if !errors.Is(err, services.ErrTooManyRooms) || services.ErrorOf(err).Code != engine.CodeLimit || !strings.Contains(err.Error(), "2") {
		t.Errorf("a third room: %v", err)
	}
	// Rooms that end may have a successor each, and then no more.
	for range 2 {
		rs.Close("a")
		rs.Close("b")
		_ = rs.Post("a", nothing)
		_ = rs.Post("b", nothing)
	}
	if err := rs.Post("a", nothing); !errors.Is(err, services.ErrTooManyRooms) {
		t.Errorf("a chain of rooms that end: %v", err)
	}
	if st := rs.Stats(); st.Rooms != 2 || st.Made != 4 || st.Busy != 1 || st.Refused < 2 || st.Ending < 2 {
		t.Errorf("%+v", st)
	}
	close(gate)
	eventually(t, "room for others", func() bool { return rs.Post("c", nothing) == nil })
}

func TestRoomsOutsideOfTheirLife(t *testing.T) {
	for _, bad := range []config{{MaxRooms: -1}, {MaxMembers: -1}, {MaxTasks: -1}, {Idle: time.Millisecond}, {Idle: -5}} {
		if _, err := services.NewRooms(bad); err == nil || !strings.Contains(err.Error(), "must be at least") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	none, err := services.NewRooms(config{})
	must(t, err)
	if err := none.Start(background); err == nil || !strings.Contains(err.Error(), "Pool is nil") {
		t.Errorf("without a pool: %v", err)
	}
	pool, err := engine.NewPool(engine.PoolConfig{Logger: quiet})
	must(t, err)
	must(t, pool.Start(background))
	gate := make(chan bool)
	var whys []engine.Reason
	rs, err := services.NewRooms(config{Pool: pool, Logger: quiet, OnClose: func(_ *room, why engine.Reason) { whys = append(whys, why) }})
	must(t, err)
	nothing := func(*room) {}
	if err := rs.Post("a", nothing); !errors.Is(err, engine.ErrNotRunning) {
		t.Errorf("before Start: %v", err)
	}
	must(t, rs.Stop(background))
	ended, cancel := context.WithCancel(background)
	cancel()
	if err := rs.Start(ended); !errors.Is(err, context.Canceled) || rs.Running() {
		t.Errorf("with an ended context: %v", err)
	}
	for range 2 { // it may be started again
		must(t, rs.Start(background))
		if rs.Start(background) == nil || !rs.Running() {
			t.Error("started twice")
		}
		ran := 0
		inside := make(chan bool)
		must(t, rs.Post("a", func(r *room) {
			if r.SetTimer(1, time.Second, 1, func(timerwheel.Firing) {}) == nil {
				t.Error("a timer without timers")
			}
			inside <- true
			<-gate
		}))
		<-inside
		for range 100 {
			must(t, rs.Post("a", func(*room) { ran++ }))
		}
		if err := rs.Stop(ended); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "1 have not ended") {
			t.Errorf("with an ended context: %v", err)
		}
		if err := rs.Start(background); err == nil {
			t.Error("started while it ends")
		}
		for _, key := range []string{"a", "b"} {
			if err := rs.Post(key, nothing); !errors.Is(err, services.ErrRoomsStopped) || !errors.Is(err, net.ErrClosed) || services.ErrorOf(err).Code != engine.CodeUnavailable {
				t.Errorf("while it stops: %v", err)
			}
		}
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() { must(t, rs.Stop(limited(t))) })
		}
		gate <- true
		wg.Wait()
		if ran != 100 || rs.Running() || rs.Len() != 0 {
			t.Errorf("%d of 100 messages ran before Stop had returned", ran)
		}
	}
	if fmt.Sprint(whys) != "[stopped stopped]" {
		t.Errorf("closed for %v", whys)
	}
	must(t, rs.Start(background))
	posted(t, rs, "a", nothing)
	must(t, pool.Stop(limited(t)))
	if err := rs.Post("a", nothing); !errors.Is(err, engine.ErrClosed) {
		t.Errorf("behind the pool: %v", err)
	}
	if err := rs.Stop(limited(t)); err == nil || !strings.Contains(err.Error(), "pool was stopped before") {
		t.Errorf("behind the pool: %v", err)
	}
}
