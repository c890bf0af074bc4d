package cputime

import (
	"runtime"
	"sync/atomic"
	"testing"
	"time"
)

// A thread's time counts what it computes, and not what it waits or others compute.
func TestThreadCountsItsOwnWork(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var stop atomic.Bool
	defer stop.Store(true)
	go func() {
		for !stop.Load() {
		}
	}()
	before, process := Thread(), Process()
	<-time.After(50 * time.Millisecond)
	if d := Thread() - before; d > 25*time.Millisecond {
		t.Errorf("%v while it waited", d)
	}
	for Thread()-before < 20*time.Millisecond {
	}
	if d := Process() - process; d < 20*time.Millisecond {
		t.Errorf("the process used %v, one thread more", d)
	}
}

// A mark tells who has computed from who has waited.
func TestAMarkKnowsWhoHasWaited(t *testing.T) {
	for try := 0; ; try++ { // the runtime may put this goroutine aside
		from, mark := Thread(), Here()
		for Thread()-from < 2*time.Millisecond {
		}
		if ran, ok := mark.Ran(); ok && ran >= 2*time.Millisecond {
			break
		}
		if try == 1000 {
			t.Fatal("it never only computed")
		}
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	mark := Here()
	time.Sleep(time.Millisecond)
	if ran, ok := mark.Ran(); ok {
		t.Errorf("ran for %v, and never slept", ran)
	}
}
