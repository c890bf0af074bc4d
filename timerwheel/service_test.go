package timerwheel

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestTimerFiresExactlyRepeatTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(t, Config{}, inline{})
		var got []Firing
		must(t, s.SetTimer(7, 10*time.Millisecond, 3, func(f Firing) { got = append(got, f) }))
		time.Sleep(time.Second)
		synctest.Wait()
		if len(got) != 3 {
			t.Fatalf("fired %d times, want 3", len(got))
		}
		for i, f := range got {
			if f.ID != 7 || f.N != uint64(i+1) || f.Left != int64(2-i) {
				t.Errorf("firing %d: got %+v", i, f)
			}
			if f.Late < 0 || f.Late > 2*time.Millisecond {
				t.Errorf("firing %d: %v late, want 0 to 2 ms", i, f.Late)
			}
		}
		if s.Len() != 0 {
			t.Errorf("Len: got %d, want 0", s.Len())
		}
		if s.KillTimer(7) {
			t.Error("KillTimer of a timer that has ended: got true")
		}
		stopped(t, s)
	})
}

func TestZeroRepeatsUntilKilled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(t, Config{}, inline{})
		var n, left atomic.Int64
		time.Sleep(300 * time.Microsecond) // off the grid of ticks: each firing is late
		const period = 100*time.Millisecond + 700*time.Microsecond
		must(t, s.SetTimer(1, period, 0, func(f Firing) { n.Add(1); left.Store(f.Left) }))
		time.Sleep(1000*period + period/2)
		synctest.Wait()
		if n.Load() != 1000 {
			t.Errorf("fired %d times in 1000.5 periods, want 1000: it drifts", n.Load())
		}
		if left.Load() != -1 {
			t.Errorf("Left: got %d, want -1", left.Load())
		}
		if !s.KillTimer(1) || s.KillTimer(1) {
			t.Error("KillTimer: want true, then false")
		}
		time.Sleep(time.Second)
		if n.Load() != 1000 {
			t.Errorf("fired %d times after the kill", n.Load()-1000)
		}
		stopped(t, s)
	})
}

func TestSetTimerOnLiveIDStartsAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(t, Config{}, inline{})
		var old, new atomic.Int64
		must(t, s.SetTimer(1, 50*time.Millisecond, 0, func(Firing) { old.Add(1) }))
		time.Sleep(170 * time.Millisecond)
		must(t, s.SetTimer(1, 400*time.Millisecond, 2, func(f Firing) {
			if got := new.Add(1); f.N != uint64(got) || f.Left != 2-got {
				t.Errorf("run %d of the new setting: got %+v", got, f)
			}
		}))
		if s.Len() != 1 {
			t.Errorf("Len: got %d, want 1", s.Len())
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if old.Load() != 3 || new.Load() != 2 {
			t.Errorf("old ran %d times, new %d; want 3, 2", old.Load(), new.Load())
		}
		stopped(t, s)
	})
}

func TestResetKeepsFunctionAndCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(t, Config{}, inline{})
		begin := time.Now()
		var at time.Duration
		must(t, s.SetTimer(1, 100*time.Millisecond, 1, func(Firing) { at = time.Since(begin) }))
		for range 50 { // later each time: stored only
			time.Sleep(20 * time.Millisecond)
			if !s.ResetTimer(1, 100*time.Millisecond) {
				t.Fatal("ResetTimer of a live timer: got false")
			}
		}
		time.Sleep(50 * time.Millisecond)
		s.ResetTimer(1, 10*time.Millisecond) // earlier: moved
		time.Sleep(time.Second)
		synctest.Wait()
		if want := 1060 * time.Millisecond; at < want || at > want+2*time.Millisecond {
			t.Errorf("fired at %v, want %v to 2 ms later", at, want)
		}
		if s.ResetTimer(1, time.Second) {
			t.Error("ResetTimer of a timer that has ended: got true")
		}
		stopped(t, s)
	})
}

