package timerwheel

import (
	"reflect"
	"runtime"
	"sync/atomic"
	"time"
)

// A runKey names one run of one timer; 0 is none.
//
// Between a worker's claim and the callback's first instruction lie a few
// nanoseconds in which the worker may lose its CPU; the callback would then be
// seen to begin after KillTimer has returned. So who meets a claimed run waits
// for it to return, for Config.KillWait at most: what goes on for longer than
// that has long begun. Not in a callback: the run may be the caller's own, and
// two callbacks may kill each other's timers.
type runKey uint64

// keyOf names the run that an entry's word speaks of.
func keyOf(index uint32, word uint64) runKey {
	if word&states != running {
		return 0
	}
	return runKey(word*0x9e3779b97f4a7c15^uint64(index)<<1) | 1
}

// maxMet bounds the runs that killing a whole set waits for. There are not more
// than the submitter has workers.
const maxMet = 1024

// returned is where workers leave the keys of runs whose timer was killed or
// set anew meanwhile. A later one may cover an earlier one up, which costs
// its waiter the time.
type returned [64]atomic.Uint64

func (r *returned) at(k runKey) *atomic.Uint64 { return &r[k>>57&63] }

func (r *returned) note(k runKey) { r.at(k).Store(uint64(k)) }

// wait waits for the runs met, for d together. No lock is held. It sleeps
// between looks, since a channel to each waiter would cost every run.
func (r *returned) wait(d time.Duration, met ...runKey) {
	if len(met) == 0 || inCallback() {
		return
	}
	begin := time.Now()
	tries := 0
	for _, k := range met {
		for r.at(k).Load() != uint64(k) && time.Since(begin) < d {
			if tries++; tries < 100 {
				runtime.Gosched()
			} else {
				time.Sleep(50 * time.Microsecond)
			}
		}
	}
}

// inCallback reports whether the calling goroutine is a worker in a callback.
func inCallback() bool {
	work := reflect.ValueOf((*batch).work).Pointer()
	var pcs [64]uintptr
	for from, size := 3, 8; ; from, size = from+size, len(pcs) {
		n := runtime.Callers(from, pcs[:size])
		for _, pc := range pcs[:n] {
			if f := runtime.FuncForPC(pc); f != nil && f.Entry() == work {
				return true
			}
		}
		if n < size || from > 1024 {
			return false
		}
	}
}
