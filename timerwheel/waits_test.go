package timerwheel

import (
	"context"
	"errors"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// within fails the test unless ok holds before long.
func within(t *testing.T, d time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(d); !ok(); <-time.After(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in %v: %s", d, what)
		}
	}
}

// metronome has a timer of 10 ms go, and returns the share of its firings that
// came since the last call, and how late the latest one was.
func metronome(t *testing.T, s *Service) func() (share float64, late time.Duration) {
	t.Helper()
	const period = 10 * time.Millisecond
	var n, worst atomic.Int64
	_, err := s.Every(period, func(f Firing) {
		n.Add(1)
		worst.Store(max(worst.Load(), int64(f.Late)))
	})
	must(t, err)
	within(t, time.Minute, "the first firing", func() bool { return n.Load() > 0 })
	at, was := time.Now(), n.Load()
	return func() (float64, time.Duration) {
		now, is := time.Now(), n.Load()
		share := float64(is-was) / (float64(now.Sub(at)) / float64(period))
		at, was = now, is
		return share, time.Duration(worst.Swap(0))
	}
}

// steady tries, for the machine may stand still, up to five times whether a
// timer of 10 ms keeps that share of its firings over d: half where only a busy machine takes
// some, a tenth where other timers take the processor too. One that waits for another's Submit
// has none.
func steady(t *testing.T, s *Service, d time.Duration, least float64) {
	t.Helper()
	beat := metronome(t, s)
	best := 0.0
	for try := 0; try < 5 && best < least; try++ {
		beat()
		<-time.After(d)
		share, _ := beat()
		best = max(best, share)
	}
	if best < least {
		t.Errorf("a timer of 10 ms has %.2f of its firings, want %.1f or more", best, least)
	}
}

// TestGoneSubmittersWithRunningCallbacksDelayNobody: the driver closes their
// Sets, and waits for none of the callbacks.
func TestGoneSubmittersWithRunningCallbacksDelayNobody(t *testing.T) {
	s := started(t, Config{}, newWorkers(t, 2))
	const n = 1000
	var release sync.WaitGroup
	release.Add(1)
	defer release.Done()
	var running atomic.Int64
	subs, sets := make([]*strand, n), make([]*Set, n)
	for i := range n {
		subs[i] = &strand{}
		sets[i] = s.For(subs[i])
		must(t, sets[i].SetTimer(1, time.Millisecond, 0, func(Firing) { running.Add(1); release.Wait() }))
	}
	within(t, time.Minute, "all callbacks run", func() bool { return running.Load() == n })
	beat := metronome(t, s)
	for i, sub := range subs {
		sub.fail(net.ErrClosed)
		must(t, sets[i].SetTimer(2, 300*time.Millisecond, 0, func(Firing) {})) // what finds that it has gone
	}
	within(t, time.Minute, "all Sets are closed", func() bool { return s.Len() == 1 })
	<-time.After(100 * time.Millisecond)          // for a firing that was held up
	if _, late := beat(); late > 10*time.Second { // 20 ms for each Set were twenty seconds
		t.Errorf("an unrelated timer came %v late", late)
	}
}

// TestSubmitThatBlocksHoldsUpItsOwnSetOnly: a Submit that breaks its promise.
func TestSubmitThatBlocksHoldsUpItsOwnSetOnly(t *testing.T) {
	for _, together := range []bool{false, true} {
		s := started(t, Config{}, newWorkers(t, 2))
		if together {
			crowd(t, s)
			becomes(t, s, true)
		}
		open := make(chan struct{})
		var blocked, ran atomic.Int64
		for range 20 {
			set := s.For(submitFunc(func(fn func()) error {
				blocked.Add(1)
				<-open
				fn()
				return nil
			}))
			must(t, set.SetTimer(1, 20*time.Millisecond, 1, func(Firing) { ran.Add(1) }))
		}
		within(t, time.Minute, "all Submits block", func() bool { return blocked.Load() == 20 })
		steady(t, s, time.Second, 0.1)
		other := make(chan bool)
		must(t, s.For(&strand{}).SetTimer(1, time.Millisecond, 1, func(Firing) { close(other) }))
		<-other
		close(open)
		within(t, time.Minute, "what was held up has run", func() bool { return ran.Load() == 20 })
	}
}

// TestSubmitThatBlocksDelaysWhatIsDueWithIt: nothing else wakes the driver.
func TestSubmitThatBlocksDelaysWhatIsDueWithIt(t *testing.T) {
	const most = 500 * time.Millisecond // where it waits, all of two seconds
	best := time.Hour
	for try := 0; try < 4 && best > most; try++ { // the machine may stand still
		s := started(t, Config{Watchdog: 10 * time.Second}, newWorkers(t, 2))
		open := make(chan struct{})
		stuck := submitFunc(func(fn func()) error { <-open; fn(); return nil })
		for range 3 {
			must(t, s.For(stuck).SetTimer(1, 30*time.Millisecond, 1, func(Firing) {}))
		}
		late := make(chan time.Duration, 1)
		must(t, s.For(&strand{}).SetTimer(1, 30*time.Millisecond, 1, func(f Firing) { late <- f.Late }))
		select {
		case d := <-late:
			best = min(best, d)
		case <-time.After(2 * time.Second):
		}
		close(open)
	}
	if best > most {
		t.Errorf("late by %v, want some ticks", best)
	}
}

