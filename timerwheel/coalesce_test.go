package timerwheel

import (
	"sync/atomic"
	"testing"
	"time"
)

// dense is how many timers crowd sets: each tick of 1 ms fires 80, where 48 are enough to have
// ticks taken together.
const dense = 8000

// crowd sets timers of 100 ms that repeat, spread over one period.
func crowd(t *testing.T, s *Service) {
	t.Helper()
	const steps = 100
	for k := range steps {
		for i := k; i < dense; i += steps {
			must(t, s.SetTimer(TimerID(i), steps*time.Millisecond, 0, func(Firing) {}))
		}
		<-time.After(time.Millisecond)
	}
}

// becomes waits until the service coalesces ticks, or no longer does.
func becomes(t *testing.T, s *Service, together bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); s.drive.coalescing.Load() != together; {
		if time.Now().After(end) {
			t.Fatalf("coalescing: got %v, want %v", !together, together)
		}
		<-time.After(time.Millisecond)
	}
}

// TestWheelGetsSlotsBack: when coalescing of ticks ends, the wheel gets the slots that were set
// meanwhile. The watchdog runs too rarely here to find them.
func TestWheelGetsSlotsBack(t *testing.T) {
	s := started(t, Config{Watchdog: 10 * time.Second}, newWorkers(t, 2))
	crowd(t, s)
	becomes(t, s, true)
	const n = 50
	late := make(chan time.Duration, n)
	for i := range n {
		_, err := s.After(200*time.Millisecond+time.Duration(i)*time.Millisecond, func(f Firing) { late <- f.Late })
		must(t, err)
	}
	for i := range dense {
		s.KillTimer(TimerID(i))
	}
	becomes(t, s, false)
	for range n {
		select {
		case d := <-late:
			if d > 5*time.Second {
				t.Fatalf("a timer came %v late", d)
			}
		case <-time.After(time.Minute):
			t.Fatal("a timer was lost")
		}
	}
}

// TestShortPeriodsAreNotTakenTogether: a period of two ticks would lose every
// other firing.
func TestShortPeriodsAreNotTakenTogether(t *testing.T) {
	s := started(t, Config{}, newWorkers(t, 2))
	crowd(t, s)
	becomes(t, s, true)
	var n atomic.Int64
	must(t, s.SetTimer(1<<20, 2*time.Millisecond, 0, func(Firing) { n.Add(1) }))
	becomes(t, s, false)
	looks, again := 0, 0
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); <-time.After(time.Millisecond) {
		if looks++; s.drive.coalescing.Load() { // also where the timer has not fired for so long: the machine may stand still
			again++
		}
	}
	if again > looks/2 {
		t.Errorf("coalescing again: %d of %d looks", again, looks)
	}
	within(t, time.Minute, "it has fired", func() bool { return n.Load() > 0 })
	s.KillTimer(1 << 20)
	becomes(t, s, true)
}

// TestStopEndsCoalescing: a service that is stopped while it coalesces ticks starts without coalescing.
func TestStopEndsCoalescing(t *testing.T) {
	s := started(t, Config{}, newWorkers(t, 2))
	crowd(t, s)
	becomes(t, s, true)
	stopped(t, s)
	if s.drive.coalescing.Load() || s.clock.timer.Stop() {
		t.Error("the clock goes on after Stop")
	}
	must(t, s.Start(t.Context()))
	done := make(chan bool)
	_, err := s.After(20*time.Millisecond, func(Firing) { close(done) })
	must(t, err)
	select {
	case <-done:
	case <-time.After(time.Minute):
		t.Error("a timer of the second start was lost")
	}
}

// TestCoalescedTicksAreByCountOrSlack: as many are taken together as make
// coalescedFirings, within Slack and the shortest period.
func TestCoalescedTicksAreByCountOrSlack(t *testing.T) {
	for _, c := range []struct {
		slack   time.Duration
		perTick int64
		least   time.Duration
		want    int64 // 0: none
	}{
		{0, 100, time.Second, 8},
		{0, 200, time.Second, 4},
		{0, 60, time.Second, 8},
		{0, 5000, time.Second, 2},
		{0, 40, time.Second, 0},
		{0, 100, 6 * time.Millisecond, 5},
		{0, 100, 4050 * time.Microsecond, 3},
		{0, 100, 2 * time.Millisecond, 0},
		{3 * time.Millisecond, 100, time.Second, 3},
		{time.Millisecond, 100, time.Second, 0},
		{-1, 100, time.Second, 0},
	} {
		s, err := New(Config{Slack: c.slack}, inline{})
		must(t, err)
		d := &s.drive
		d.judged, d.fired, d.shortest = 1000, c.perTick*judgeTicks, int64(c.least)
		s.drive.judge(1000 + judgeTicks)
		got := d.together
		if !d.coalescing.Load() {
			got = 0
		}
		if got != c.want {
			t.Errorf("slack %v, %d a tick, shortest period %v: %d ticks together, want %d", c.slack, c.perTick, c.least, got, c.want)
		}
	}
}

// TestPassedTickWhileCoalescing: a timer may be set for a tick that was processed already, if its
// goroutine was preempted between reading the clock and taking the shard's lock.
func TestPassedTickWhileCoalescing(t *testing.T) {
	s := started(t, Config{Watchdog: 10 * time.Second}, newWorkers(t, 2))
	crowd(t, s)
	becomes(t, s, true)
	best := time.Hour
	for k := range 4 { // the machine may stand still in one
		done := make(chan time.Duration, 1)
		id := TimerID(1<<20 + k)
		must(t, s.SetTimer(id, time.Hour, 1, func(f Firing) { done <- f.Late }))
		sh := s.shardOf(&s.own.g, id)
		now := s.now()
		<-time.After(20 * time.Millisecond)
		sh.mu.Lock()
		i, e := sh.find(&s.own.g, id)
		sh.move(i, e, deadline(now, time.Millisecond), now)
		sh.mu.Unlock()
		best = min(best, <-done)
	}
	if best > 300*time.Millisecond { // 512 ticks when the ring has to come round
		t.Errorf("late by %v or more", best)
	}
}

// TestCoalescedTicksKeepBelowTheShortestPeriod: a timer of 4.05 ms, among many that could be brought
// up 8 ms together, is seen; it would have half of its firings. How few it makes them is
// TestCoalescedTicksAreByCountOrSlack's.
func TestCoalescedTicksKeepBelowTheShortestPeriod(t *testing.T) {
	s := started(t, Config{}, newWorkers(t, 2))
	crowd(t, s)
	becomes(t, s, true)
	const period = 4050 * time.Microsecond
	must(t, s.SetTimer(1<<20, period, 0, func(Firing) {}))
	within(t, time.Minute, "its period is the shortest", func() bool {
		s.drive.driving.Lock()
		defer s.drive.driving.Unlock()
		return s.drive.shortest == int64(period)
	})
}

// TestLateWakeAfterStop: what fired before Stop does not make the next start
// wait for a clock that nobody has set.
func TestLateWakeAfterStop(t *testing.T) {
	s := started(t, Config{Watchdog: 10 * time.Second}, newWorkers(t, 2))
	for try := range 8 {
		crowd(t, s)
		becomes(t, s, true)
		<-time.After(time.Duration(try*8) * time.Millisecond)
		stopped(t, s)
		<-time.After(45 * time.Millisecond)
		s.drive.wake() // as a slot's that came up early may
		must(t, s.Start(t.Context()))
		if s.drive.coalescing.Load() {
			t.Fatal("coalescing after Stop and Start")
		}
	}
}
