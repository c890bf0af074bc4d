package timerwheel

import (
	"sync"
	"sync/atomic"
)

// A watchdog looks after the wheel and the memory, some times in each
// Config.Watchdog.
type watchdog struct {
	c      *common
	wheels *wheels
	shards []shard

	cameUp atomic.Bool // the wheel brought a slot up since the last round

	mu     sync.Mutex // held for a round
	rounds int
	silent int // rounds that found a slot overdue, since the wheel brought one up
}

const (
	watchRounds = 4 // in each Config.Watchdog
	silentMost  = 2 // silent rounds of a wheel that is given up
)

// round runs one round, unless the last one goes on. overdue says that a slot
// is armed which the wheel should have brought up long before.
func (w *watchdog) round(overdue bool) {
	if !w.mu.TryLock() {
		return
	}
	defer w.mu.Unlock()
	if w.cameUp.Swap(false) {
		w.silent = 0
	} else if overdue {
		w.silent++
	}
	if w.silent == silentMost {
		w.silent = 0
		w.wheels.giveUp()
	} else {
		w.wheels.check()
	}
	if w.rounds++; w.rounds%watchRounds == 0 {
		for i := range w.shards {
			w.shards[i].trim()
		}
	}
}

// wait waits for the round that goes on.
func (w *watchdog) wait() {
	w.mu.Lock()
	w.silent = 0
	w.mu.Unlock()
}