// TestGoexitWithinSubmitEndsNoTimer: a callback that runs within Submit ends the
// goroutine that drives.
func TestGoexitWithinSubmitEndsNoTimer(t *testing.T) {
	s := started(t, Config{}, inline{})
	var good atomic.Int64
	for i := range TimerID(40) {
		must(t, s.SetTimer(i, time.Millisecond, 3, func(Firing) {
			if i%2 == 0 {
				runtime.Goexit()
			}
			good.Add(1)
		}))
	}
	within(t, time.Minute, "the others have run", func() bool { return good.Load() == 60 && s.Len() == 0 })
	steady(t, s, 300*time.Millisecond, 0.1)
}

// TestSubmitThatPanicsBehindItsWorkRunsNothingTwice: it has queued the firings,
// then panics, and they are offered again.
func TestSubmitThatPanicsBehindItsWorkRunsNothingTwice(t *testing.T) {
	pool := newWorkers(t, 2)
	var calls atomic.Int64
	s := started(t, Config{}, submitFunc(func(fn func()) error {
		_ = pool.Submit(fn)
		if calls.Add(1)%2 == 1 {
			panic("on purpose")
		}
		return nil
	}))
	const n = 2000
	var runs [n]atomic.Int64
	for i := range n {
		must(t, s.SetTimer(TimerID(i), time.Duration(i%20)*time.Millisecond, 1, func(Firing) { runs[i].Add(1) }))
	}
	within(t, time.Minute, "all have ended", func() bool { return s.Len() == 0 })
	for i := range n {
		if got := runs[i].Load(); got != 1 {
			t.Fatalf("timer %d ran %d times, want 1", i, got)
		}
	}
	if st := s.Stats(); st.Fired != n || st.Stale != 0 {
		t.Errorf("Fired %d, Stale %d; want %d, 0", st.Fired, st.Stale, n)
	}
}

// TestKillDoesNotWaitForItsRun: nor does a new setting, a reset, or the end of
// the Set; and no new run starts.
func TestKillDoesNotWaitForItsRun(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(*Set)
	}{
		{"KillTimer", func(s *Set) { s.KillTimer(1) }},
		{"KillAllTimers", func(s *Set) { s.KillAllTimers() }},
		{"Close", func(s *Set) { s.Close() }},
		{"ResetTimer", func(s *Set) { s.ResetTimer(1, time.Hour) }},
		{"SetTimer", func(s *Set) { _ = s.SetTimer(1, time.Hour, 1, func(Firing) {}) }},
	} {
		for _, own := range []bool{false, true} {
			if own && c.name == "Close" {
				continue
			}
			t.Run(c.name, func(t *testing.T) {
				pool := newWorkers(t, 4)
				s := started(t, Config{}, pool)
				set := s.For(pool)
				if own {
					set = &s.own
				}
				best := time.Hour
				for try := 0; try < 5 && best > 100*time.Millisecond; try++ {
					var began atomic.Int64
					release := make(chan struct{})
					must(t, set.SetTimer(1, time.Millisecond, 0, func(Firing) { began.Add(1); <-release }))
					within(t, time.Minute, "a run", func() bool { return began.Load() == 1 })
					begin := time.Now()
					c.end(set)
					best = min(best, time.Since(begin))
					close(release)
					<-time.After(20 * time.Millisecond)
					if n := began.Load(); n != 1 {
						t.Fatalf("%d runs began after it", n-1)
					}
					if c.name == "Close" {
						set = s.For(pool)
					}
				}
				if best > 100*time.Millisecond {
					t.Errorf("it took %v while its run went on", best)
				}
			})
		}
	}
}

// TestKillTimerWaitWaits: until the run has returned, also one of a setting
// that was replaced, until ctx ends, and never in a callback.
func TestKillTimerWaitWaits(t *testing.T) {
	s := started(t, Config{}, newWorkers(t, 4))
	run := func() (release chan struct{}, ended *atomic.Bool) {
		release, ended = make(chan struct{}), &atomic.Bool{}
		began := make(chan struct{})
		must(t, s.SetTimer(1, time.Millisecond, 1, func(Firing) { close(began); <-release; ended.Store(true) }))
		<-began
		return release, ended
	}
	release, ended := run()
	must(t, s.SetTimer(1, time.Hour, 1, func(Firing) {}))
	time.AfterFunc(30*time.Millisecond, func() { close(release) })
	if toCome, err := s.KillTimerWait(t.Context(), 1); err != nil || !toCome || !ended.Load() {
		t.Errorf("got %v, %v, the run before it ended: %v; want true, nil, true", toCome, err, ended.Load())
	}

	release, _ = run()
	s.KillTimer(1)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.KillTimerWait(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a run that goes on: got %v, want DeadlineExceeded", err)
	}
	if _, err := s.KillTimerWait(t.Context(), 2); err != nil {
		t.Errorf("another id: got %v, want nil", err)
	}
	close(release)

	got := make(chan error, 1)
	must(t, s.SetTimer(3, time.Millisecond, 0, func(Firing) {
		_, err := s.KillTimerWait(context.Background(), 3)
		got <- err
	}))
	select {
	case err := <-got:
		if !errors.Is(err, ErrInCallback) {
			t.Errorf("in its own callback: got %v, want ErrInCallback", err)
		}
	case <-time.After(time.Minute):
		t.Fatal("it waits for itself")
	}
	if _, err := s.KillTimerWait(t.Context(), 3); err != nil {
		t.Errorf("after that run: got %v, want nil", err)
	}
}