func TestSetsHaveIDsOfTheirOwn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(t, Config{}, inline{})
		a, b := s.For(&strand{}), s.For(&strand{})
		var na, nb, ns atomic.Int64
		must(t, a.SetTimer(1, time.Second, 0, func(Firing) { na.Add(1) }))
		must(t, b.SetTimer(1, time.Second, 0, func(Firing) { nb.Add(1) }))
		must(t, s.SetTimer(1, time.Second, 0, func(Firing) { ns.Add(1) }))
		if !a.KillTimer(1) {
			t.Error("KillTimer: got false")
		}
		must(t, b.SetTimer(2, time.Hour, 0, func(Firing) {}))
		time.Sleep(1500 * time.Millisecond)
		synctest.Wait()
		if na.Load() != 0 || nb.Load() != 1 || ns.Load() != 1 {
			t.Errorf("fired %d, %d, %d; want 0, 1, 1", na.Load(), nb.Load(), ns.Load())
		}
		if n := b.KillAllTimers(); n != 2 {
			t.Errorf("KillAllTimers: got %d, want 2", n)
		}
		if a.Len() != 0 || b.Len() != 0 || s.Len() != 1 {
			t.Errorf("Len: got %d, %d, %d; want 0, 0, 1", a.Len(), b.Len(), s.Len())
		}
		if n := s.KillAllTimers(); n != 1 {
			t.Errorf("KillAllTimers of the service: got %d, want 1", n)
		}
		stopped(t, s)
	})
}

func TestFarTimersComeDownTheLevels(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(t, Config{}, inline{})
		begin := time.Now()
		delays := []time.Duration{0, 1, time.Millisecond, 255 * time.Millisecond, 256 * time.Millisecond,
			257 * time.Millisecond, 511 * time.Millisecond, 512 * time.Millisecond, 513 * time.Millisecond,
			65 * time.Second, 66 * time.Second, 131 * time.Second, 132 * time.Second, time.Hour,
			9 * time.Hour, 10 * time.Hour}
		if *long {
			delays = append(delays, 30*time.Hour)
		}
		fired := 0
		for i, d := range delays {
			must(t, s.SetTimer(TimerID(i), d, 1, func(Firing) {
				fired++
				if at := time.Since(begin); at < d || at > d+3*time.Millisecond {
					t.Errorf("timer of %v fired at %v", d, at)
				}
			}))
		}
		time.Sleep(delays[len(delays)-1] + time.Hour)
		synctest.Wait()
		if fired != len(delays) {
			t.Errorf("%d of %d fired", fired, len(delays))
		}
		stopped(t, s)
	})
}

func TestFullSubmitterIsTriedAgainInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(t, Config{}, inline{})
		sub := &strand{}
		set := s.For(sub)
		sub.fail(errors.New("full"))
		var order []TimerID
		for id := TimerID(1); id <= 20; id++ {
			must(t, set.SetTimer(id, time.Duration(id)*time.Millisecond, 1, func(f Firing) { order = append(order, f.ID) }))
		}
		must(t, s.SetTimer(1, 5*time.Millisecond, 0, func(Firing) {}))
		time.Sleep(15 * time.Millisecond)
		sub.fail(nil)
		time.Sleep(15 * time.Millisecond)
		synctest.Wait()
		if len(order) != 20 {
			t.Fatalf("%d of 20 fired", len(order))
		}
		for i, id := range order {
			if id != TimerID(i+1) {
				t.Fatalf("order %v", order)
			}
		}
		if st := s.Stats(); st.Refused < 10 || st.Waiting != 0 {
			t.Errorf("Refused %d, Waiting %d; want 10 or more, 0", st.Refused, st.Waiting)
		}
		stopped(t, s)
	})
}

func TestKilledWhileRefusedDoesNotRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(t, Config{}, inline{})
		sub := &strand{err: errors.New("full")}
		set := s.For(sub)
		must(t, set.SetTimer(1, time.Millisecond, 1, func(Firing) { t.Error("ran after its kill") }))
		must(t, set.SetTimer(2, time.Millisecond, 1, func(Firing) { t.Error("old setting ran") }))
		time.Sleep(10 * time.Millisecond)
		if !set.KillTimer(1) {
			t.Error("KillTimer of a timer whose firing waits: got false")
		}
		ran := false
		must(t, set.SetTimer(2, 100*time.Millisecond, 1, func(Firing) { ran = true }))
		sub.fail(nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if !ran {
			t.Error("new setting did not run")
		}
		if n := s.Stats().Stale; n != 2 {
			t.Errorf("Stale: got %d, want 2", n)
		}
		stopped(t, s)
	})
}

func TestTimersDieWithTheirSubmitter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(t, Config{}, inline{})
		sub := &strand{}
		set := s.For(sub)
		for id := range TimerID(10) {
			must(t, set.SetTimer(id, time.Duration(id+1)*time.Second, 0, func(Firing) { t.Error("ran") }))
		}
		sub.fail(net.ErrClosed)
		time.Sleep(time.Minute)
		if s.Len() != 0 {
			t.Errorf("Len: got %d, want 0", s.Len())
		}
		if n := s.Stats().Dropped; n != 10 {
			t.Errorf("Dropped: got %d, want 10", n)
		}
		err := set.SetTimer(1, time.Second, 1, func(Firing) {})
		if !errors.Is(err, net.ErrClosed) || !errors.Is(err, ErrSetClosed) {
			t.Errorf("SetTimer: got %v, want ErrSetClosed", err)
		}
		stopped(t, s)
	})
}

