package timerwheel

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// TestNeverEarly measures each firing against a monotonic reading taken before
// its SetTimer: over three ticks, with delays from 0 to 3 s.
func TestNeverEarly(t *testing.T) {
	n := shorter(1_000_000, 100_000) / 3
	var early, fired atomic.Int64
	var all sync.WaitGroup
	for _, tick := range []time.Duration{time.Millisecond, 5 * time.Millisecond, 10 * time.Millisecond} {
		s := started(t, Config{Tick: tick}, newWorkers(t, 2))
		base := time.Now()
		set := make([]time.Duration, n)
		delay := make([]time.Duration, n)
		rng := rand.New(rand.NewPCG(1, uint64(tick)))
		all.Add(n)
		fn := func(f Firing) {
			if d := time.Since(base) - set[f.ID] - delay[f.ID]; d < 0 {
				early.Add(1)
			}
			if f.Late < 0 {
				t.Errorf("Late: got %v", f.Late)
			}
			fired.Add(1)
			all.Done()
		}
		for i := range n {
			delay[i] = time.Duration(rng.Int64N(int64(3 * time.Second)))
			set[i] = time.Since(base)
			must(t, s.SetTimer(TimerID(i), delay[i], 1, fn))
		}
	}
	all.Wait()
	if early.Load() != 0 {
		t.Errorf("%d of %d fired early", early.Load(), fired.Load())
	}
	if fired.Load() != int64(3*n) {
		t.Errorf("fired %d, want %d", fired.Load(), 3*n)
	}
}

// TestLargeSlotDoesNotHoldUpTheNextTick moves a million timers of one coarse slot to finer slots
// while a timer with a period of one tick keeps firing.
func TestLargeSlotDoesNotHoldUpTheNextTick(t *testing.T) {
	fine, ticks, n := 0, 0, 1
	for ahead := int64(12); (fine < n || ticks == 0) && ahead <= 12*9; ahead *= 3 { // the machine may be slow, or stand still just then
		fine, ticks, n = largeSlot(t, ahead)
	}
	if fine < n {
		t.Errorf("%d of %d timers are on slots of one tick, want all", fine, n)
	}
	if ticks == 0 {
		t.Error("the timer of one tick did not fire")
	}
}

// largeSlot puts n timers on one slot of 256 ticks, so many slots ahead. It returns
// how many had cascaded 50 ms before they were due, and how often a timer of one tick
// fired meanwhile.
func largeSlot(t *testing.T, ahead int64) (fine, ticks, n int) {
	n = shorter(1_000_000, 100_000)
	if underRace {
		n = 100_000 // a million take longer than the slot's period
	}
	s := started(t, Config{}, newWorkers(t, 2))
	var mu sync.Mutex
	var worst time.Duration
	var fired int
	// All due within one slot.
	at := (s.now()/s.tick>>fanBits+ahead)<<fanBits*s.tick + int64(100*time.Millisecond)
	for i := range n {
		must(t, s.SetTimer(TimerID(i), time.Duration(at-s.now()), 1, func(Firing) {}))
	}
	must(t, s.SetTimer(TimerID(n), time.Millisecond, 0, func(f Firing) {
		mu.Lock()
		worst = max(worst, f.Late)
		fired++
		mu.Unlock()
	}))
	// Until 50 ms before they are due: cascaded by then, none fired.
	<-time.After(time.Duration(at-s.now()) - 50*time.Millisecond)
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for slot := range sh.lists[:ringLen] {
			fine += int(sh.lists[slot].n)
		}
		sh.mu.Unlock()
	}
	mu.Lock()
	defer mu.Unlock()
	t.Logf("worst lateness of %d firings: %v", fired, worst)
	if *long && worst > 40*time.Millisecond {
		t.Errorf("a timer of one tick came %v late while others cascaded", worst)
	}
	return fine, fired, n
}

// TestCascadingGoesInSteps: one step moves a bounded number of entries, however many are in the
// slot, and timers that are due fire between two steps.
func TestCascadingGoesInSteps(t *testing.T) {
	const most = cascadeStep * moveLen
	const n = 5 * most
	s := started(t, Config{Shards: 2}, inline{})
	d := &s.drive
	d.driving.Lock() // nobody else drives
	defer d.driving.Unlock()
	due := (s.now()/s.tick>>fanBits + 40) << fanBits * s.tick
	for i := range n {
		must(t, s.SetTimer(TimerID(i), time.Duration(due-s.now())+time.Millisecond, 1, func(Firing) {}))
	}
	slot := slotOf(1, due/s.tick>>fanBits)
	left := func() int { return int(s.shards[0].lists[slot].n + s.shards[1].lists[slot].n) }
	if left() != n {
		t.Fatalf("%d entries on the slot, want %d", left(), n)
	}
	// The entries go back to the same slot, it being too soon: the end of the
	// list is that of the beginning.
	d.coarse = append(d.coarse, job{slot: slot})
	moved, steps := 0, 0
	for ; len(d.coarse) > 0; steps++ {
		was := d.coarse[0]
		d.cascade()
		if len(d.coarse) > 0 && d.coarse[0].shard == was.shard && was.begun {
			if got := was.left - d.coarse[0].left; got > most {
				t.Fatalf("a step moved %d entries, want %d at most", got, most)
			} else {
				moved += got
			}
		}
		if steps > n {
			t.Fatal("cascading does not end")
		}
	}
	if steps < n/most || moved == 0 {
		t.Errorf("done in %d steps, want %d or more", steps, n/most)
	}
	if left() != n {
		t.Errorf("%d entries on the slot after it, want %d", left(), n)
	}
}
