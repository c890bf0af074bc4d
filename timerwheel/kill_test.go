package timerwheel

import (
	"flag"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var long = flag.Bool("long", false, "run the soaks at their full length")

// shorter is a soak's length: full with -long.
func shorter(full, otherwise int) int {
	if *long {
		return full
	}
	return otherwise
}

// gate hands what is submitted to the test.
type gate chan func()

func (g gate) Submit(fn func()) error { g <- fn; return nil }

// TestNoRunBeginsAfterKill races kills with a worker that goes through the
// same timers in the same order. A run begins when the worker claims it; the
// kill knows in which state it found the firing. What it found unclaimed must
// not run, however the two race.
func TestNoRunBeginsAfterKill(t *testing.T) {
	const width = 256
	g := make(gate, width)
	s := started(t, Config{Shards: 1}, g)
	sh := &s.shards[0]
	var runs, after [width]atomic.Int32
	var killed [width]atomic.Bool
	var found [4]int
	later := 0
	for round := range shorter(1_000_000, 200_000) / width {
		for i := range width {
			runs[i].Store(0)
			after[i].Store(0)
			killed[i].Store(false)
			must(t, s.SetTimer(TimerID(i), time.Hour, 1+i%2, func(Firing) {
				if killed[i].Load() {
					after[i].Add(1)
				}
				runs[i].Add(1)
			}))
		}
		for i := range width {
			makeDue(s, sh, TimerID(i))
		}
		var states [width]state
		var oks [width]bool
		var wg sync.WaitGroup
		run := <-g
		wg.Go(run)
		wg.Go(func() {
			lead := rand.IntN(width / 2)
			for k := range width {
				i := (k + lead*(round%3)) % width
				d := sh.kill(&s.own.g, TimerID(i))
				if err := s.runs.wait(t.Context(), func(r runOf) bool { return r.id == TimerID(i) }); err != nil {
					t.Error(err) // as KillTimerWait does
				}
				oks[i], states[i] = d.toCome, d.phase
				killed[i].Store(true)
			}
		})
		for done := false; !done; {
			wg.Wait()
			select { // the timers came in more than one block
			case run := <-g:
				run()
			default:
				done = true
			}
		}
		for i := range width {
			n := runs[i].Load()
			found[states[i]]++
			later += int(after[i].Load())
			switch {
			case states[i] == queued && n != 0:
				t.Fatalf("round %d timer %d: killed before its run was claimed, ran %d times", round, i, n)
			case (states[i] == running || states[i] == ended) && n != 1:
				t.Fatalf("round %d timer %d: claimed, did not run", round, i)
			}
		}
	}
	t.Logf("kills that found the timer gone or its firing idle, running, back, queued: %d", found)
	if later != 0 {
		t.Errorf("%d callbacks were entered after the kill returned", later)
	}
	if found[queued] == 0 {
		t.Error("no kill found a queued firing: the race was not exercised")
	}
}

// makeDue has a timer fire now, and not again before its period is over.
func makeDue(s *Service, sh *shard, id TimerID) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i, e := sh.find(&s.own.g, id)
	sh.move(i, e, s.now(), s.now())
}

// TestKilledFromItsOwnCallback kills and sets anew from inside.
func TestKilledFromItsOwnCallback(t *testing.T) {
	s := started(t, Config{}, newWorkers(t, 2))
	done := make(chan Firing, 10)
	must(t, s.SetTimer(1, time.Millisecond, 0, func(f Firing) {
		if f.N == 3 && !s.KillTimer(1) {
			t.Error("KillTimer of an endless timer in its own run: got false")
		}
		done <- f
	}))
	must(t, s.SetTimer(2, time.Millisecond, 1, func(Firing) {
		if s.KillTimer(2) {
			t.Error("KillTimer of a one-shot in its own run: got true")
		}
		must(t, s.SetTimer(2, time.Millisecond, 2, func(f Firing) { done <- f }))
	}))
	for range 5 {
		<-done
	}
	time.Sleep(20 * time.Millisecond)
	if len(done) != 0 || s.Len() != 0 {
		t.Errorf("%d more runs, Len %d; want none", len(done), s.Len())
	}
}
