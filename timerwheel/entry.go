package timerwheel

import (
	"sync/atomic"
	"time"
)

// A state describes an entry's latest firing:
//
//	generation<<3 | parity | phase.
//
// The generation increases whenever a firing that was handed out must not run any more: on a kill,
// on a new setting, and at the end. A worker claims a firing by changing the state it was handed
// out with from idle to running, so a firing of an older generation never runs. The parity is that
// of the number of runs of this generation that have returned.
type state uint64

// The phases of a state.
const (
	idle    state = 0 // no firing is out, or one that no worker has claimed
	running state = 1 // a worker has claimed it and not returned from fn
	ended   state = 2 // the last one has returned; the entry is to be removed
	queued  state = 3 // idle, with a firing out; never stored
	phases  state = 3

	parity     state = 4
	generation state = 8
)

func (w state) claimed() state { return w | running }

// returned is what an idle state becomes when the run has returned.
func (w state) returned(last bool) state {
	if last {
		return w ^ parity | ended
	}
	return w ^ parity
}

func (w state) nextGeneration() state { return w&^(phases|parity) + generation }

// An entry is one timer: one cache line. Entries live in the slabs of their
// shard, are linked by index (0 means none) and are used again when their
// timer has ended. All fields but state are guarded by the shard's mutex.
type entry struct {
	// The driver only reads it: a locked store for each firing would wait for
	// all the cache misses before it.
	state atomic.Uint64

	id    TimerID
	fn    func(Firing) // nil while the entry is free
	due   int64        // monotonic deadline of the next firing, ns since tick 0
	every int64        // period, ns
	n     uint32       // firings handed out so far, low half when endless
	left  uint32       // firings still to hand out; n's high half when endless

	next, prev uint32 // the slot's list; next is also the free list
	hashNext   uint32 // the chain of the hash table
	tag        uint32 // group<<groupShift | endless | slot + 1, which is 0 on no slot
}

const (
	slotMask   = 1<<11 - 1
	endless    = 1 << 11
	groupShift = 12
	maxGroups  = 1 << (32 - groupShift) // groups with timers in one shard
)

// slot returns the slot that e is on, plus 1; 0 when on none.
func (e *entry) slot() uint32 { return e.tag & slotMask }

func (e *entry) setSlot(slotPlus1 uint32) { e.tag = e.tag&^slotMask | slotPlus1 }

// group returns the index of e's group in its shard.
func (e *entry) group() uint32 { return e.tag >> groupShift }

// start sets the firings to come; 0 is endless.
func (e *entry) start(repeat uint32) {
	e.n, e.left = 0, repeat
	e.tag &^= endless
	if repeat == 0 {
		e.tag |= endless
	}
}

// restart sets them to the number at the start.
func (e *entry) restart() {
	if e.tag&endless != 0 {
		e.start(0)
	} else {
		e.start(e.left + e.n)
	}
}

// count counts one firing, and returns its number and how many are left.
func (e *entry) count() (n uint64, left int64) {
	e.n++
	if e.tag&endless == 0 {
		e.left--
		return uint64(e.n), int64(e.left)
	}
	if e.n == 0 {
		e.left++
	}
	return uint64(e.left)<<32 | uint64(e.n), -1
}

// more reports whether a firing is still to be handed out.
func (e *entry) more() bool { return e.left != 0 || e.tag&endless != 0 }

func (e *entry) load() state { return state(e.state.Load()) }

func (e *entry) swap(from, to state) bool {
	return e.state.CompareAndSwap(uint64(from), uint64(to))
}

// out reports whether a firing has been handed out that has not returned: the number handed out
// equals the number returned, or is one more.
func (e *entry) out(w state) bool { return state(e.n)*parity&parity != w&parity }

// phase is w's phase, with queued told apart from idle.
func (e *entry) phase(w state) state {
	if w&phases == idle && e.out(w) {
		return queued
	}
	return w & phases
}

// quiet reports whether e needs no new generation: no firing is out, so no worker has the state,
// and the parity is that of no firings.
func (e *entry) quiet() bool {
	w := e.load()
	return w&(phases|parity) == 0 && !e.out(w)
}

// renew begins a new generation and returns the previous state. A firing that was not claimed
// before will not run. While one runs, renew does so only if evenRunning is set; otherwise it
// returns false.
//
// The generation of a quiet entry stays.
func (e *entry) renew(evenRunning bool) (was state, ok bool) {
	for {
		w := e.load()
		if w&phases == running && !evenRunning {
			return w, false
		}
		if w&(phases|parity) == 0 && !e.out(w) || e.swap(w, w.nextGeneration()) {
			return w, true
		}
	}
}

// A TimerID identifies a timer within its Set. Callers choose their own; IDs from 1<<63 up are
// allocated by After and Every.
type TimerID uint64

// A Firing is passed to a callback and describes the run.
type Firing struct {
	ID   TimerID
	N    uint64 // counts the timer's firings since it was set, from 1
	Left int64  // firings still to come; -1 when it repeats until killed
	// Late is the time since the deadline, never negative. After two callbacks that began within 2
	// µs, the next three share one reading of the clock, so it does not include their own
	// durations.
	Late time.Duration
}
