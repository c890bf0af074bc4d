package timerwheel

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// doorway refuses with err until it is opened.
type doorway struct {
	to    Submitter
	err   atomic.Pointer[error]
	calls atomic.Int64
}

func newDoorway(to Submitter, err error) *doorway {
	d := &doorway{to: to}
	d.shut(err)
	return d
}

func (d *doorway) shut(err error) { d.err.Store(&err) }
func (d *doorway) open()          { d.err.Store(nil) }

func (d *doorway) Submit(fn func()) error {
	d.calls.Add(1)
	if err := d.err.Load(); err != nil {
		return *err
	}
	return d.to.Submit(fn)
}

// TestRefusedFiringsDelayNobody: what a tick costs does not grow with what is
// refused, and all of it runs when the submitters have room.
func TestRefusedFiringsDelayNobody(t *testing.T) {
	n := 100_000
	if underRace {
		n = 20_000 // a firing that is skipped takes many times as long
	}
	for _, c := range []struct {
		name string
		set  func(s *Service, full Submitter, i int) error
	}{
		{"a Set each", func(s *Service, full Submitter, i int) error {
			return s.For(full).SetTimer(1, time.Millisecond, 1, count)
		}},
		{"repeating", func(s *Service, full Submitter, i int) error {
			return s.For(full).SetTimer(1, time.Duration(100+i%400)*time.Millisecond, 2, count)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := started(t, Config{}, newWorkers(t, 2))
			full := newDoorway(newWorkers(t, 2), errors.New("full"))
			ran.Store(0)
			for i := range n {
				must(t, c.set(s, full, i))
			}
			within(t, 3*time.Minute, "all are refused", func() bool { return s.Stats().Waiting == n })
			was, begin := full.calls.Load(), time.Now()
			keepsUp(t, &s.own, time.Second, 0.5)
			ticks := int64(time.Since(begin) / time.Millisecond)
			if calls := full.calls.Load() - was; calls > 300*ticks {
				t.Errorf("%d Submits were tried again in %d ticks, want up to 256 for each", calls, ticks)
			}
			within(t, time.Minute, "Submits are tried again", func() bool { return full.calls.Load() > was+500 })
			full.open()
			within(t, 3*time.Minute, "all have run", func() bool { return ran.Load() >= int64(n) && s.Stats().Waiting == 0 })
		})
	}
	t.Run("one Set", func(t *testing.T) {
		s := started(t, Config{MaxPerSet: n}, newWorkers(t, 2))
		full := newDoorway(&strand{}, errors.New("full"))
		set := s.For(full)
		ran.Store(0)
		for i := range n {
			must(t, set.SetTimer(TimerID(i), time.Duration(i%500)*time.Millisecond, 1, count))
		}
		<-time.After(500 * time.Millisecond)
		keepsUp(t, &s.own, time.Second, 0.5)
		full.open()
		within(t, 3*time.Minute, "all have run", func() bool { return ran.Load() == int64(n) })
	})
	t.Run("the service's own", func(t *testing.T) {
		full := newDoorway(newWorkers(t, 2), errors.New("full"))
		s := started(t, Config{}, full)
		ran.Store(0)
		for i := range n {
			must(t, s.SetTimer(TimerID(i), time.Duration(i%500)*time.Millisecond, 1, count))
		}
		<-time.After(500 * time.Millisecond)
		keepsUp(t, s.For(newWorkers(t, 1)), time.Second, 0.5)
		full.open()
		within(t, 3*time.Minute, "all have run", func() bool { return ran.Load() == int64(n) })
	})
}

var ran atomic.Int64

func count(Firing) { ran.Add(1) }

// TestOwnTimersOutliveTheirPool: a pool that is closed, for it does not run yet
// or no more, closes no timer of the service's own, which fire when it does.
func TestOwnTimersOutliveTheirPool(t *testing.T) {
	pool := newDoorway(newWorkers(t, 2), fmt.Errorf("not running: %w", net.ErrClosed))
	s := started(t, Config{}, pool)
	for round := range 3 {
		fired := make(chan Firing, 100)
		must(t, s.SetTimer(1, time.Millisecond, 0, func(f Firing) { fired <- f }))
		_, err := s.After(5*time.Millisecond, func(f Firing) { fired <- f })
		must(t, err)
		<-time.After(50 * time.Millisecond)
		if len(fired) > 0 {
			t.Fatalf("round %d: fired without a pool", round)
		}
		pool.open()
		seen := map[TimerID]int{}
		for end := time.After(time.Minute); len(seen) < 2 || seen[1] < 3; {
			select {
			case f := <-fired:
				seen[f.ID]++
			case <-end:
				t.Fatalf("round %d: fired %v with the pool running", round, seen)
			}
		}
		if n := s.Stats().Dropped; n != 0 {
			t.Errorf("round %d: %d timers dropped", round, n)
		}
		stopped(t, s)
		pool.shut(net.ErrClosed)
		must(t, s.Start(t.Context()))
	}
}
