package timerwheel

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func soonDone(t *testing.T, d time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// TestStopWaitsForCallbacksUntilItsContextEnds: one on a worker, one that runs
// within Submit, and a Submit that blocks. A later Stop waits again.
func TestStopWaitsForCallbacksUntilItsContextEnds(t *testing.T) {
	for _, c := range []struct {
		name string
		sub  func(release chan struct{}) Submitter
	}{
		{"on a worker", func(chan struct{}) Submitter { return newWorkers(t, 2) }},
		{"within Submit", func(chan struct{}) Submitter { return inline{} }},
		{"Submit blocks", func(release chan struct{}) Submitter {
			return submitFunc(func(fn func()) error { fn(); <-release; return nil })
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			release := make(chan struct{})
			s := started(t, Config{}, c.sub(release))
			began := make(chan struct{})
			var after atomic.Int64
			must(t, s.SetTimer(1, time.Millisecond, 1, func(Firing) { close(began); <-release }))
			<-began
			must(t, s.SetTimer(2, 150*time.Millisecond, 0, func(Firing) { after.Add(1) }))
			if err := s.Stop(soonDone(t, 30*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("with a callback that goes on: got %v, want DeadlineExceeded", err)
			}
			if s.Running() {
				t.Error("Running after it: got true")
			}
			if err := s.SetTimer(3, time.Hour, 1, func(Firing) {}); !errors.Is(err, ErrNotRunning) {
				t.Errorf("SetTimer after it: got %v, want ErrNotRunning", err)
			}
			was := after.Load()
			if err := s.Stop(soonDone(t, 300*time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("once more: got %v, want DeadlineExceeded", err)
			}
			close(release)
			stopped(t, s)
			if after.Load() != was {
				t.Error("a callback began after Stop")
			}
			must(t, s.Start(t.Context()))
			fired := make(chan bool)
			must(t, s.SetTimer(1, time.Millisecond, 1, func(Firing) { close(fired) }))
			<-fired
		})
	}
}

// TestStopInACallbackWaitsForNothing: on the worker, and on the goroutine that
// drives.
func TestStopInACallbackWaitsForNothing(t *testing.T) {
	for _, sub := range []Submitter{newWorkers(t, 2), inline{}} {
		s := started(t, Config{}, sub)
		got := make(chan error, 1)
		must(t, s.SetTimer(2, 20*time.Millisecond, 0, func(Firing) {}))
		must(t, s.SetTimer(1, time.Millisecond, 0, func(Firing) { got <- s.Stop(context.Background()) }))
		select {
		case err := <-got:
			if err != nil || s.Running() {
				t.Errorf("%T: got %v, Running %v; want nil, false", sub, err, s.Running())
			}
		case <-time.After(time.Minute):
			t.Fatalf("%T: Stop waits for its own callback", sub)
		}
		stopped(t, s)
		if len(got) > 0 || s.Len() > 0 {
			t.Errorf("%T: timers go on after it", sub)
		}
	}
}

// TestStopAtAnyTime: before Start, twice, with a context that has ended; and
// Start with one, which starts nothing.
func TestStopAtAnyTime(t *testing.T) {
	s, err := New(Config{}, inline{})
	must(t, err)
	over, cancel := context.WithCancel(context.Background())
	cancel()
	must(t, s.Stop(context.Background()))
	if err := s.Start(over); !errors.Is(err, context.Canceled) || s.Running() {
		t.Errorf("Start with an ended context: got %v, Running %v; want Canceled, false", err, s.Running())
	}
	must(t, s.Start(context.Background()))
	if err := s.Stop(over); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("Stop with an ended context: got %v", err)
	}
	if s.Running() {
		t.Error("Running after that: got true")
	}
	stopped(t, s)
	stopped(t, s)
}

// TestStopAmongSetsAndKills: many Stops at once, each with its own context,
// among calls of every kind. Nothing runs or is live after the last.
func TestStopAmongSetsAndKills(t *testing.T) {
	pool := newWorkers(t, 4)
	s := started(t, Config{}, pool)
	for round := range 12 {
		var stoppedAt, late atomic.Int64
		var wg sync.WaitGroup
		quit := make(chan struct{})
		for w := range 3 {
			set := s.For(pool)
			wg.Go(func() {
				for i := 0; ; i++ {
					select {
					case <-quit:
						return
					default:
					}
					id := TimerID(i%50 + w*50)
					fn := func(Firing) {
						if stoppedAt.Load() != 0 {
							late.Add(1)
						}
					}
					_ = set.SetTimer(id, time.Duration(i%3)*time.Millisecond+1, i%3, fn)
					_ = s.SetTimer(id, time.Duration(i%3)*time.Millisecond+1, i%3, fn)
					s.KillTimer(TimerID(i % 77))
					s.ResetTimer(id, time.Millisecond)
					if i%100 == 0 {
						set.KillAllTimers()
					}
				}
			})
		}
		<-time.After(time.Duration(5+round) * time.Millisecond)
		var stops sync.WaitGroup
		for i := range 4 {
			stops.Go(func() {
				if i == 0 {
					_ = s.Stop(soonDone(t, time.Microsecond))
				} else {
					stopped(t, s)
				}
			})
		}
		stops.Wait()
		stoppedAt.Store(1)
		<-time.After(5 * time.Millisecond)
		if late.Load() > 0 || s.Len() != 0 {
			t.Fatalf("round %d: %d callbacks began after Stop, %d timers are live", round, late.Load(), s.Len())
		}
		close(quit)
		wg.Wait()
		if n := s.Len(); n != 0 {
			t.Fatalf("round %d: %d timers were set after Stop", round, n)
		}
		must(t, s.Start(t.Context()))
	}
}
