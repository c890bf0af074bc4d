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

// metronome has a timer of 10 ms go, and returns how often it fires.
func metronome(t *testing.T, set *Set, late *atomic.Int64) *atomic.Int64 {
	t.Helper()
	n := new(atomic.Int64)
	must(t, set.SetTimer(1<<30, 10*time.Millisecond, 0, func(f Firing) {
		n.Add(1)
		if late != nil {
			late.Store(max(late.Load(), int64(f.Late)))
		}
	}))
	within(t, time.Minute, "the first firing", func() bool { return n.Load() > 0 })
	return n
}

// goesOn fails the test if a timer of 10 ms does not: one that waits for another's Submit has no firings.
func goesOn(t *testing.T, set *Set) {
	t.Helper()
	n := metronome(t, set, nil)
	was := n.Load()
	within(t, time.Minute, "20 firings of a timer of 10 ms", func() bool { return n.Load()-was >= 20 })
}

// keepsUp fails the test unless a timer of 10 ms has that share of the firings of a ticker, which
// loses what the machine takes, in one of ten times d.
func keepsUp(t *testing.T, set *Set, d time.Duration, least float64) {
	t.Helper()
	n := metronome(t, set, nil)
	beat := time.NewTicker(10 * time.Millisecond)
	defer beat.Stop()
	best := 0.0
	for try := 0; try < 10 && best < least; try++ {
		was, beats := n.Load(), 0
		for end := time.Now().Add(d); time.Now().Before(end); beats++ {
			<-beat.C
		}
		best = max(best, float64(n.Load()-was)/float64(beats))
	}
	if best < least {
		t.Errorf("a timer of 10 ms has %.2f of the firings of a ticker, want %.2f or more", best, least)
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
	var worst atomic.Int64
	n10 := metronome(t, &s.own, &worst)
	was := n10.Load()
	for i, sub := range subs {
		sub.fail(net.ErrClosed)
		must(t, sets[i].SetTimer(2, 300*time.Millisecond, 0, func(Firing) {})) // what finds that it has gone
	}
	within(t, time.Minute, "all Sets are closed", func() bool { return s.Len() == 1 })
	within(t, time.Minute, "a firing that was held up", func() bool { return n10.Load() > was+1 })
	if late := time.Duration(worst.Load()); late > 10*time.Second { // 20 ms for each Set were twenty seconds
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
		goesOn(t, &s.own)
		other := make(chan bool)
		must(t, s.For(&strand{}).SetTimer(1, time.Millisecond, 1, func(Firing) { close(other) }))
		<-other
		close(open)
		within(t, time.Minute, "what was held up has run", func() bool { return ran.Load() == 20 })
	}
}

// TestSubmitThatBlocksDelaysWhatIsDueWithIt: nothing else wakes the driver.
func TestSubmitThatBlocksDelaysWhatIsDueWithIt(t *testing.T) {
	s := started(t, Config{Watchdog: 10 * time.Second}, newWorkers(t, 2))
	open := make(chan struct{})
	stuck := submitFunc(func(fn func()) error { <-open; fn(); return nil })
	for range 3 {
		must(t, s.For(stuck).SetTimer(1, 30*time.Millisecond, 1, func(Firing) {}))
	}
	fired := make(chan bool, 1)
	must(t, s.For(&strand{}).SetTimer(1, 30*time.Millisecond, 1, func(Firing) { fired <- true }))
	select {
	case <-fired:
	case <-time.After(9 * time.Second): // before the watchdog's
		t.Error("it waits for a Submit that blocks")
	}
	close(open)
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
	goesOn(t, &s.own)
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
				var began atomic.Int64
				release := make(chan struct{})
				must(t, set.SetTimer(1, time.Millisecond, 0, func(Firing) { began.Add(1); <-release }))
				within(t, time.Minute, "a run", func() bool { return began.Load() == 1 })
				ended := make(chan bool)
				go func() { c.end(set); close(ended) }()
				select {
				case <-ended:
				case <-time.After(time.Minute):
					t.Error("it waits while its run goes on")
				}
				close(release)
				<-ended
				<-time.After(20 * time.Millisecond)
				if n := began.Load(); n != 1 {
					t.Fatalf("%d runs began after it", n-1)
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
