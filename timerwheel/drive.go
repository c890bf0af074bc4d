package timerwheel

import (
	"math"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A driver hands due timers to their submitters. It has no goroutine: the
// goroutine of a library timer whose slot came up drives, unless another one
// does, which then goes round once more.
type driver struct {
	driving sync.Mutex                          // only ever tried while the service runs
	calls   atomic.Int64                        // kicks not yet served
	dense   atomic.Bool                         // the pacer brings up level 0, not the library
	ups     [levels][ringLen / 64]atomic.Uint64 // slots that came up since

	// What follows is guarded by driving.
	last    [levels]int64 // highest key looked at
	due     []int64       // keys of level 0 to fire, in order
	coarse  []job         // slots to re-hang, a step at a time
	full    []*batch      // filled, to be submitted before the open ones
	open    []*Set        // Sets with a batch being filled
	stuck   []*Set        // Sets with refused batches
	retryAt int64         // tick at which those may be tried again
	ended   []*batch      // run, with timers to be taken away
	paced   int64         // tick at which dense was judged last
	fired   int64         // firings handed out since
	least   int64         // the shortest period among them, ns
	many    int64         // ticks from one pass to the next while dense
	pacer   *time.Timer   // kicks while dense

	mu   sync.Mutex
	back []*batch // guarded by mu: what workers did not finish; each holds timers that MaxTimers counts
}

// A job is a coarse slot on its way to finer ones.
type job struct {
	slot  uint32
	shard int  // being drained
	left  int  // of its entries, still to be moved
	begun bool // left is set
}

const (
	blockSize  = 256      // entries moved for each hold of a shard's lock
	coarseStep = 16 * 256 // entries re-hung between two looks at what is due
	tidyStep   = 8        // batches tidied between two looks at what is due
	retryStep  = 4096     // Submits tried again for each tick
	maxEntries = math.MaxInt32
)

// up notes that the slot of level 0..2 has come up, and drives. An earlier pass
// may have taken the slot along, or the pacer's next will.
func (s *Service) up(level int, key int64) {
	if s.armed[slotOf(level, key)].Load() == 0 || level == 0 && s.drive.dense.Load() {
		return
	}
	i := key & ringMask
	s.drive.ups[level][i/64].Or(1 << (i % 64))
	s.kick()
}

// kick drives, or leaves it to the goroutine that does.
func (s *Service) kick() {
	d := &s.drive
	d.calls.Add(1)
	for d.calls.Load() > 0 && d.driving.TryLock() {
		n := d.calls.Load()
		s.pass()
		s.rest()
		d.calls.Add(-n)
		d.driving.Unlock()
	}
}

// pass does all that is due. A step of re-hanging and tidying comes after each
// round of firing, so that what is due never waits for a large coarse slot, or
// for a crowd of timers to be taken away.
func (s *Service) pass() {
	d := &s.drive
	for {
		nowTick := s.now() / s.tick
		s.pace(nowTick)
		s.gather(nowTick)
		for _, key := range d.due {
			s.fireSlot(slotOf(0, key))
		}
		s.flush()
		s.retry(nowTick)
		if len(d.due) == 0 && len(d.coarse) == 0 && len(d.ended) == 0 {
			return
		}
		s.rehang()
		s.tidy()
	}
}

// tidy takes away a step of the timers that workers left.
func (s *Service) tidy() {
	d := &s.drive
	n := min(tidyStep, len(d.ended))
	for _, b := range d.ended[:n] {
		b.tidy(true)
		s.batches.put(b)
	}
	d.ended = slices.Delete(d.ended, 0, n)
}

// Waking the goroutines between the library and a worker costs as much as some
// hundred firings. So while more than denseRate timers fire on each tick, slots
// of level 0 are not armed on the library: the pacer, one timer of the
// runtime's, brings up as many ticks at once as make passFirings, two at least,
// Config.Slack at most: as a network card waits for so many frames or so long.
// Less than the shortest period also, for two of one timer's firings at once
// would lose one.
const (
	denseRate   = 48
	passFirings = 800
	paceTicks   = 64 // how many ticks it is judged by
)

func (s *Service) pace(nowTick int64) {
	d := &s.drive
	ticks := nowTick - d.paced
	if ticks < paceTicks {
		return
	}
	dense := false
	if d.fired > denseRate*ticks {
		d.many = s.within(min(s.slack, max(2, (passFirings*ticks+d.fired/2)/d.fired)))
		dense = d.many > 1
	}
	d.restart(nowTick)
	if d.dense.Swap(dense) && !dense {
		s.armAgain()
	}
}

// restart begins to count for the next judgement.
func (d *driver) restart(nowTick int64) {
	d.paced, d.fired, d.least = nowTick, 0, math.MaxInt64
}

// within limits ticks taken together by the shortest period seen, with half a
// tick for the time that a pass takes.
func (s *Service) within(many int64) int64 {
	return min(many, (s.drive.least-int64(justAbove)-s.tick/2)/s.tick)
}

// armAgain has the library armed for what the pacer was to bring up. Who arms a
// slot at the same time either sees that it has to, or is seen here.
func (s *Service) armAgain() {
	for slot := range s.armed[:ringLen] {
		if v := s.armed[slot].Load(); v != 0 {
			s.wheels.request(0, v-1)
		}
	}
}

// justAbove makes a wait one sleep and not two: the runtime's poller sleeps for
// whole milliseconds, rounded down, and then once more for what is left.
const justAbove = 90 * time.Microsecond

// rest sets the pacer for the next pass.
func (s *Service) rest() {
	d := &s.drive
	if !d.dense.Load() || !s.live.Load() {
		return
	}
	wait := justAbove + time.Duration(max(1, s.within(d.many)))*s.cfg.Tick
	if len(d.stuck) > 0 {
		wait = s.cfg.Tick
	}
	if d.pacer == nil {
		d.pacer = time.AfterFunc(wait, s.kick)
	} else {
		d.pacer.Reset(wait)
	}
}

// gather disarms the slots that are due. It looks at those that came up and at
// all between the last pass and now: a library timer that got lost holds
// nothing back. While the library is not armed it looks at the whole ring: who
// hangs an entry on a tick may do so when a pass has gone by that.
func (s *Service) gather(nowTick int64) {
	d := &s.drive
	d.due = d.due[:0]
	for level := range levels {
		end := lastUp(level, nowTick)
		for w := range d.ups[level] {
			for set := d.ups[level][w].Swap(0); set != 0; set &= set - 1 {
				s.take(level, uint32(level)<<ringBits|uint32(w*64+bits.TrailingZeros64(set)), end, true)
			}
		}
		from := d.last[level] + 1
		if level == 0 && d.dense.Load() {
			from = 0
		}
		for key := max(from, end-ringLen+1); key <= end; key++ {
			s.take(level, slotOf(level, key), end, false)
		}
		d.last[level] = end
	}
	if len(d.due) > 1 {
		slices.Sort(d.due)
	}
}

// take disarms the slot if it is due and notes it. One that came up early is
// armed again.
func (s *Service) take(level int, slot uint32, end int64, cameUp bool) {
	for {
		v := s.armed[slot].Load()
		switch {
		case v == 0:
			return
		case v-1 > end:
			if cameUp {
				s.early(level, v-1)
			}
			return
		case !s.armed[slot].CompareAndSwap(v, 0):
			continue
		case level == 0:
			s.drive.due = append(s.drive.due, v-1)
		default:
			s.drive.coarse = append(s.drive.coarse, job{slot: slot})
		}
		return
	}
}

// fireSlot hands out what hangs on a level-0 slot.
func (s *Service) fireSlot(slot uint32) {
	for i := range s.shards {
		sh := &s.shards[i]
		for left := maxEntries; left > 0; {
			sh.lockLong()
			left = s.collect(sh, slot, left)
			sh.unlockLong()
			s.flushFull()
		}
	}
}

// rehang moves a step of the oldest coarse slot to finer ones.
func (s *Service) rehang() {
	d := &s.drive
	for step := coarseStep; step > 0 && len(d.coarse) > 0; step -= blockSize {
		j := &d.coarse[0]
		if !j.begun {
			j.left, j.begun = maxEntries, true
		}
		sh := &s.shards[j.shard]
		sh.lockLong()
		j.left = s.collect(sh, j.slot, j.left)
		sh.unlockLong()
		s.flushFull()
		if j.left > 0 {
			continue
		}
		if *j = (job{slot: j.slot, shard: j.shard + 1}); j.shard == len(s.shards) {
			d.coarse = slices.Delete(d.coarse, 0, 1)
		}
	}
}

// collect takes up to blockSize entries off the slot: what is due goes into
// its Set's batch, the rest is hung where it belongs. It returns how many of
// the left entries remain. sh is locked.
func (s *Service) collect(sh *shard, slot uint32, left int) int {
	r := &sh.rings[slot]
	left = min(left, int(r.n))
	now := s.now()
	nowTick := now / s.tick
	for k := min(left, blockSize); k > 0; k-- {
		i := r.head
		e := sh.slab.at(i)
		r.remove(&sh.slab, i, e)
		e.setSlot(0)
		if e.due <= now {
			s.fire(sh, i, e, now)
		}
		if e.more() {
			sh.hang(s, i, e, nowTick)
		}
		left--
	}
	return left
}

// fire puts one firing of e into its set's batch, unless the one before is
// still out, and sets the next deadline.
func (s *Service) fire(sh *shard, i uint32, e *entry, now int64) {
	w := e.word.Load()
	if e.out(w) {
		s.skip(e, now)
		return
	}
	due := e.due
	s.drive.fired++
	n, left := e.count()
	b := s.batchOf(sh.sets[e.set()])
	b.items = append(b.items, item{
		e: e, shard: sh.index, index: i, word: w,
		fn: e.fn, id: e.id, n: n, left: left, due: due,
	})
	if left == 0 {
		return
	}
	s.drive.least = min(s.drive.least, e.every)
	// What passed while the wheel took its two ticks is not missed: it fires on
	// the next one. Periods near a tick would otherwise lose every other firing.
	if e.due = deadline(e.due, time.Duration(e.every)); e.due < now-2*s.tick {
		s.skip(e, now)
	}
}

// skip moves e's deadline past now by whole periods.
func (s *Service) skip(e *entry, now int64) {
	k := (now-e.due)/e.every + 1
	e.due += k * e.every
	s.count.skipped.Add(uint64(k))
}

// batchOf returns the batch of the set that is being filled.
func (s *Service) batchOf(set *Set) *batch {
	d := &s.drive
	if b := set.open; b != nil {
		if len(b.items) < bigBatch {
			return b
		}
		d.full = append(d.full, b)
		set.open = s.batches.get(s, set)
		return set.open
	}
	set.open = s.batches.get(s, set)
	d.open = append(d.open, set)
	return set.open
}

// flushFull submits the batches that are full. No shard is locked.
func (s *Service) flushFull() {
	d := &s.drive
	for i, b := range d.full {
		d.full[i] = nil
		s.send(b.set, b)
	}
	d.full = d.full[:0]
}
