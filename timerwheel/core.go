package timerwheel

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

var (
	errRunning  = errors.New("timerwheel: already running")
	errStopping = errors.New("timerwheel: the last Stop has not ended yet")
)

// A core is a service, composed of its parts.
type core struct {
	common
	cfg    Config
	seed   uint64 // spreads the service's own timers over the shards
	shards []shard
	groups atomic.Uint64 // made, to spread them over shards

	pool     batchPool
	panics   panicLog
	worker   worker
	drive    driver
	wheels   wheels
	clock    clock
	watchdog watchdog

	mu    sync.Mutex    // serialises start and stop
	ended chan struct{} // guarded by mu; closed when what the last start started has ended
}

// init puts c together for the service's own group.
func (c *core) init(cfg Config, own *group) {
	c.cfg, c.seed = cfg, rand.Uint64()
	c.timebase = newTimebase(cfg.Tick)
	c.maxTimers = int64(cfg.MaxTimers)
	c.slots.tick, c.slots.request = c.tick, c.request
	c.panics.logger = cfg.Logger
	c.shards = make([]shard, cfg.Shards)
	for i := range c.shards {
		sh := &c.shards[i]
		sh.c, sh.index, sh.groups = &c.common, uint32(i), []*group{own}
		sh.table.seed = rand.Uint64()
	}
	c.pool.work, c.runs.inCallback = c.worker.work, inCallback
	c.worker = worker{c: &c.common, shards: c.shards, pool: &c.pool, panics: &c.panics, handBack: c.drive.unfinished}
	c.clock.fire = c.clockFired
	c.wheels = wheels{c: &c.common, size: cfg.WheelSize, logger: cfg.Logger,
		make: newLibrary, expire: c.expire, wake: c.drive.wake}
	c.watchdog = watchdog{c: &c.common, wheels: &c.wheels, shards: c.shards}
	d := &c.drive
	d.c, d.clock, d.early = &c.common, &c.clock, c.wheels.early
	d.send = sender{c: &c.common, w: &c.worker, pool: &c.pool, panics: &c.panics, close: c.close}
	d.collector.c, d.collector.shards, d.collector.send = &c.common, c.shards, &d.send
	d.slack = int64(cfg.Slack / cfg.Tick)
	p := &d.splitter
	p.c, p.send, p.worker, p.pool, p.clock = &c.common, &d.send, &c.worker, &c.pool, &c.clock
	d.init()
}

// request makes a slot expire at its time: by the wheel, or by the clock while that handles level
// 0.
func (c *core) request(level int, key int64) {
	if level > 0 || !c.drive.coalescing.Load() {
		c.wheels.request(level, key)
	}
}

// expire runs on a goroutine of the wheel's.
func (c *core) expire(level int, key int64) {
	if !c.watchdog.cameUp.Load() {
		c.watchdog.cameUp.Store(true)
	}
	c.drive.expire(level, key)
}

// interval is the time between two rounds of the watchdog.
func (c *core) interval() time.Duration { return c.cfg.Watchdog / watchRounds }

// clockFired is what the clock does, on a goroutine of its own.
func (c *core) clockFired() {
	if !c.live.Load() {
		return
	}
	now := c.now()
	if at := c.drive.round.Load(); now >= at && c.drive.round.CompareAndSwap(at, now+int64(c.interval())) {
		from := uint32(0)
		if c.drive.coalescing.Load() {
			from = ringLen // the wheel has nothing to do with level 0
		}
		long := max(int64(c.interval())/2, 3*c.tick)
		go c.watchdog.round(c.slots.overdue(from, (now-long)/c.tick))
	}
	c.clock.set(c.interval()) // should Submit keep the driver from setting it
	c.drive.wake()
}

func (c *core) start(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.live.Load() {
		return errRunning
	}
	if c.ended != nil {
		select {
		case <-c.ended:
		default:
			return errStopping
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("timerwheel: start: %w", err)
	}
	c.wheels.start()
	c.drive.round.Store(c.now() + int64(c.interval()))
	c.live.Store(true)
	c.clock.start(c.interval())
	return nil
}

func (c *core) stop(ctx context.Context) error {
	ended := c.beginStop()
	if ended == nil || inCallback() {
		return nil
	}
	select {
	case <-ended:
		return c.runs.wait(ctx, func(runOf) bool { return true })
	case <-ctx.Done():
		return fmt.Errorf("timerwheel: stop: %w", ctx.Err())
	}
}

// beginStop kills all timers and returns a channel that is closed when the service's goroutines
// have ended; nil if it was never started.
func (c *core) beginStop() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.live.Swap(false) {
		return c.ended
	}
	c.clock.stop()
	for i := range c.shards {
		c.shards[i].sweep(nil)
	}
	wait := c.wheels.stop()
	ended := make(chan struct{})
	c.ended = ended
	go func() {
		defer close(ended)
		wait()
		c.watchdog.wait()
		c.drive.shutDown()
	}()
	return ended
}

// shardOf returns the shard of a group's timer with that id.
func (c *core) shardOf(g *group, id TimerID) *shard {
	if !g.own {
		return &c.shards[g.shard]
	}
	h := (uint64(id) ^ c.seed) * 0x9e3779b97f4a7c15
	return &c.shards[(h^h>>32)>>20&uint64(len(c.shards)-1)]
}

// killAll kills the group's timers and returns how many had a firing to come.
func (c *core) killAll(g *group) (toCome int) {
	if !g.own {
		return c.shards[g.shard].sweep(g)
	}
	for i := range c.shards {
		toCome += c.shards[i].sweep(g)
	}
	return toCome
}

// close is killAll, and prevents further timers of the group.
func (c *core) close(g *group) int {
	g.closed.Store(true)
	return c.killAll(g)
}
