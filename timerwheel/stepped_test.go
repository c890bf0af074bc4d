//go:build steppedclock

package timerwheel

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/RussellLuo/timingwheel"
)

// These run by TestClockSteps, in a build whose library reads timingwheel.Stepped.

const steppedTimers = 1000

// outcome counts the timers of a run by when they fired.
type outcome struct{ early, late, never, fine int64 }

// stepped sets timers with delays up to 4 s, half of them between the steps,
// steps the clock by -1 h after 1 s and by +2 h after 2 s, waits for what is
// missing, and says when the timers fired; over lag behind is late.
func stepped(t *testing.T, missing, lag time.Duration, set func(d time.Duration, fn func())) outcome {
	timingwheel.Stepped.Store(0)
	t.Cleanup(func() { timingwheel.Stepped.Store(0) })
	var early, late, fine atomic.Int64
	var all sync.WaitGroup
	some := func(n int) {
		for range n {
			d := rand.N(3*time.Second) + 100*time.Millisecond
			begin := time.Now()
			all.Add(1)
			set(d, func() {
				switch off := time.Since(begin) - d; {
				case off < 0:
					early.Add(1)
				case off > lag:
					late.Add(1)
				default:
					fine.Add(1)
				}
				all.Done()
			})
		}
	}
	some(steppedTimers / 2)
	<-time.After(time.Second)
	timingwheel.Stepped.Store(int64(-time.Hour))
	some(steppedTimers / 4)
	<-time.After(time.Second)
	timingwheel.Stepped.Store(int64(time.Hour))
	some(steppedTimers / 4)
	done := make(chan bool)
	go func() { all.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(missing):
	}
	o := outcome{early: early.Load(), late: late.Load(), fine: fine.Load()}
	o.never = steppedTimers - o.early - o.late - o.fine
	if o.never > 0 {
		all.Add(-int(o.never))
		<-done
	}
	return o
}

func TestSteppedClockMovesNoTimer(t *testing.T) {
	s, err := New(Config{}, newWorkers(t, 2))
	must(t, err)
	s.wall = func(now time.Time) int64 { return now.UnixNano() + timingwheel.Stepped.Load() }
	must(t, s.Start(t.Context()))
	defer stopped(t, s)
	var n atomic.Int64
	var worst atomic.Int64
	must(t, s.SetTimer(0, 20*time.Millisecond, 0, func(f Firing) {
		n.Add(1)
		worst.Store(max(worst.Load(), int64(f.Late)))
	}))
	begin := time.Now()
	o := stepped(t, 30*time.Second, 20*time.Second, func(d time.Duration, fn func()) {
		_, err := s.After(d, func(Firing) { fn() })
		must(t, err)
	})
	st := s.Stats()
	t.Logf("%+v; a repeating timer: %d firings, at most %v late; rebuilds %d, early slots %d", o, n.Load(), time.Duration(worst.Load()), st.Rebuilds, st.Early)
	if o.fine != steppedTimers {
		t.Errorf("%+v, want all fine", o)
	}
	if st.Rebuilds < 2 || st.Rebuilds > 2+uint64(time.Since(begin)/time.Second) { // more than two where the machine stood still for the watchdog's time
		t.Errorf("Rebuilds: got %d, want 2", st.Rebuilds)
	}
	if n.Load() < 20 || time.Duration(worst.Load()) > 20*time.Second {
		t.Errorf("the repeating timer: %d firings, at most %v late", n.Load(), time.Duration(worst.Load()))
	}
}

// TestSteppedRawLibraryFails is why the rest of this package exists: it keeps
// the claim that the library alone fails the same test true.
func TestSteppedRawLibraryFails(t *testing.T) {
	w := timingwheel.NewTimingWheel(time.Millisecond, 512)
	w.Start()
	t.Cleanup(func() {
		ended := make(chan bool)
		go func() { w.Stop(); close(ended) }()
		select { // it may have wedged
		case <-ended:
		case <-time.After(time.Second):
		}
	})
	// On goroutines of their own, for AfterFunc may block for ever.
	o := stepped(t, 4*time.Second, time.Second, func(d time.Duration, fn func()) { go w.AfterFunc(d, fn) })
	t.Logf("%+v", o)
	if o.early == 0 || o.late+o.never == 0 {
		t.Errorf("%+v: the library stands a stepped clock now", o)
	}
}
