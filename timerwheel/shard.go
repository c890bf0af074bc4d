package timerwheel

import (
	"sync"
	"sync/atomic"
	"time"
)

// A shard is one lock's part of the timers.
type shard struct {
	mu    sync.Mutex
	long  atomic.Bool // mu is held by lockLong
	index uint32      // in Service.shards
	slab  slab
	table table
	sets  []*Set   // those with timers here; [0] is the service's own
	spare []uint32 // free indexes of sets
	rings [levels * ringLen]ring
	quiet int // watchdog rounds in a row without a timer

	_ [64]byte // the next shard's mutex has a cache line of its own
}

// lockLong locks sh for work on many entries.
func (sh *shard) lockLong() {
	sh.mu.Lock()
	sh.long.Store(true)
}

func (sh *shard) unlockLong() {
	sh.long.Store(false)
	sh.mu.Unlock()
}

// farFuture bounds deadlines: 146 years, which leaves room to add a period.
const farFuture = 1 << 62

func deadline(now int64, every time.Duration) int64 {
	if d := now + int64(every); d >= now && d < farFuture {
		return d
	}
	return farFuture
}

// set starts the timer, or starts it anew when it lives; then met is the run
// of the old setting that it found claimed, if any.
func (sh *shard) set(s *Service, set *Set, id TimerID, every time.Duration, repeat int, fn func(Firing)) (met runKey, err error) {
	now := s.now()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i, e := sh.find(set, id)
	if e == nil {
		if err := s.admit(sh, set); err != nil {
			return 0, err
		}
		i, e = sh.slab.alloc()
		e.id = id
		sh.join(set, i, e)
		sh.table.add(&sh.slab, i, e, sh.table.hash(set.index, id))
	} else {
		met = keyOf(i, e.renew())
	}
	e.fn, e.every = fn, int64(every)
	e.start(uint32(repeat))
	sh.move(s, i, e, deadline(now, every), now)
	return met, nil
}

// reset starts a live timer anew with another period.
func (sh *shard) reset(s *Service, set *Set, id TimerID, every time.Duration) (ok bool, met runKey) {
	now := s.now()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i, e := sh.find(set, id)
	if e == nil || every <= 0 && (e.tag&endless != 0 || e.left+e.n != 1) {
		return false, 0
	}
	w := e.renew()
	if w&states != idle && !e.more() {
		sh.end(s, i, e) // its last run has begun: there is nothing to reset
		return false, 0
	}
	e.every = int64(every)
	e.restart()
	sh.move(s, i, e, deadline(now, every), now)
	return true, keyOf(i, w)
}

// move gives e a new deadline. Lazily: an entry whose slot comes up no later
// than that stays where it is and is re-hung when the slot does.
func (sh *shard) move(s *Service, i uint32, e *entry, due, now int64) {
	e.due = due
	if slot := e.slot(); slot != 0 {
		if s.upBefore(slot-1, due) {
			return
		}
		sh.rings[slot-1].remove(&sh.slab, i, e)
	}
	sh.hang(s, i, e, now/s.tick)
}

// hang puts e on the slot of its deadline and has that slot armed.
func (sh *shard) hang(s *Service, i uint32, e *entry, nowTick int64) {
	level, key := where(s.tickAfter(e.due), nowTick)
	slot := slotOf(level, key)
	e.setSlot(slot + 1)
	sh.rings[slot].push(&sh.slab, i, e)
	s.arm(level, key)
}

// A death is what a kill found.
type death struct {
	killed bool   // a firing was still to come
	state  uint64 // of the latest firing; one not yet running never will be
	met    runKey // the run, if one was claimed and not back yet
}

func (sh *shard) kill(s *Service, set *Set, id TimerID) death {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i, e := sh.find(set, id)
	if e == nil {
		return death{}
	}
	return sh.end(s, i, e)
}

// end ends a live timer. sh is locked.
func (sh *shard) end(s *Service, i uint32, e *entry) death {
	w := e.renew()
	d := death{killed: w&states == idle || e.more(), state: e.state(w), met: keyOf(i, w)}
	sh.drop(i, e)
	s.pending.Add(-1)
	return d
}

// find returns the set's live timer with that id. sh is locked.
func (sh *shard) find(set *Set, id TimerID) (uint32, *entry) {
	if set.index == 0 && !set.own {
		return 0, nil // it has no timers
	}
	return sh.table.find(&sh.slab, set.index, id, sh.table.hash(set.index, id))
}

