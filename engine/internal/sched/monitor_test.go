package sched

import (
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A worker is blocked when one step takes long, not when a turn of quick ones does, nor
// while the monitor's own lateness tells that processors are short.
func TestBlockedIsOneStepThatTakesLong(t *testing.T) {
	p := New(Config{Workers: 1, Spare: 4, MaxQueue: 1, StallAfter: 100 * time.Millisecond})
	w := &worker{}
	p.workers = append(p.workers, w)
	p.state.Store(stateStopping) // the spare worker ends when it has run what waits
	ran := make(chan bool)
	p.shards[0].pushFn(func() { close(ran) })
	j := newJob(nil)
	pass := func(n int, step uint32, late time.Duration) uint64 {
		for range n {
			if p.spawned.Load() > 0 {
				break // it reads the clock
			}
			p.epoch = p.epoch.Add(-time.Millisecond)
			j.step.Add(step)
			p.look(late)
		}
		return p.spawned.Load()
	}
	w.since.Store(p.now())
	w.task.Store(&j.Task)
	if n := pass(40, 1, 0); n != 0 {
		t.Errorf("%d spare workers for a turn of quick steps", n)
	}
	if n := j.long.Load(); n < 30 {
		t.Errorf("its owner was told %d times of a turn of 40 ms", n)
	}
	if n := pass(20, 0, 20*time.Millisecond); n != 0 {
		t.Errorf("%d spare workers while processors are short", n)
	}
	j.step.Add(1)
	if n := pass(4, 0, 0); n != 0 {
		t.Errorf("%d spare workers before their time", n)
	}
	if n := pass(3, 0, 0); n == 0 {
		t.Error("no spare worker for one that is blocked")
	}
	select {
	case <-ran:
	case <-time.After(time.Minute):
		t.Error("the spare worker did not run what waited")
	}
}

// After the whole process was suspended, no callback is reported as stalled.
func TestStallIsNotTimeThatStoodStill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{Workers: 1, MaxQueue: 1, StallAfter: 100 * time.Millisecond, Logger: (&logText{}).logger()})
		w := &worker{}
		p.workers = append(p.workers, w)
		w.since.Store(p.now())
		time.Sleep(time.Minute)
		p.look(time.Minute)
		if n := p.Stats().Stalls; n != 0 {
			t.Error("reported at the first look after a pause of a minute")
		}
		time.Sleep(100 * time.Millisecond)
		p.look(0)
		if n := p.Stats().Stalls; n != 1 {
			t.Errorf("%d reported a tenth of a second later, want 1", n)
		}
		p.watch.Close()
	})
}

// The owner of a turn that lasts long is told until it ends, and not of a short one.
func TestOwnersAreToldOfLongTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Config{Workers: 2})
		defer stop(t, p)
		long := newJob(func(*job) { time.Sleep(40 * time.Millisecond) })
		short := newJob(func(*job) { time.Sleep(time.Millisecond) })
		p.Push(&long.Task, long.Task.Home())
		p.Push(&short.Task, short.Task.Home())
		time.Sleep(20 * time.Millisecond)
		if n := long.long.Load(); n < 2 {
			t.Errorf("told %d times within 20 ms", n)
		}
		time.Sleep(40 * time.Millisecond)
		n := long.long.Load()
		time.Sleep(time.Second)
		if now := long.long.Load(); now != n || short.long.Load() != 0 {
			t.Errorf("told %d times more after its end; of a short one %d times", now-n, short.long.Load())
		}
	})
}

// The monitor sleeps when there is nothing to do.
func TestMonitorSleepsWithoutWork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Config{Workers: 1})
		defer stop(t, p)
		var n atomic.Int32
		submit(t, p, func() { n.Add(1) })
		time.Sleep(time.Second)
		if p.watching.Load() || n.Load() != 1 {
			t.Errorf("awake a second after the last of %d functions", n.Load())
		}
	})
}
