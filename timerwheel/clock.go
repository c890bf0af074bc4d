package timerwheel

import (
	"sync"
	"time"
)

// justAbove makes a wait one sleep and not two: the runtime's poller sleeps for
// whole milliseconds, rounded down, and once more for what is left.
const justAbove = 90 * time.Microsecond

// A clock is one runtime timer that calls fire, on a goroutine of its own, after the wait requested
// last.
type clock struct {
	fire func()

	mu    sync.Mutex
	timer *time.Timer
	at    time.Time // when it fires
	on    bool
}

func (c *clock) start(wait time.Duration) {
	c.mu.Lock()
	c.on = true
	c.mu.Unlock()
	c.set(wait)
}

func (c *clock) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.on = false
	if c.timer != nil {
		c.timer.Stop()
	}
}

// set makes the clock fire after wait, whatever was requested before.
func (c *clock) set(wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	at := now.Add(wait)
	if c.at.After(now) && c.at.Sub(at).Abs() < justAbove/2 {
		return // as good, and a reset costs more
	}
	c.reset(at, wait)
}

// within makes it fire after wait at the latest.
func (c *clock) within(wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if at := now.Add(wait); at.Before(c.at) || c.at.Before(now) {
		c.reset(at, wait)
	}
}

// reset is set with mu held.
func (c *clock) reset(at time.Time, wait time.Duration) {
	switch {
	case !c.on:
		return
	case c.timer == nil:
		c.timer = time.AfterFunc(wait, c.fire)
	default:
		c.timer.Reset(wait)
	}
	c.at = at
}

// A timebase counts ticks on the monotonic clock.
type timebase struct {
	base time.Time             // tick 0
	tick int64                 // ns
	wall func(time.Time) int64 // the wall clock in a reading, ns; tests step it
}

// newTimebase puts tick 0 just after a multiple of the tick on the wall clock,
// which the library counts in, so that its ticks and ours fall together.
func newTimebase(tick time.Duration) timebase {
	now := time.Now()
	return timebase{
		base: now.Add(-time.Duration(now.UnixNano() % int64(tick))),
		tick: int64(tick),
		wall: time.Time.UnixNano,
	}
}

// now reads the monotonic clock: ns since base.
func (t *timebase) now() int64 { return int64(time.Since(t.base)) }

// period is the tick.
func (t *timebase) period() time.Duration { return time.Duration(t.tick) }

// nowTick is the latest tick that has begun.
func (t *timebase) nowTick() int64 { return t.now() / t.tick }

// tickAfter is the first tick at or after a deadline.
func (t *timebase) tickAfter(due int64) int64 { return (due + t.tick - 1) / t.tick }

// clocks reads the wall clock and the monotonic one together.
func (t *timebase) clocks() (wall, mono int64) {
	now := time.Now()
	return t.wall(now), int64(now.Sub(t.base))
}

// stepped returns how far the wall clock has been stepped since it was offset
// ahead of the monotonic one, 0 when by too little to matter. The smallest of
// three differences counts: the goroutine may lose its CPU between two clocks.
func (t *timebase) stepped(offset int64) time.Duration {
	var step int64
	for i := range 3 {
		wall, mono := t.clocks()
		if d := wall - mono - offset; i == 0 || abs(d) < abs(step) {
			step = d
		}
	}
	if abs(step) <= max(2*t.tick, int64(20*time.Millisecond)) {
		return 0
	}
	return time.Duration(step)
}

func abs(n int64) int64 { return max(n, -n) }

// farFuture bounds deadlines: 146 years, which leaves room to add a period.
const farFuture = 1 << 62

func deadline(now int64, every time.Duration) int64 {
	if d := now + int64(every); d >= now && d < farFuture {
		return d
	}
	return farFuture
}
