package timerwheel

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// slack is how late a firing may be when nothing else uses the CPU: up to a
// tick to the next tick, and up to one more of the library's.
const slack = 2 * time.Millisecond

// A step of the model test.
type step struct {
	Op     string
	ID     TimerID
	Every  time.Duration
	Repeat int
}

// A setting is what one SetTimer (or ResetTimer) began; its runs are compared
// with what arithmetic says.
type setting struct {
	id     TimerID
	at     time.Duration // when it was set
	end    time.Duration // when it was killed or set anew; 0: never
	every  time.Duration
	repeat int
	runs   []run
}

type run struct {
	at time.Duration
	f  Firing
}

func (s *setting) live() bool {
	return s != nil && s.end == 0 && (s.repeat == 0 || len(s.runs) < s.repeat)
}

// check compares the runs with the deadlines at + n x every.
func (s *setting) check(until time.Duration) error {
	if s.end != 0 {
		until = s.end
	}
	for i, r := range s.runs {
		due := s.at + time.Duration(i+1)*s.every
		left := int64(s.repeat - i - 1)
		if s.repeat == 0 {
			left = -1
		}
		if r.at < due || r.at > due+slack {
			return fmt.Errorf("%+v: run %d at %v, due at %v", *s, i+1, r.at, due)
		}
		if r.at > until {
			return fmt.Errorf("%+v: run %d at %v, after its end", *s, i+1, r.at)
		}
		if r.f.N != uint64(i+1) || r.f.Left != left || r.f.ID != s.id || r.f.Late != r.at-due {
			return fmt.Errorf("%+v: run %d got %+v", *s, i+1, r.f)
		}
	}
	n := int((until - slack - s.at) / s.every)
	if s.repeat != 0 {
		n = min(n, s.repeat)
	}
	if len(s.runs) < n {
		return fmt.Errorf("%+v: %d runs, want at least %d", *s, len(s.runs), n)
	}
	return nil
}

// play runs the steps inside a bubble, whose clock stands still while anything
// runs, and returns the first thing that the service did otherwise than a
// sorted list of deadlines would.
func play(steps []step, cfg Config, own bool) (err error) {
	s, err := New(cfg, inline{})
	if err != nil {
		return err
	}
	if err := s.Start(context.Background()); err != nil {
		return err
	}
	var mu sync.Mutex // the bubble orders all this, but not for the race detector
	locked := false
	lock := func() { mu.Lock(); locked = true }
	unlock := func() { locked = false; mu.Unlock() }
	defer func() {
		if locked {
			unlock() // a callback may wait for it, and Stop for the callback
		}
		if e := s.Stop(context.Background()); err == nil {
			err = e
		}
	}()
	set := &s.own
	if !own {
		set = s.For(inline{})
	}
	begin := time.Now()
	begin = begin.Add(-1) // so that no time is 0, which stands for never
	var all []*setting
	now := map[TimerID]*setting{}
	live := func() (n int) {
		for _, x := range now {
			if x.live() {
				n++
			}
		}
		return n
	}
	for i, st := range steps {
		synctest.Wait()
		lock()
		at := time.Since(begin)
		old := now[st.ID]
		was := live()
		if got := s.Len(); got != was {
			return fmt.Errorf("step %d: Len %d, want %d", i, got, was)
		}
		switch st.Op {
		case "set":
			x := &setting{id: st.ID, at: at, every: st.Every, repeat: st.Repeat}
			if err := set.SetTimer(st.ID, st.Every, st.Repeat, func(f Firing) {
				// A reset moves the runs on to its own setting.
				mu.Lock()
				defer mu.Unlock()
				cur := now[st.ID]
				cur.runs = append(cur.runs, run{time.Since(begin), f})
			}); err != nil {
				return err
			}
			if old.live() {
				old.end = at
			}
			now[st.ID] = x
			all = append(all, x)
		case "reset":
			if got := set.ResetTimer(st.ID, st.Every); got != old.live() {
				return fmt.Errorf("step %d: ResetTimer %v, want %v", i, got, old.live())
			}
			if old.live() {
				old.end = at
				x := &setting{id: st.ID, at: at, every: st.Every, repeat: old.repeat}
				now[st.ID] = x
				all = append(all, x)
			}
		case "kill":
			if got := set.KillTimer(st.ID); got != old.live() {
				return fmt.Errorf("step %d: KillTimer %v, want %v", i, got, old.live())
			}
			if old.live() {
				old.end = at
			}
		case "killall":
			if got := set.KillAllTimers(); got != was {
				return fmt.Errorf("step %d: KillAllTimers %d, want %d", i, got, was)
			}
			for _, x := range now {
				if x.live() {
					x.end = at
				}
			}
		case "sleep":
			unlock()
			time.Sleep(st.Every)
			lock()
		}
		unlock()
	}
	synctest.Wait()
	lock()
	for _, x := range all {
		if err := x.check(time.Since(begin)); err != nil {
			return err
		}
	}
	if n := s.Stats().Skipped; n != 0 {
		return fmt.Errorf("Skipped: got %d, want 0", n)
	}
	return nil
}

// TestAgainstSortedList plays random sequences of SetTimer, ResetTimer,
// KillTimer and KillAllTimers, with ids that collide and periods on both sides
// of every granularity.
func TestAgainstSortedList(t *testing.T) {
	period := rapid.Custom(func(t *rapid.T) time.Duration {
		switch rapid.IntRange(0, 4).Draw(t, "size") {
		case 0: // around a few ticks, off the tick's grid
			return time.Duration(rapid.Int64Range(1e6, 20e6).Draw(t, "ns"))
		case 1: // around the first boundary
			return time.Duration(rapid.Int64Range(250, 770).Draw(t, "ms")) * time.Millisecond
		case 2:
			return time.Duration(rapid.Int64Range(1e6, 5e9).Draw(t, "ns"))
		default: // around the second
			return time.Duration(rapid.Int64Range(60_000, 200_000).Draw(t, "ms")) * time.Millisecond
		}
	})
	one := rapid.Custom(func(t *rapid.T) step {
		return step{
			Op:     rapid.SampledFrom([]string{"set", "set", "set", "reset", "kill", "killall", "sleep", "sleep", "sleep"}).Draw(t, "op"),
			ID:     TimerID(rapid.IntRange(0, 12).Draw(t, "id")),
			Every:  period.Draw(t, "every"),
			Repeat: rapid.IntRange(0, 5).Draw(t, "repeat"),
		}
	})
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(one, 1, 40).Draw(rt, "steps")
		own := rapid.Bool().Draw(rt, "own")
		// An endless timer of a few ms would fire all through the long sleeps.
		for i := range steps {
			if steps[i].Repeat == 0 && steps[i].Every < 250*time.Millisecond {
				steps[i].Repeat = 20
			}
		}
		var err error
		synctest.Test(t, func(*testing.T) { err = play(slices.Clone(steps), Config{Shards: 2}, own) })
		if err != nil {
			rt.Fatal(err)
		}
	})
}
