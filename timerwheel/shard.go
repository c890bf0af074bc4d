package timerwheel

import (
	"sync"
	"time"
)

// A shard is one lock's part of the timers.
type shard struct {
	mu    sync.Mutex
	slab  slab
	table table
	rings [levels * ringLen]ring
	quiet int // watchdog rounds in a row without a timer

	_ [64]byte // the next shard's mutex has a cache line of its own
}

// farFuture bounds deadlines: 146 years, which leaves room to add a period.
const farFuture = 1 << 62

func deadline(now int64, every time.Duration) int64 {
	if d := now + int64(every); d >= now && d < farFuture {
		return d
	}
	return farFuture
}

// set starts the timer, or starts it anew when it lives.
func (sh *shard) set(s *Service, set *Set, id TimerID, every time.Duration, repeat int, fn func(Firing)) error {
	h := hash(set.salt, id)
	now := s.now()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i, e := sh.table.find(&sh.slab, set, id, h)
	if e == nil {
		if err := s.admit(set); err != nil {
			return err
		}
		i, e = sh.slab.alloc()
		e.id, e.set = id, set
		sh.table.add(&sh.slab, i, e, h)
		sh.join(set, i, e)
	} else {
		e.renew()
	}
	e.fn, e.every, e.n = fn, int64(every), 0
	e.left = int64(repeat)
	if repeat == 0 {
		e.left = forever
	}
	sh.move(s, i, e, deadline(now, every), now)
	return nil
}

// reset starts a live timer anew with another period.
func (sh *shard) reset(s *Service, set *Set, id TimerID, every time.Duration) bool {
	h := hash(set.salt, id)
	now := s.now()
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i, e := sh.table.find(&sh.slab, set, id, h)
	if e == nil || e.ended() {
		return false
	}
	if every <= 0 && e.left+int64(e.n) != 1 {
		return false
	}
	e.renew()
	if e.left != forever {
		e.left += int64(e.n)
	}
	e.every, e.n = int64(every), 0
	sh.move(s, i, e, deadline(now, every), now)
	return true
}

// move gives e a new deadline. Lazily: an entry whose slot comes up no later
// than that stays where it is and is re-hung when the slot does.
func (sh *shard) move(s *Service, i uint32, e *entry, due, now int64) {
	e.due = due
	if e.slot != 0 {
		if s.upBefore(e.slot-1, due) {
			return
		}
		sh.rings[e.slot-1].remove(&sh.slab, i, e)
	}
	sh.hang(s, i, e, now)
}

// hang puts e on the slot of its deadline and has that slot armed.
func (sh *shard) hang(s *Service, i uint32, e *entry, now int64) {
	level, key := where(s.tickAfter(e.due), now/s.tick)
	slot := slotOf(level, key)
	e.slot = slot + 1
	sh.rings[slot].push(&sh.slab, i, e)
	s.arm(level, key)
}

// kill ends the timer and reports whether it had a firing ahead of it.
func (sh *shard) kill(s *Service, set *Set, id TimerID) bool {
	h := hash(set.salt, id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i, e := sh.table.find(&sh.slab, set, id, h)
	if e == nil || e.ended() {
		return false // a worker in the last run takes it away itself
	}
	sh.drop(s, i, e, h)
	return true
}

// drop takes e out of everything and frees it.
func (sh *shard) drop(s *Service, i uint32, e *entry, h uint32) {
	if e.slot != 0 {
		sh.rings[e.slot-1].remove(&sh.slab, i, e)
	}
	sh.table.remove(&sh.slab, i, e, h)
	sh.leave(e.set, i, e)
	sh.slab.release(i, e)
	s.pending.Add(-1)
}

// join links e into its set's list. The service's own set has none: it is
// spread over all shards, and killing all of it walks their slabs.
func (sh *shard) join(set *Set, i uint32, e *entry) {
	set.n.Add(1)
	if set.own {
		return
	}
	if e.snext = set.head; e.snext != 0 {
		sh.slab.at(e.snext).sprev = i
	}
	set.head = i
}

func (sh *shard) leave(set *Set, i uint32, e *entry) {
	set.n.Add(-1)
	if set.own {
		return
	}
	if e.snext != 0 {
		sh.slab.at(e.snext).sprev = e.sprev
	}
	if e.sprev != 0 {
		sh.slab.at(e.sprev).snext = e.snext
	} else {
		set.head = e.snext
	}
}

// sweepLen entries are looked at for each hold of the shard's lock when all
// timers of a set are killed.
const sweepLen = 256

// sweep kills the set's timers in this shard, or with a nil set everybody's,
// and returns how many still had a firing ahead of them. It takes the lock at
// least once: who closed the set before has no SetTimer slip in behind it.
func (sh *shard) sweep(s *Service, set *Set) int {
	if set == nil || set.own {
		return sh.sweepSlab(s, set)
	}
	killed := 0
	for more := int64(1); more > 0; {
		sh.mu.Lock()
		if more == 1 {
			more = set.n.Load()
		}
		for k := 0; k < sweepLen && set.head != 0; k++ {
			killed += sh.end(s, set.head)
		}
		more -= sweepLen
		if set.head == 0 {
			more = 0
		}
		sh.mu.Unlock()
	}
	return killed
}

func (sh *shard) sweepSlab(s *Service, set *Set) int {
	killed := 0
	for from, end := uint32(1), uint32(2); from < end; from += sweepLen {
		sh.mu.Lock()
		end = sh.slab.fresh
		for i := from; i < min(end, from+sweepLen); i++ {
			if of := sh.slab.at(i).set; of != nil && (set == nil || of == set) {
				killed += sh.end(s, i)
			}
		}
		sh.mu.Unlock()
	}
	return killed
}

// end drops a live entry and returns 1 if it had a firing ahead of it.
func (sh *shard) end(s *Service, i uint32) int {
	e := sh.slab.at(i)
	killed := 1
	if e.ended() {
		killed = 0
	}
	sh.drop(s, i, e, e.hash())
	return killed
}

// trim gives the memory of a shard that has been without timers for some
// rounds of the watchdog back to the collector.
func (sh *shard) trim() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.table.count != 0 || sh.slab.fresh <= slabLen {
		sh.quiet = 0
		return
	}
	if sh.quiet++; sh.quiet > 4 {
		sh.slab, sh.table, sh.quiet = slab{}, table{}, 0
	}
}
