package timerwheel

import (
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

// TestTimersGoOnAfterTheLibraryWedges brings the library into the state of its
// issue 53: its goroutine holds a bucket's mutex and waits for it for ever, and
// so does every call that wants that bucket. Here the test holds them all.
func TestTimersGoOnAfterTheLibraryWedges(t *testing.T) {
	s := started(t, Config{}, newWorkers(t, 2))
	var ticks atomic.Int64
	var worst atomic.Int64
	must(t, s.SetTimer(1, 10*time.Millisecond, 0, func(f Firing) {
		ticks.Add(1)
		worst.Store(max(worst.Load(), int64(f.Late)))
	}))
	<-time.After(100 * time.Millisecond)
	locks := bucketLocks(t, s)
	for _, mu := range locks {
		mu.Lock()
	}
	defer func() { // let the wedged wheel's goroutines end
		for _, mu := range locks {
			mu.Unlock()
		}
	}()
	begin := time.Now()
	fired := make(chan time.Duration, 100)
	for i := range 100 { // none of these calls may block
		must(t, s.SetTimer(TimerID(100+i), time.Duration(i)*time.Millisecond, 1,
			func(Firing) { fired <- time.Since(begin) }))
	}
	if d := time.Since(begin); d > 10*time.Second { // the test would hold it up for ever
		t.Errorf("SetTimer blocked for %v with the wheel", d)
	}
	for range 100 {
		if at := <-fired; at > 20*time.Second {
			t.Errorf("fired %v after the wedge, want some 1 s", at)
		}
	}
	was := ticks.Load()
	for end := time.Now().Add(20 * time.Second); ticks.Load()-was < 15; <-time.After(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d firings of a 10 ms timer in 20 s after the wedge", ticks.Load()-was)
		}
	}
	if n := s.Stats().Rebuilds; n < 1 || n > 1+uint64(time.Since(begin)/time.Second) { // more than one where the machine stood still for the watchdog's time
		t.Errorf("Rebuilds: got %d, want 1", n)
	}
	t.Logf("worst lateness of the repeating timer: %v", time.Duration(worst.Load()))
}

// bucketLocks returns the mutexes of the current wheel's buckets.
func bucketLocks(t *testing.T, s *Service) []*sync.Mutex {
	s.wheels.mu.Lock()
	defer s.wheels.mu.Unlock()
	w := reflect.ValueOf(s.wheels.current.wheel.(library).w).Elem()
	var locks []*sync.Mutex
	buckets := w.FieldByName("buckets")
	for i := range buckets.Len() {
		mu := buckets.Index(i).Elem().FieldByName("mu")
		locks = append(locks, (*sync.Mutex)(unsafe.Pointer(mu.UnsafeAddr())))
	}
	if len(locks) == 0 {
		t.Fatal("the library has no buckets any more")
	}
	return locks
}

// deaf is a wheel that takes everything and brings nothing up, as one whose
// library timer was lost does for that slot.
type deaf struct {
	wheel
	lose func() bool
}

func (d deaf) after(t time.Duration, f func()) {
	if !d.lose() {
		d.wheel.after(t, f)
	}
}

// TestLostLibraryTimersHoldNothingBack loses two in three.
func TestLostLibraryTimersHoldNothingBack(t *testing.T) {
	s, err := New(Config{}, newWorkers(t, 2))
	must(t, err)
	var calls atomic.Int64
	s.wheels.make = func(tick time.Duration, size int) wheel {
		return deaf{newLibrary(tick, size), func() bool { return calls.Add(1)%3 != 0 }}
	}
	must(t, s.Start(t.Context()))
	defer stopped(t, s)
	var wg sync.WaitGroup
	const n = 2000
	wg.Add(n)
	for i := range n {
		must(t, s.SetTimer(TimerID(i), time.Duration(i)*time.Millisecond, 1, func(f Firing) {
			if f.Late > 20*time.Second {
				t.Errorf("timer %d came %v late", f.ID, f.Late)
			}
			wg.Done()
		}))
	}
	wg.Wait()
}

// TestSlotsThatComeUpEarlyDoNotFire has a wheel that is always too soon.
func TestSlotsThatComeUpEarlyDoNotFire(t *testing.T) {
	s, err := New(Config{}, newWorkers(t, 2))
	must(t, err)
	s.wheels.make = func(tick time.Duration, size int) wheel { return hasty{newLibrary(tick, size)} }
	must(t, s.Start(t.Context()))
	defer stopped(t, s)
	var wg sync.WaitGroup
	for i := range TimerID(300) {
		wg.Add(1)
		begin, d := time.Now(), time.Duration(i)*3*time.Millisecond
		must(t, s.SetTimer(i, d, 1, func(Firing) {
			if at := time.Since(begin); at < d || at > d+20*time.Second {
				t.Errorf("timer of %v fired after %v", d, at)
			}
			wg.Done()
		}))
	}
	wg.Wait()
	if s.Stats().Early == 0 {
		t.Error("Early: got 0")
	}
}

type hasty struct{ wheel }

func (h hasty) after(d time.Duration, f func()) { h.wheel.after(d/10, f) }
