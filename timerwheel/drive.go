package timerwheel

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net"
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
	ups     [levels][ringLen / 64]atomic.Uint64 // slots that came up since

	// What follows is guarded by driving.
	last    [levels]int64 // highest key looked at
	due     []int64       // keys of level 0 to fire, in order
	coarse  []job         // slots to re-hang, a step at a time
	full    []*batch      // filled, to be submitted before the open ones
	open    []*Set        // Sets with a batch being filled
	stuck   []*Set        // Sets with refused batches
	retryAt int64         // tick at which those may be tried again

	mu   sync.Mutex
	back []*batch // guarded by mu: remainders that a Goexit left
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
	retryStep  = 4096     // Submits tried again for each tick
	maxEntries = math.MaxInt32
)

// up notes that the slot of level 0..2 has come up, and drives.
func (s *Service) up(level int, key int64) {
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
		d.calls.Add(-n)
		d.driving.Unlock()
	}
}

// pass does all that is due. A step of re-hanging comes after each round of
// firing, so that what is due never waits for a large coarse slot.
func (s *Service) pass() {
	d := &s.drive
	for {
		nowTick := s.now() / s.tick
		s.gather(nowTick)
		for _, key := range d.due {
			s.fireSlot(slotOf(0, key))
		}
		s.flush()
		s.retry(nowTick)
		if len(d.due) == 0 && len(d.coarse) == 0 {
			return
		}
		s.rehang()
	}
}

// gather disarms the slots that are due. It looks at those that came up and at
// all between the last pass and now: a library timer that got lost holds
// nothing back.
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
		for key := max(d.last[level]+1, end-ringLen+1); key <= end; key++ {
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
			sh.mu.Lock()
			left = s.collect(sh, slot, left)
			sh.mu.Unlock()
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
		sh.mu.Lock()
		j.left = s.collect(sh, j.slot, j.left)
		sh.mu.Unlock()
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
	for k := min(left, blockSize); k > 0; k-- {
		i := r.head
		e := sh.slab.at(i)
		r.remove(&sh.slab, i, e)
		e.setSlot(0)
		if e.due <= now {
			s.fire(sh, i, e, now)
		}
		if e.more() {
			sh.hang(s, i, e, now)
		}
		left--
	}
	return left
}

// fire puts one firing of e into its set's batch, unless the one before is
// still out, and sets the next deadline.
func (s *Service) fire(sh *shard, i uint32, e *entry, now int64) {
	w := e.word.Load()
	if w&states != idle {
		s.skip(e, now)
		return
	}
	due := e.due
	n, left := e.count()
	w += queued
	e.word.Store(w)
	b := s.batchOf(sh.sets[e.set()])
	b.items = append(b.items, item{
		e: e, sh: sh, index: i, word: w,
		fn: e.fn, id: e.id, n: n, left: left, due: due,
	})
	if left == 0 {
		return
	}
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

// flush submits the open batches. No shard is locked.
func (s *Service) flush() {
	d := &s.drive
	for i, set := range d.open {
		b := set.open
		set.open = nil
		d.open[i] = nil
		s.send(set, b)
	}
	d.open = d.open[:0]
}

// send submits b, behind what its set has parked.
func (s *Service) send(set *Set, b *batch) {
	if set.parked == nil && s.submit(set, b) {
		return
	}
	s.park(set, b)
}

// submit hands b over. It returns false when the submitter is full. When that
// has gone for good, or the service has been stopped, b is thrown away.
func (s *Service) submit(set *Set, b *batch) bool {
	var err error = net.ErrClosed
	if s.live.Load() && !set.closed.Load() {
		err = s.offer(set, b)
	}
	switch {
	case err == nil:
		return true
	case errors.Is(err, net.ErrClosed):
		if s.live.Load() {
			s.count.dropped.Add(uint64(set.Close()))
		}
		s.batches.put(b)
		return true
	}
	s.count.refused.Add(1)
	return false
}

// offer calls Submit; a panic in it counts as a refusal.
func (s *Service) offer(set *Set, b *batch) (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.panicked(p)
			err = fmt.Errorf("timerwheel: submitter panicked: %v", p)
		}
	}()
	return set.sub.Submit(b.run)
}

// park appends b to its set's queue of refused batches. Those are bounded by
// the timers: each has one firing out at most.
func (s *Service) park(set *Set, b *batch) {
	s.count.waiting.Add(1)
	if set.parked != nil {
		set.tail.next = b
		set.tail = b
		return
	}
	set.parked, set.tail = b, b
	if !set.stuck {
		set.stuck = true
		s.drive.stuck = append(s.drive.stuck, set)
	}
	s.arm(0, s.drive.last[0]+1)
}

// retry offers refused batches again, once a tick, in their order.
func (s *Service) retry(nowTick int64) {
	d := &s.drive
	s.takeBack()
	if len(d.stuck) == 0 || nowTick < d.retryAt {
		return
	}
	d.retryAt = nowTick + 1
	tries := retryStep
	for n := len(d.stuck); n > 0 && tries > 0; n-- {
		set := d.stuck[0]
		d.stuck = slices.Delete(d.stuck, 0, 1)
		tries = s.unpark(set, tries)
		if set.parked != nil {
			d.stuck = append(d.stuck, set)
		} else {
			set.stuck = false
		}
	}
	if len(d.stuck) > 0 {
		s.arm(0, nowTick+1)
	}
}

// unpark submits what the set has parked, until it is refused or has used up
// the tries, and returns how many tries are left.
func (s *Service) unpark(set *Set, tries int) int {
	for set.parked != nil && tries > 0 {
		tries--
		b := set.parked
		next := b.next
		b.next = nil // b is another's once it is submitted
		if !s.submit(set, b) {
			b.next = next
			break
		}
		s.count.waiting.Add(-1)
		if set.parked = next; next == nil {
			set.tail = nil
		}
	}
	return tries
}

// handBack takes the rest of a batch whose worker ended. Runs on any goroutine.
func (s *Service) handBack(b *batch) {
	d := &s.drive
	d.mu.Lock()
	d.back = append(d.back, b)
	d.mu.Unlock()
	s.arm(0, s.now()/s.tick+1)
}

// takeBack puts those remainders in front of what else their sets have parked.
func (s *Service) takeBack() {
	d := &s.drive
	d.mu.Lock()
	back := d.back
	d.back = nil
	d.mu.Unlock()
	for _, b := range back {
		set := b.set
		if set.parked == nil {
			s.send(set, b)
			continue
		}
		s.count.waiting.Add(1)
		b.next = set.parked
		set.parked = b
	}
}

// settleDown waits for the driver to end and lets go of what is parked. The
// service is stopped.
func (s *Service) settleDown() {
	d := &s.drive
	d.driving.Lock()
	defer d.driving.Unlock()
	for d.retryAt = 0; len(d.stuck) > 0 || len(d.back) > 0; d.retryAt = 0 {
		s.retry(s.now() / s.tick)
	}
	for i := range s.armed {
		s.armed[i].Store(0)
	}
}
