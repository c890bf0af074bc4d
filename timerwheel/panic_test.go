package timerwheel

import (
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

type lines struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestPanicsAreContained has a thousand timers end badly in three ways among a
// thousand that don't: all of those run, and each way is logged once.
func TestPanicsAreContained(t *testing.T) {
	const n = 1000
	var log lines
	s := started(t, Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, goEach{})
	var good sync.WaitGroup
	good.Add(n)
	var nilMap map[int]int
	for i := range TimerID(2 * n) {
		fn := func(Firing) { good.Done() }
		if i%2 == 1 {
			switch i / 2 % 3 {
			case 0:
				fn = func(Firing) { panic(errors.New("on purpose")) }
			case 1:
				fn = func(Firing) { nilMap[1] = 1 }
			case 2:
				fn = func(Firing) { runtime.Goexit() }
			}
		}
		must(t, s.SetTimer(i, time.Duration(i%50)*time.Millisecond, 1, fn))
	}
	good.Wait()
	for end := time.Now().Add(time.Minute); s.Len() > 0 && time.Now().Before(end); {
		runtime.Gosched()
	}
	if s.Len() != 0 {
		t.Errorf("Len: got %d, want 0", s.Len())
	}
	st := s.Stats()
	if st.Panics != n || st.Fired != 2*n {
		t.Errorf("Panics %d, Fired %d; want %d, %d", st.Panics, st.Fired, n, 2*n)
	}
	if got := strings.Count(log.String(), "panic in a callback"); got != 3 {
		t.Errorf("%d log lines, want 3:\n%s", got, log.String())
	}
}

// goEach runs each block on a goroutine of its own, which a Goexit may end.
type goEach struct{}

func (goEach) Submit(fn func()) error { go fn(); return nil }

// TestPanickingSubmitterIsTriedAgain: a firing is not lost with it.
func TestPanickingSubmitterIsTriedAgain(t *testing.T) {
	var calls atomic.Int64
	s := started(t, Config{}, submitFunc(func(fn func()) error {
		if calls.Add(1) < 4 {
			panic("on purpose")
		}
		fn()
		return nil
	}))
	done := make(chan bool)
	must(t, s.SetTimer(1, time.Millisecond, 1, func(Firing) { close(done) }))
	<-done
	if st := s.Stats(); st.Panics != 3 || st.Refused != 3 {
		t.Errorf("Panics %d, Refused %d; want 3, 3", st.Panics, st.Refused)
	}
}

type submitFunc func(func()) error

func (f submitFunc) Submit(fn func()) error { return f(fn) }