func TestSlowCallbackSkipsPeriodsAndNeverOverlaps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := started(t, Config{}, &strand{})
		pool := newWorkers(t, 4)
		set := s.For(pool)
		var inside, runs atomic.Int64
		must(t, set.SetTimer(1, 10*time.Millisecond, 5, func(f Firing) {
			if inside.Add(1) > 1 {
				t.Error("two runs at once")
			}
			time.Sleep(95 * time.Millisecond)
			inside.Add(-1)
			if got := runs.Add(1); f.N != uint64(got) {
				t.Errorf("N: got %d, want %d", f.N, got)
			}
		}))
		time.Sleep(5 * time.Second)
		if runs.Load() != 5 {
			t.Errorf("ran %d times, want 5", runs.Load())
		}
		if n := s.Stats().Skipped; n != 36 {
			t.Errorf("Skipped: got %d, want 36", n)
		}
		stopped(t, s)
	})
}

func TestLimits(t *testing.T) {
	s := started(t, Config{MaxTimers: 10, MaxPerSet: 4}, inline{})
	set := s.For(inline{})
	fill := func(t *testing.T, set interface {
		SetTimer(TimerID, time.Duration, int, func(Firing)) error
	}, room int) {
		for id := range TimerID(room) {
			must(t, set.SetTimer(id, time.Hour, 1, func(Firing) {}))
		}
		if err := set.SetTimer(99, time.Hour, 1, func(Firing) {}); !errors.Is(err, ErrTooManyTimers) {
			t.Errorf("beyond %d: got %v, want ErrTooManyTimers", room, err)
		}
		must(t, set.SetTimer(0, time.Hour, 1, func(Firing) {})) // a live id needs no room
	}
	fill(t, set, 4)
	fill(t, s, 6)
	set.KillTimer(1)
	must(t, s.SetTimer(99, time.Hour, 1, func(Firing) {}))
	if n := s.Stats().TooMany; n != 2 {
		t.Errorf("TooMany: got %d, want 2", n)
	}
}

func TestBadCallsAreRefused(t *testing.T) {
	s := started(t, Config{}, inline{})
	fn := func(Firing) {}
	for _, c := range []struct {
		name   string
		every  time.Duration
		repeat int
		fn     func(Firing)
		want   error
	}{
		{"nil function", time.Second, 1, nil, ErrNoFunc},
		{"no period", 0, 0, fn, ErrPeriod},
		{"negative period", -1, 2, fn, ErrPeriod},
		{"negative repeat", time.Second, -1, fn, ErrPeriod},
		{"one shot in the past", -1, 1, fn, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := s.SetTimer(1, c.every, c.repeat, c.fn); !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
		})
	}
	if _, err := New(Config{Tick: time.Microsecond, WheelSize: 1, Shards: 3, MaxTimers: -1, MaxPerSet: -1, Watchdog: 1}, inline{}); err == nil {
		t.Error("New with a bad Config: got nil")
	}
	if _, err := New(Config{}, nil); err == nil {
		t.Error("New without a submitter: got nil")
	}
}

func TestStopKillsAllAndStartWorksAgain(t *testing.T) {
	s, err := New(Config{}, inline{})
	must(t, err)
	if err := s.SetTimer(1, time.Second, 1, func(Firing) {}); !errors.Is(err, ErrNotRunning) {
		t.Errorf("SetTimer before Start: got %v, want ErrNotRunning", err)
	}
	for range 3 {
		must(t, s.Start(context.Background()))
		if s.Start(context.Background()) == nil {
			t.Error("second Start: got nil")
		}
		if !s.Running() {
			t.Error("Running: got false")
		}
		fired := make(chan bool, 1)
		set := s.For(inline{})
		must(t, set.SetTimer(1, time.Hour, 1, func(Firing) {}))
		must(t, s.SetTimer(1, time.Hour, 1, func(Firing) {}))
		_, err := s.After(time.Millisecond, func(Firing) { fired <- true })
		must(t, err)
		<-fired
		stopped(t, s)
		stopped(t, s)
		if s.Len() != 0 || s.Running() {
			t.Errorf("after Stop: Len %d, Running %v", s.Len(), s.Running())
		}
	}
}
