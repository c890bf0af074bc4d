package timerwheel

import (
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// atOnce sets n timers of set that are due at one tick; fn is told which.
func atOnce(t *testing.T, s *Service, set *Set, n int, fn func(i int, f Firing)) {
	t.Helper()
	for i := range n {
		must(t, set.SetTimer(TimerID(i), time.Hour, 1, func(f Firing) { fn(i, f) }))
	}
	now := s.now()
	s.drive.driving.Lock() // none is handed out before all are due
	for i := range n {
		sh := s.shardOf(&set.g, TimerID(i))
		sh.mu.Lock()
		k, e := sh.find(&set.g, TimerID(i))
		sh.move(k, e, now, now)
		sh.mu.Unlock()
	}
	s.drive.driving.Unlock()
	s.drive.wake()
}

// TestSlowCallbackOfTheServiceDelaysNoOther: while a worker is free, those that
// are due with it run there.
func TestSlowCallbackOfTheServiceDelaysNoOther(t *testing.T) {
	for _, c := range []struct {
		name    string
		slow, n int
	}{{"first", 1, 400}, {"seven of eight workers", 7, 400}, {"of two batches", 3, 1000}, {"of two timers", 1, 2}} {
		t.Run(c.name, func(t *testing.T) {
			s := started(t, Config{}, newWorkers(t, 8))
			var all, quick sync.WaitGroup
			all.Add(c.n)
			quick.Add(c.n - c.slow)
			var order atomic.Int64
			release := make(chan struct{})
			done := make(chan struct{})
			atOnce(t, s, &s.own, c.n, func(int, Firing) {
				defer all.Done()
				if order.Add(1) <= int64(c.slow) {
					<-release
					return
				}
				quick.Done()
			})
			go func() { quick.Wait(); close(done) }()
			select {
			case <-done:
			case <-time.After(time.Minute):
				t.Error("callbacks wait for one that is slow")
			}
			close(release)
			all.Wait()
		})
	}
}

// TestSlowCallbackOfASetKeepsItsOrder: those behind it wait, also when those of
// later ticks are queued already.
func TestSlowCallbackOfASetKeepsItsOrder(t *testing.T) {
	s := started(t, Config{}, newWorkers(t, 8))
	set := s.For(&strand{})
	var mu sync.Mutex
	var order []int
	const n = 1000
	for i := range n {
		must(t, set.SetTimer(TimerID(i), time.Duration(1+i/100)*10*time.Millisecond, 1, func(Firing) {
			if i%100 == 10 {
				<-time.After(30 * time.Millisecond)
			}
			mu.Lock()
			defer mu.Unlock()
			order = append(order, i/100)
		}))
	}
	within(t, time.Minute, "all have run", func() bool { return s.Len() == 0 })
	if len(order) != n || !slices.IsSorted(order) {
		t.Errorf("%d of %d ran, in the order of their deadlines: %v", len(order), n, slices.IsSorted(order))
	}
}

// TestSplitBatchesRunEachFiringOnce has slow and quick callbacks, kills and new
// settings meet in batches that are split all the time.
func TestSplitBatchesRunEachFiringOnce(t *testing.T) {
	s := started(t, Config{}, newWorkers(t, 6))
	const n = 600
	var runs [n]atomic.Int64
	for round := range 6 {
		atOnce(t, s, &s.own, n, func(i int, _ Firing) {
			runs[i].Add(1)
			if i%97 == round {
				<-time.After(10 * time.Millisecond)
			}
		})
		within(t, time.Minute, "all have run", func() bool { return s.Len() == 0 })
		for i := range n {
			if got := runs[i].Load(); got != int64(round+1) {
				t.Fatalf("round %d: timer %d ran %d times in all", round, i, got)
			}
		}
	}
	if got := s.count.cancelled.Load(); got != 0 {
		t.Errorf("%d firings are counted as cancelled, want 0", got)
	}
}