// drop takes e, which has been renewed, out of everything and frees it. The caller
// counts it off.
func (sh *shard) drop(i uint32, e *entry) {
	if slot := e.slot(); slot != 0 {
		sh.rings[slot-1].remove(&sh.slab, i, e)
	}
	sh.table.remove(&sh.slab, i, e, sh.table.hash(e.set(), e.id))
	sh.leave(sh.sets[e.set()], i)
	sh.slab.release(i, e)
}

// join makes e one of set's timers and links it into the set's list. The
// service's own set has none: it is spread over all shards, and killing all of
// it walks their slabs. admit has seen to it that there is an index.
func (sh *shard) join(set *Set, i uint32, e *entry) {
	if set.own {
		e.tag = 0
		return
	}
	if set.n.Add(1) == 1 {
		last := len(sh.spare) - 1
		if last < 0 {
			sh.sets = append(sh.sets, nil)
			set.index = uint32(len(sh.sets) - 1)
		} else {
			set.index = sh.spare[last]
			sh.spare = sh.spare[:last]
		}
		sh.sets[set.index] = set
	}
	e.tag = set.index << setShift
	sh.slab.needLink(i)
	if set.head != 0 {
		sh.slab.link(set.head).prev = i
	}
	*sh.slab.link(i) = link{next: set.head}
	set.head = i
}

func (sh *shard) leave(set *Set, i uint32) {
	if set.own {
		return
	}
	l := *sh.slab.link(i)
	if l.next != 0 {
		sh.slab.link(l.next).prev = l.prev
	}
	if l.prev != 0 {
		sh.slab.link(l.prev).next = l.next
	} else {
		set.head = l.next
	}
	if set.n.Add(-1) == 0 {
		sh.sets[set.index] = nil
		sh.spare = append(sh.spare, set.index)
		set.index = 0
	}
}

// sweepLen entries are looked at for each hold of the shard's lock when all
// timers of a set are killed.
const sweepLen = 256

// sweep kills the set's timers in this shard, or with a nil set everybody's.
// It returns how many still had a firing ahead of them, and adds the runs that
// it met. It takes the lock at least once: who closed the set before has no
// SetTimer slip in behind it.
func (sh *shard) sweep(s *Service, set *Set, met *[]runKey) (killed int) {
	if set == nil || set.own {
		return sh.sweepSlab(s, set, met)
	}
	for more, first := int64(1), true; more > 0; first = false {
		sh.mu.Lock()
		if first {
			more = set.n.Load()
		}
		for k := 0; k < sweepLen && set.head != 0; k++ {
			killed += sh.end(s, set.head, sh.slab.at(set.head)).count(met)
		}
		more -= sweepLen
		sh.mu.Unlock()
	}
	return killed
}

// sweepSlab kills the timers of the service's own set, or with nil all.
func (sh *shard) sweepSlab(s *Service, set *Set, met *[]runKey) (killed int) {
	for from, end := uint32(1), uint32(2); from < end; from += sweepLen {
		sh.mu.Lock()
		end = sh.slab.fresh
		for i := from; i < min(end, from+sweepLen); i++ {
			e := sh.slab.at(i)
			if e.fn != nil && (set == nil || e.set() == 0) {
				killed += sh.end(s, i, e).count(met)
			}
		}
		sh.mu.Unlock()
	}
	return killed
}

// count returns 1 if a firing was still to come, and notes the run met.
func (d death) count(met *[]runKey) int {
	if d.met != 0 && len(*met) < maxMet {
		*met = append(*met, d.met)
	}
	if d.killed {
		return 1
	}
	return 0
}

// trimLen buckets of the table are merged for each hold of the shard's lock.
const trimLen = 256

// trim makes the table smaller if that is far too large, and gives the memory of
// a shard that has been without timers for some rounds of the watchdog back to
// the collector.
func (sh *shard) trim() {
	for more := true; more; {
		sh.mu.Lock()
		more = sh.table.count != 0 && sh.table.trim(&sh.slab, trimLen)
		sh.mu.Unlock()
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.table.count != 0 || sh.slab.fresh <= 2*blockLen {
		sh.quiet = 0
		return
	}
	if sh.quiet++; sh.quiet > 4 {
		sh.slab, sh.table, sh.quiet = slab{}, table{salt: sh.table.salt}, 0
	}
}
