package timerwheel

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A shard is the part of the timers that one lock guards.
type shard struct {
	mu          sync.Mutex
	busy        atomic.Bool // mu is held by lockBusy
	c           *common
	index       uint32 // in core.shards
	slab        slab
	table       table
	groups      []*group // those with timers here; [0] is the service's own
	spare       []uint32 // free indexes of groups
	lists       [levels * ringLen]slotList
	emptyRounds int // rounds of the watchdog in a row without a timer

	_ [64]byte // the next shard's mutex has a cache line of its own
}

// lockBusy locks sh for work on many entries.
func (sh *shard) lockBusy() {
	sh.mu.Lock()
	sh.busy.Store(true)
}

func (sh *shard) unlockBusy() {
	sh.busy.Store(false)
	sh.mu.Unlock()
}

// set starts the timer, or restarts it if it is live.
func (sh *shard) set(g *group, id TimerID, every time.Duration, repeat int, fn func(Firing)) error {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i, e, h, now := sh.findNow(g, id)
	if e == nil {
		if err := sh.admit(g); err != nil {
			return err
		}
		i, e = sh.slab.alloc()
		e.id = id
		if sh.join(g, i, e); !g.own {
			h = sh.table.hash(g.index, id) // it may have an index only now
		}
		sh.table.add(&sh.slab, i, e, h)
	} else if !e.quiet() {
		if !sh.mayCancel(g, e) {
			sh.c.count.tooMany.Add(1)
			return ErrTooManyTimers
		}
		sh.supersede(g, e)
	}
	e.fn, e.every = fn, int64(every)
	e.start(uint32(repeat))
	sh.move(i, e, deadline(now, every), now)
	return nil
}

// reset restarts a live timer with another period.
func (sh *shard) reset(g *group, id TimerID, every time.Duration) bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i, e, _, now := sh.findNow(g, id)
	if e == nil || every <= 0 && (e.tag&endless != 0 || e.left+e.n != 1) {
		return false
	}
	if !e.quiet() {
		if !sh.mayCancel(g, e) {
			return false
		}
		if p := sh.supersede(g, e); (p == running || p == ended) && !e.more() {
			sh.remove(g, i, e) // its last run has begun: there is nothing to reset
			return false
		}
	}
	e.every = int64(every)
	e.restart()
	sh.move(i, e, deadline(now, every), now)
	return true
}

// A death describes a killed timer.
type death struct {
	toCome bool  // a firing was still to come
	phase  state // of the latest firing; a queued one never runs
}

func (sh *shard) kill(g *group, id TimerID) death {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	i, e := sh.find(g, id)
	if e == nil {
		return death{}
	}
	return sh.end(g, i, e)
}

// end ends a live timer. sh is locked.
func (sh *shard) end(g *group, i uint32, e *entry) death {
	p := idle
	if !e.quiet() {
		p = sh.supersede(g, e)
	}
	d := death{toCome: p == idle || p == queued || e.more(), phase: p}
	sh.remove(g, i, e)
	return d
}

// supersede begins a new generation of e, so that no firing of the previous one runs any more, and
// returns the phase of the latest. sh is locked.
func (sh *shard) supersede(g *group, e *entry) (phase state) {
	w, ok := e.renew(false)
	if !ok {
		w = sh.c.runs.supersede(g, e)
	}
	p := e.phase(w)
	if p == queued {
		g.cancelled.Add(1)
		sh.c.count.cancelled.Add(1)
	}
	return p
}

// admit checks whether the group may have one more timer, and counts it. sh is locked.
func (sh *shard) admit(g *group) error {
	count := &sh.c.count
	if !sh.c.live.Load() {
		return ErrNotRunning
	}
	if g.closed.Load() {
		return ErrSetClosed
	}
	if !g.own && g.held() >= g.limit || sh.slab.full() || sh.noIndex(g) {
		count.tooMany.Add(1)
		return ErrTooManyTimers
	}
	if count.pending.Add(1)+count.cancelled.Load() > sh.c.maxTimers {
		count.pending.Add(-1)
		count.tooMany.Add(1)
		return ErrTooManyTimers
	}
	return nil
}

// noIndex reports whether the group would need an index and there is none.
func (sh *shard) noIndex(g *group) bool {
	return !g.own && g.index == 0 && len(sh.spare) == 0 && len(sh.groups) == maxGroups
}

// mayCancel reports whether e may be set again, which leaves a queued firing to be discarded by its
// worker. Live timers need no room at the limit for this: such firings are allowed in addition, at
// most half as many as the limit.
func (sh *shard) mayCancel(g *group, e *entry) bool {
	if e.phase(e.load()) != queued {
		return true
	}
	return (g.own || g.cancelled.Load() < (g.limit+1)/2) &&
		sh.c.count.cancelled.Load() < (sh.c.maxTimers+1)/2
}

// move sets e's deadline, lazily: an entry whose slot expires no later than that stays there until
// then.
func (sh *shard) move(i uint32, e *entry, due, now int64) {
	e.due = due
	if slot := e.slot(); slot != 0 {
		if sh.c.slots.expiresBefore(slot-1, due) {
			return
		}
		sh.lists[slot-1].remove(&sh.slab, i, e)
	}
	sh.insert(i, e, now/sh.c.tick)
}

// insert puts e on the slot of its deadline and arms that slot.
func (sh *shard) insert(i uint32, e *entry, nowTick int64) {
	level, key := place(sh.c.tickAfter(e.due), nowTick)
	slot := slotOf(level, key)
	e.setSlot(slot + 1)
	sh.lists[slot].push(&sh.slab, i, e)
	sh.c.slots.arm(level, key)
}

