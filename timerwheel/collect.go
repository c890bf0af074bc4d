package timerwheel

import (
	"math"
	"slices"
	"time"
)

const (
	moveLen     = 256 // entries moved for each hold of a shard's lock
	cascadeStep = 16  // such blocks cascaded between two polls
	maxEntries  = math.MaxInt32
)

// A job is a slot being emptied, to batches or to finer slots.
type job struct {
	slot  uint32
	key   int64
	shard int  // being emptied
	left  int  // of its entries, still to be moved
	begun bool // left is set
}

// A collector empties slots, in bounded steps. Guarded by driver.driving.
type collector struct {
	c      *common
	shards []shard
	send   *sender
	coalescer

	due    []job // slots of level 0 to fire, in order
	coarse []job // slots to cascade
}

// fireStep hands out a block of the oldest slot that is due. It reports whether
// that was the last.
func (k *collector) fireStep() (last bool) {
	if k.advance(&k.due[0]) {
		k.due = slices.Delete(k.due, 0, 1)
	}
	return len(k.due) == 0
}

// cascade moves a step of the oldest coarse slot to finer ones.
func (k *collector) cascade() {
	for step := cascadeStep; step > 0 && len(k.coarse) > 0; step-- {
		if k.advance(&k.coarse[0]) {
			k.coarse = slices.Delete(k.coarse, 0, 1)
		}
	}
}

// advance moves a block of the slot's entries. It reports whether the slot is
// done.
func (k *collector) advance(j *job) (done bool) {
	if !j.begun {
		j.left, j.begun = maxEntries, true
	}
	sh := &k.shards[j.shard]
	sh.lockBusy()
	j.left = k.collect(sh, j.slot, j.left)
	sh.unlockBusy()
	if j.left > 0 {
		return false
	}
	j.shard++
	j.begun = false
	return j.shard == len(k.shards)
}

// collect removes up to a block of entries from the slot: due ones go into their group's batch, the
// others to the slots where they belong. It returns how many of the left entries remain. sh is
// locked.
func (k *collector) collect(sh *shard, slot uint32, left int) int {
	l := &sh.lists[slot]
	left = min(left, int(l.n))
	now := k.c.now()
	nowTick := now / k.c.tick
	for range min(left, moveLen) {
		i := l.head
		e := sh.slab.at(i)
		l.remove(&sh.slab, i, e)
		e.setSlot(0)
		if e.due <= now {
			k.fire(sh, i, e, now)
		}
		if e.more() {
			sh.insert(i, e, nowTick)
		}
		left--
	}
	return left
}

// fire puts one firing of e into its group's batch, unless the previous one has not returned, and
// sets the next deadline.
func (k *collector) fire(sh *shard, i uint32, e *entry, now int64) {
	w := e.load()
	if e.out(w) {
		k.skip(e, now)
		return
	}
	due := e.due
	k.fired++
	n, left := e.count()
	b := k.send.batchFor(sh.groups[e.group()])
	b.items = append(b.items, item{
		e: e, shard: sh.index, index: i, state: w,
		fn: e.fn, id: e.id, n: n, left: left, due: due,
	})
	if left == 0 {
		return
	}
	k.shortest = min(k.shortest, e.every)
	// Periods that passed within the two ticks that the wheel may take are not skipped: they fire
	// on the next tick. Otherwise periods near a tick would lose every other firing.
	if e.due = deadline(e.due, time.Duration(e.every)); e.due < now-2*k.c.tick {
		k.skip(e, now)
	}
}

// skip moves e's deadline past now by whole periods.
func (k *collector) skip(e *entry, now int64) {
	missed := (now-e.due)/e.every + 1
	e.due += missed * e.every
	k.c.count.skipped.Add(uint64(missed))
}
