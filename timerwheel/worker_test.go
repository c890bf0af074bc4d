package timerwheel

import (
	"testing"
	"time"
)

// TestLateSeesASlowCallback: sharing a reading of the clock among quick callbacks
// hides a slow one from seven of those behind it at most.
func TestLateSeesASlowCallback(t *testing.T) {
	const n, slow, pause = 200, 40, 30 * time.Millisecond
	s := started(t, Config{Shards: 1}, inline{})
	late := make([]time.Duration, 0, n)
	done := make(chan struct{})
	for i := range n {
		must(t, s.SetTimer(TimerID(i), time.Hour, 1, func(f Firing) {
			late = append(late, f.Late)
			if len(late) == slow {
				time.Sleep(pause)
			}
			if len(late) == n {
				close(done)
			}
		}))
	}
	sh := &s.shards[0]
	sh.mu.Lock() // one deadline for all, whatever the machine does: one batch
	now := s.now()
	for id := range TimerID(n) {
		i, e := sh.find(&s.own.g, id)
		sh.move(i, e, now, now)
	}
	sh.mu.Unlock()
	<-done
	for i, d := range late {
		if d < 0 || i >= slow+stride-1 && d < pause {
			t.Fatalf("firing %d: late by %v; number %d took %v", i+1, d, slow, pause)
		}
	}
}

// TestWorkersDoNotWaitToTidy: a shard that is locked for long keeps no worker from
// its callbacks; what has ended is taken away later.
func TestWorkersDoNotWaitToTidy(t *testing.T) {
	s := started(t, Config{Shards: 1}, newWorkers(t, 1))
	const n = 2000
	sh := &s.shards[0]
	gate := make(chan struct{})
	ran := make(chan struct{}, n)
	at := time.Now().Add(50 * time.Millisecond)
	for i := range n {
		must(t, s.SetTimer(TimerID(i), time.Until(at), 1, func(Firing) {
			<-gate
			ran <- struct{}{}
		}))
	}
	for onSlots := n; onSlots > 0; time.Sleep(time.Millisecond) { // until all are handed out
		onSlots = 0
		sh.mu.Lock()
		for i := range sh.lists {
			onSlots += int(sh.lists[i].n)
		}
		sh.mu.Unlock()
	}
	sh.lockBusy()
	close(gate)
	timeout := time.After(time.Minute)
	for i := range n {
		select {
		case <-ran:
		case <-timeout:
			sh.unlockBusy()
			t.Fatalf("%d callbacks ran, the next waits for the lock", i)
		}
	}
	sh.unlockBusy()
	for end := time.Now().Add(time.Minute); s.Len() > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d ended timers are left", s.Len())
		}
	}
}