// find returns the group's live timer with that id. sh is locked.
func (sh *shard) find(g *group, id TimerID) (uint32, *entry) {
	if g.index == 0 && !g.own {
		return 0, nil // it has no timers
	}
	return sh.table.find(&sh.slab, g.index, id, sh.table.hash(g.index, id))
}

// findNow is find, and reads the clock while the entry's cache line is being loaded. It returns the
// hash and the clock too.
func (sh *shard) findNow(g *group, id TimerID) (i uint32, e *entry, h uint32, now int64) {
	if g.index == 0 && !g.own {
		return 0, nil, 0, sh.c.now()
	}
	h = sh.table.hash(g.index, id)
	i, e = sh.table.likely(&sh.slab, h)
	now = sh.c.now()
	if e != nil && (e.id != id || e.group() != g.index) {
		i, e = sh.table.find(&sh.slab, g.index, id, h)
	}
	return i, e, h, now
}

// remove removes e, which has been renewed, from all lists and counts.
func (sh *shard) remove(g *group, i uint32, e *entry) {
	sh.detach(g, i, e)
	sh.c.count.pending.Add(-1)
}

// detach is remove without the counting.
func (sh *shard) detach(g *group, i uint32, e *entry) {
	if slot := e.slot(); slot != 0 {
		sh.lists[slot-1].remove(&sh.slab, i, e)
	}
	sh.table.remove(&sh.slab, i, e, sh.table.hash(g.index, e.id))
	sh.leave(g, i)
	sh.slab.release(i, e)
}

// join makes e one of g's timers and links it into g's list. The service's own
// group has none: it is spread over all shards, and killing all of it walks
// their slabs. admit has seen to it that there is an index.
func (sh *shard) join(g *group, i uint32, e *entry) {
	if g.own {
		e.tag = 0
		return
	}
	if g.live.Add(1) == 1 {
		last := len(sh.spare) - 1
		if last < 0 {
			sh.groups = append(sh.groups, nil)
			g.index = uint32(len(sh.groups) - 1)
		} else {
			g.index = sh.spare[last]
			sh.spare = sh.spare[:last]
		}
		sh.groups[g.index] = g
	}
	e.tag = g.index << groupShift
	sh.slab.needLink(i)
	if g.head != 0 {
		sh.slab.link(g.head).prev = i
	}
	*sh.slab.link(i) = link{next: g.head}
	g.head = i
}

func (sh *shard) leave(g *group, i uint32) {
	if g.own {
		return
	}
	l := *sh.slab.link(i)
	if l.next != 0 {
		sh.slab.link(l.next).prev = l.prev
	}
	if l.prev != 0 {
		sh.slab.link(l.prev).next = l.next
	} else {
		g.head = l.next
	}
	if g.live.Add(-1) == 0 {
		sh.groups[g.index] = nil
		sh.spare = append(sh.spare, g.index)
		g.index = 0
	}
}

const (
	sweepLen  = 256 // entries looked at for each hold of the shard's lock when all of a group are killed
	trimLen   = 256 // buckets of the table merged for each hold
	emptyMost = 2   // rounds of the watchdog without a timer until a shard's memory is given back
)

// sweep kills the group's timers in this shard, or with nil those of all groups, and returns how
// many still had a firing to come. It takes the lock at least once, so that no SetTimer that began
// before the group was closed is missed.
func (sh *shard) sweep(g *group) (toCome int) {
	if g == nil || g.own {
		return sh.sweepSlab(g)
	}
	for more, first := int64(1), true; more > 0; first = false {
		sh.mu.Lock()
		if first {
			more = g.live.Load()
		}
		for k := 0; k < sweepLen && g.head != 0; k++ {
			if sh.end(g, g.head, sh.slab.at(g.head)).toCome {
				toCome++
			}
		}
		more -= sweepLen
		sh.mu.Unlock()
	}
	return toCome
}

// sweepSlab kills the timers of the service's own group, or with nil those of all groups.
func (sh *shard) sweepSlab(g *group) (toCome int) {
	for from, end := uint32(1), uint32(2); from < end; from += sweepLen {
		sh.mu.Lock()
		end = sh.slab.end()
		for i := from; i < min(end, from+sweepLen); i++ {
			if !sh.slab.present(i) {
				continue
			}
			e := sh.slab.at(i)
			if e.fn == nil || g != nil && e.group() != 0 {
				continue
			}
			if sh.end(sh.groups[e.group()], i, e).toCome {
				toCome++
			}
		}
		sh.mu.Unlock()
	}
	return toCome
}

// trim shrinks the table if it is far too large, and releases memory without timers to the garbage
// collector.
func (sh *shard) trim() {
	for more := true; more; {
		sh.mu.Lock()
		more = sh.table.count != 0 && sh.table.trim(&sh.slab, trimLen)
		sh.mu.Unlock()
	}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.table.count != 0 {
		sh.emptyRounds = 0
		sh.slab.trim()
		sh.trimGroups()
		return
	}
	if sh.emptyRounds++; sh.emptyRounds == emptyMost {
		sh.slab, sh.table = slab{}, table{seed: sh.table.seed}
		sh.groups, sh.spare = []*group{sh.groups[0]}, nil
	}
}

// trimGroups removes the free indexes at the end of groups.
func (sh *shard) trimGroups() {
	n := len(sh.groups)
	for n > 1 && sh.groups[n-1] == nil {
		n--
	}
	if n > len(sh.groups)/2 {
		return
	}
	sh.groups = slices.Clone(sh.groups[:n])
	sh.spare = slices.Clone(slices.DeleteFunc(sh.spare, func(i uint32) bool { return int(i) >= n }))
}
