package timerwheel

import (
	"errors"
	"runtime"
	"testing"
	"time"
)

// heap is what is in use after a collection.
func heap() float64 {
	var m runtime.MemStats
	for range 3 { // what sync.Pool keeps goes with the second
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// TestMemoryIsGivenBack: a service with some timers that go on holds as much
// after a load of many as before, however that ends.
func TestMemoryIsGivenBack(t *testing.T) {
	n := shorter(1_000_000, 100_000)
	pool := newWorkers(t, 2)
	for _, c := range []struct {
		name string
		load func(t *testing.T, s *Service)
	}{
		{"killed one by one", func(t *testing.T, s *Service) {
			for i := range n {
				must(t, s.SetTimer(TimerID(1<<20+i), time.Hour, 1, count))
			}
			for i := range n {
				s.KillTimer(TimerID(1<<20 + i))
			}
		}},
		{"set and killed", func(t *testing.T, s *Service) {
			for i := range n {
				must(t, s.SetTimer(TimerID(1<<20+i), time.Hour, 1, count))
				s.KillTimer(TimerID(1<<20 + i))
			}
		}},
		{"fired", func(t *testing.T, s *Service) {
			for i := range n {
				must(t, s.SetTimer(TimerID(1<<20+i), time.Duration(i%1000)*time.Millisecond, 1, count))
			}
		}},
		{"a Set each", func(t *testing.T, s *Service) {
			for range n {
				must(t, s.For(pool).SetTimer(1, time.Second, 1, count))
			}
		}},
		{"refused", func(t *testing.T, s *Service) {
			full := newDoorway(pool, errors.New("full"))
			for range n / 10 {
				must(t, s.For(full).SetTimer(1, time.Millisecond, 1, count))
			}
			within(t, time.Minute, "all are refused", func() bool { return s.Stats().Waiting == n/10 })
			full.open()
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := started(t, Config{Watchdog: 100 * time.Millisecond}, pool)
			for i := range 1000 {
				must(t, s.SetTimer(TimerID(i), time.Hour, 1, count))
			}
			pool.forget()
			before := heap()
			c.load(t, s)
			within(t, 60*time.Second, "the load has ended", func() bool { return s.Len() == 1000 })
			after := 0.0
			for end := time.Now().Add(time.Minute); time.Now().Before(end); <-time.After(100 * time.Millisecond) {
				pool.forget()
				if after = heap(); after <= 1.3*before {
					break
				}
			}
			t.Logf("heap: %.0f KiB before, %.0f KiB after", before/1024, after/1024)
			if after > 1.3*before {
				t.Errorf("the heap is %.2f times that before the load, want 1.3 at most", after/before)
			}
		})
	}
}

// forget drops the memory of a queue that has been long.
func (w *workers) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.head == len(w.queue) {
		w.queue, w.head = nil, 0
	}
}

// TestMemoryOfATimer: what one takes while it waits, and while its firing does.
func TestMemoryOfATimer(t *testing.T) {
	const n = 50_000
	full := newDoorway(newWorkers(t, 1), errors.New("full"))
	for _, c := range []struct {
		name string
		most float64
		set  func(s *Service, i int) error
		held bool
	}{
		{"own", 110, func(s *Service, i int) error { return s.SetTimer(TimerID(i), time.Hour, 1, count) }, false},
		{"of one Set", 120, nil, false},
		{"own, firing refused", 200, func(s *Service, i int) error { return s.SetTimer(TimerID(i), time.Millisecond, 1, count) }, true},
		{"of one Set, firing refused", 300, nil, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := started(t, Config{MaxPerSet: n}, full)
			set := s.For(full)
			if c.set == nil {
				c.set = func(_ *Service, i int) error {
					if c.held {
						return set.SetTimer(TimerID(i), time.Millisecond, 1, count)
					}
					return set.SetTimer(TimerID(i), time.Hour, 1, count)
				}
			}
			before := heap()
			for i := range n {
				must(t, c.set(s, i))
			}
			if c.held {
				within(t, time.Minute, "all are refused", func() bool { return onSlots(s) == 0 })
			}
			each := (heap() - before) / n
			t.Logf("%.0f bytes", each)
			if each > c.most {
				t.Errorf("%.0f bytes a timer, want %.0f at most", each, c.most)
			}
		})
	}
}

// TestMemoryOfFiringsThatComeOneByOne: each is a batch, and takes no more than it
// needs.
func TestMemoryOfFiringsThatComeOneByOne(t *testing.T) {
	const n, most = 500, 1000
	s := started(t, Config{}, newDoorway(newWorkers(t, 1), errors.New("full")))
	before := heap()
	for i := range n {
		must(t, s.SetTimer(TimerID(i), time.Duration(i)*time.Millisecond, 1, count))
	}
	within(t, time.Minute, "all are refused", func() bool { return onSlots(s) == 0 })
	if each := (heap() - before) / n; each > most {
		t.Errorf("%.0f bytes a timer, want %d at most", each, most)
	}
}

// onSlots is how many timers are on slots.
func onSlots(s *Service) (n int) {
	for i := range s.shards {
		sh := &s.shards[i]
		sh.mu.Lock()
		for k := range sh.lists {
			n += int(sh.lists[k].n)
		}
		sh.mu.Unlock()
	}
	return n
}

// TestCancelledFiringsCount: firings that wait for a submitter which is full are
// held, also those whose timer has been killed or set anew; so both limits
// bound them.
func TestCancelledFiringsCount(t *testing.T) {
	const limit = 100
	full := newDoorway(newWorkers(t, 1), errors.New("full"))
	for _, c := range []struct {
		name string
		cfg  Config
		own  bool
		next func(set *Set) error
	}{
		{"killed, MaxPerSet", Config{MaxPerSet: limit}, false, func(set *Set) error { set.KillTimer(1); return nil }},
		{"killed, MaxTimers", Config{MaxTimers: limit}, true, func(set *Set) error { set.KillTimer(1); return nil }},
		{"set anew, MaxPerSet", Config{MaxPerSet: limit}, false, nil},
		{"set anew, MaxTimers", Config{MaxTimers: limit}, true, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			full.shut(errors.New("full"))
			s := started(t, c.cfg, full)
			set := s.For(full)
			if c.own {
				set = &s.own
			}
			var err error
			n := 0
			for ; n <= 2*limit && err == nil; n++ {
				if err = set.SetTimer(1, 0, 1, count); err != nil {
					break
				}
				within(t, time.Minute, "it is handed out", func() bool { return onSlots(s) == 0 })
				if c.next != nil {
					err = c.next(set)
				}
			}
			if n > limit || n < limit/2-1 || !errors.Is(err, ErrTooManyTimers) {
				t.Errorf("after %d firings that wait: got %v, want ErrTooManyTimers within %d", n, err, limit)
			}
			full.open()
			within(t, time.Minute, "there is room again", func() bool {
				return set.SetTimer(2, time.Hour, 1, count) == nil && s.count.cancelled.Load() == 0
			})
			if n := set.g.cancelled.Load(); n != 0 {
				t.Errorf("%d firings are counted as cancelled, want 0", n)
			}
		})
	}
}
