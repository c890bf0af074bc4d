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
