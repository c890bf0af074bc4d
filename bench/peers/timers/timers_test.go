package timers

import (
	"flag"
	"sync"
	"testing"
	"time"

	"github.com/aceld/zinx/zlog"
	"github.com/aceld/zinx/ztimer"

	"millrace/timerwheel"
	"millrace/timerwheel/timerbench"
)

var large = flag.Bool("large", false, "also measure 1M and 5M outstanding timers")

func BenchmarkTimers(b *testing.B) {
	zlog.SetLogLevel(zlog.LogFatal)
	sizes := timerbench.Sizes
	if *large {
		sizes = append(sizes[:len(sizes):len(sizes)], timerbench.LargeSizes...)
	}
	timerbench.Run(b, sizes, timerbench.Std(), timerbench.Ours(), timerbench.Library(), zinx())
}

// zinx is its timer scheduler: wheels of a second, a minute and an hour whose
// slots are maps, looked at each 50 ms; 0 to 100 ms early by design. It can't
// be stopped, so a run leaves its goroutines behind.
func zinx() timerbench.Rival {
	return timerbench.Rival{Name: "zinx", Coarse: true, Max: 1_000_000, Make: func(sub timerwheel.Submitter) timerbench.Timers {
		return &wheel{s: ztimer.NewAutoExecTimerScheduler(), sub: sub, ids: map[timerwheel.TimerID]*timer{}}
	}}
}

type wheel struct {
	s   *ztimer.TimerScheduler
	sub timerwheel.Submitter
	mu  sync.Mutex
	ids map[timerwheel.TimerID]*timer
}

// A timer is what the scheduler lacks: the caller's id, repeats, a check that
// it has not been killed.
type timer struct {
	id    uint32
	fn    func(timerwheel.Firing)
	every time.Duration
	due   time.Time
	n     uint64
	left  int64
	gone  bool
}

func (w *wheel) SetTimer(id timerwheel.TimerID, every time.Duration, repeat int, fn func(timerwheel.Firing)) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.kill(id)
	t := &timer{fn: fn, every: every, left: int64(repeat), due: time.Now().Add(every)}
	if repeat == 0 {
		t.left = -1
	}
	w.ids[id] = t
	return w.arm(id, t)
}

func (w *wheel) arm(id timerwheel.TimerID, t *timer) (err error) {
	t.id, err = w.s.CreateTimerAt(ztimer.NewDelayFunc(func(...any) { w.fire(id, t) }, nil), t.due.UnixNano())
	return err
}

func (w *wheel) fire(id timerwheel.TimerID, t *timer) {
	w.mu.Lock()
	if t.gone {
		w.mu.Unlock()
		return
	}
	t.n++
	if t.left > 0 {
		t.left--
	}
	f := timerwheel.Firing{ID: id, N: t.n, Left: t.left, Late: time.Since(t.due)}
	if t.left == 0 {
		delete(w.ids, id)
	} else {
		t.due = t.due.Add(t.every)
		w.arm(id, t)
	}
	w.mu.Unlock()
	w.sub.Submit(func() { t.fn(f) })
}

func (w *wheel) KillTimer(id timerwheel.TimerID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.kill(id)
}

func (w *wheel) kill(id timerwheel.TimerID) bool {
	t := w.ids[id]
	if t == nil {
		return false
	}
	t.gone = true
	delete(w.ids, id)
	w.s.CancelTimer(t.id)
	return true
}

func (w *wheel) Close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for id := range w.ids {
		w.kill(id)
	}
}
