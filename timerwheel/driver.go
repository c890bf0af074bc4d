package timerwheel

import (
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A driver submits due timers to their submitters. It has no goroutine of its own: the goroutine
// that wakes it drives, unless another one already does, which then continues. It waits for nobody:
// driving is unlocked around every Submit, and a goroutine that wakes it meanwhile takes over.
type driver struct {
	c     *common
	clock *clock
	early func(level int, key int64) // takes a slot that came up before its time
	round atomic.Int64               // when the watchdog wants the clock, ns; it is never set later

	driving    sync.Mutex
	returned   *sync.Cond                          // driving, and send.submitting has fallen
	woken      atomic.Bool                         // someone woke it
	coalescing atomic.Bool                         // the clock brings level 0 up, not the wheel
	expired    [levels][ringLen / 64]atomic.Uint64 // slots that came up since

	// What follows is guarded by driving.
	last    [levels]int64 // highest key polled
	repoll  bool          // time has passed since
	guarded bool          // the clock is set in case a Submit blocks
	send    sender
	collector
	splitter
}

func (d *driver) init() {
	d.returned = sync.NewCond(&d.driving)
	d.restart(0)
}

// expire records that the slot has expired, and drives. An earlier poll may have taken the slot
// already, or the clock's next poll will.
func (d *driver) expire(level int, key int64) {
	if _, ok := d.c.slots.armed(slotOf(level, key)); !ok || level == 0 && d.coalescing.Load() {
		return
	}
	i := key & ringMask
	d.expired[level][i/64].Or(1 << (i % 64))
	d.wake()
}

// wake does everything that is due, on this goroutine or on the one that already drives.
func (d *driver) wake() {
	d.woken.Store(true)
	for d.woken.Load() && d.driving.TryLock() {
		d.drive()
	}
}

// drive continues until there is nothing to do. driving is locked on entry, and unlocked on return.
func (d *driver) drive() {
	for d.step() {
	}
	d.sleep()
	d.driving.Unlock()
}

// step does the most urgent thing, in a bounded time. It returns false if there is nothing to do.
// Cascading and removing come last, so that due timers wait neither for a large coarse slot nor for
// many timers that ended.
func (d *driver) step() bool {
	if d.woken.Load() && d.woken.Swap(false) || d.repoll {
		d.poll()
	}
	switch {
	case d.send.ready.n > 0:
		d.submit()
	case len(d.due) > 0:
		d.repoll = d.fireStep()
	case len(d.send.filling) > 0:
		d.send.sealAll()
	case d.send.tries > 0 && d.send.refused.n > 0:
		d.submit()
	case len(d.coarse) > 0:
		d.cascade()
		d.repoll = true
	case len(d.ended) > 0:
		d.reap()
		d.repoll = true
	default:
		return false
	}
	return true
}

// poll finds what there is to do.
func (d *driver) poll() {
	now := d.c.now()
	d.repoll, d.guarded = false, false
	d.judge(now / d.c.tick)
	d.gather(now / d.c.tick)
	d.takeBack()
	d.splitSlow(now)
	d.send.retry(now)
}

// submit submits one batch. It unlocks driving for that; before, it makes sure that another
// goroutine drives if Submit blocks.
func (d *driver) submit() {
	b := d.send.next()
	if b == nil {
		return
	}
	if !d.guarded && (d.send.more() || len(d.due) > 0 || len(d.coarse) > 0) {
		d.guarded = true
		d.clock.within(d.c.period())
	}
	d.driving.Unlock()
	if d.woken.Load() { // who woke it found driving locked, and relies on this goroutine
		d.driving.Lock()
		d.send.undo(b)
		return
	}
	returned := false
	defer func() {
		if !returned { // runtime.Goexit within Submit: another goroutine goes on
			go func() {
				d.driving.Lock()
				d.submitted(b, panicked)
				d.driving.Unlock()
				d.wake()
			}()
		}
	}()
	v := d.send.submit(b)
	returned = true
	d.driving.Lock()
	d.submitted(b, v)
}

// submitted processes the result for b. driving is locked.
func (d *driver) submitted(b *batch, v submitResult) {
	if d.send.conclude(b, v) {
		d.watch(b)
	}
	if !d.c.live.Load() {
		d.returned.Broadcast()
	}
}

// gather disarms the slots that are due: those that expired, and all since the last poll, so that a
// slot that the wheel has missed delays nothing. While ticks are coalesced it polls the whole ring,
// because a goroutine that lost its CPU may put a timer on a tick that has been polled already.
func (d *driver) gather(nowTick int64) {
	old := len(d.due)
	for level := range levels {
		end := lastExpired(level, nowTick)
		for w := range d.expired[level] {
			if d.expired[level][w].Load() == 0 {
				continue
			}
			for set := d.expired[level][w].Swap(0); set != 0; set &= set - 1 {
				d.take(uint32(level)<<ringBits|uint32(w*64+bits.TrailingZeros64(set)), end, true)
			}
		}
		from := d.last[level] + 1
		if level == 0 && d.coalescing.Load() {
			from = 0
		}
		for key := max(from, end-ringLen+1); key <= end; key++ {
			d.take(slotOf(level, key), end, false)
		}
		d.last[level] = end
	}
	if len(d.due)-old > 1 {
		slices.SortFunc(d.due[old:], func(a, b job) int { return int(a.key - b.key) })
	}
}

// take disarms the slot if it is due and queues it. One that expired early is armed again.
func (d *driver) take(slot uint32, end int64, cameUp bool) {
	level := levelOf(slot)
	for {
		key, ok := d.c.slots.armed(slot)
		switch {
		case !ok:
			return
		case key > end:
			if cameUp {
				d.early(level, key)
			}
			return
		case !d.c.slots.disarm(slot, key):
			continue
		case level == 0:
			d.due = append(d.due, job{slot: slot, key: key})
		default:
			d.coarse = append(d.coarse, job{slot: slot, key: key})
		}
		return
	}
}

// sleep sets the clock for the next time that the wheel will not wake it.
func (d *driver) sleep() {
	if !d.c.live.Load() {
		return
	}
	wait := time.Duration(max(d.round.Load()-d.c.now(), 0))
	if d.coalescing.Load() {
		wait = min(wait, justAbove+time.Duration(max(1, d.atMost(d.together, d.c.tick)))*d.c.period())
	} else if len(d.watched) > 0 {
		wait = min(wait, justAbove+d.c.period())
	}
	if d.send.refused.n > 0 || d.hasBack() {
		wait = min(wait, d.c.period())
	}
	d.clock.set(wait)
}

// shutDown releases everything and waits for the goroutines that are in Submit. The service is
// stopped.
func (d *driver) shutDown() {
	d.driving.Lock()
	defer d.driving.Unlock()
	for {
		d.takeBack()
		d.send.discardAll()
		for len(d.ended) > 0 {
			d.reap()
		}
		if d.send.submitting == 0 {
			break
		}
		d.returned.Wait()
	}
	d.c.slots.disarmAll()
	d.due, d.coarse, d.watched = nil, nil, nil
	d.restart(d.c.nowTick())
	d.coalescing.Store(false)
}

// judge decides whether ticks are coalesced. When coalescing ends, the slots that the clock was to
// expire are requested from the wheel. A goroutine that arms a slot at the same time either sees
// the change, or its slot is seen here.
func (d *driver) judge(nowTick int64) {
	ticks := nowTick - d.judged
	if ticks < judgeTicks {
		return
	}
	dense := d.rate(ticks, d.c.tick)
	d.restart(nowTick)
	if d.coalescing.Swap(dense) && !dense {
		d.c.slots.requestAll(ringLen)
	}
}
