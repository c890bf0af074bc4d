package nodes

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/services/cluster"
	"millrace/services/nodes/internal/envelope"
)

// start begins to accept calls, until run ends.
func (c *calls) start(run context.Context) {
	c.work, c.giveUp = context.WithCancel(run)
	c.stopping.Store(false)
}

// listen begins to accept calls.
func (c *calls) listen() error {
	c.subscribing.Lock()
	defer c.subscribing.Unlock()
	return c.listenLocked()
}

func (c *calls) listenLocked() error {
	c.started = true
	var errs []error
	for _, handle := range c.handles() {
		if c.subs[handle] == nil {
			errs = append(errs, c.subscribe(handle))
		}
	}
	return errors.Join(errs...)
}

// announce makes a draining node accept only calls addressed to it by name. The state is read with
// the lock held, so that of two concurrent changes the later one takes effect.
func (c *calls) announce() {
	if c.n.bus == nil || !c.n.bus.Running() {
		return
	}
	c.subscribing.Lock()
	defer c.subscribing.Unlock()
	if c.n.stateNow() == Up {
		_ = c.listenLocked() // it fails only after Stop
		return
	}
	c.end()
}

// end ends the subscriptions. Caller holds subscribing.
func (c *calls) end() {
	for _, sub := range c.subs {
		sub.End()
	}
	clear(c.subs)
	c.started = false
}

// job is a call of another node.
type job struct {
	m cluster.Message
	e envelope.Envelope
}

// maxSpare is how many idle goroutines wait for calls: their stacks have already grown to the size
// that calls need.
const maxSpare = 64

// hand gives a call to an idle goroutine, or starts one.
func (c *calls) hand(j job) {
	select {
	case c.jobs <- j:
	default:
		go c.worker(c.work, j)
	}
}

func (c *calls) worker(work context.Context, j job) {
	for {
		c.n.work(j)
		if c.spare.Add(1) > maxSpare {
			c.spare.Add(-1)
			return
		}
		select {
		case j = <-c.jobs:
			c.spare.Add(-1)
		case <-work.Done():
			c.spare.Add(-1)
			return
		}
	}
}

// admission says whether a call of another node may run here.
type admission int

const (
	admitted admission = iota
	tooMany            // MaxCalls run
	leaving            // the node stops
)

// admit counts a call of another node, if it may run.
func (c *calls) admit() admission {
	n := c.running.Add(1)
	switch {
	case c.stopping.Load(): // checked after counting, so that finish waits for every admitted call
		c.done()
		return leaving
	case n > int64(c.n.cfg.MaxCalls):
		c.done()
		c.refused.Add(1)
		return tooMany
	}
	return admitted
}

func (c *calls) done() {
	if c.running.Add(-1) == 0 && c.stopping.Load() {
		select {
		case c.idle <- struct{}{}:
		default:
		}
	}
}

// finish refuses new calls of other nodes and waits for those that run, for three quarters of ctx's
// remaining time; then their contexts end.
func (c *calls) finish(ctx context.Context) {
	c.stopping.Store(true)
	if at, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(at)*3/4)
		defer cancel()
	}
	c.wait(ctx)
	c.giveUp()
}

// wait returns 0 as soon as no call runs, or the number still running when ctx ends.
func (c *calls) wait(ctx context.Context) int64 {
	for {
		n := c.running.Load()
		if n == 0 {
			return 0
		}
		select {
		case <-c.idle:
		case <-ctx.Done():
			return n
		}
	}
}

// stop ends what finish has left: the answers of calls that still run when ctx ends are not sent.
func (c *calls) stop(ctx context.Context) error {
	if left := c.wait(ctx); left > 0 {
		return fmt.Errorf("nodes: %d calls of other nodes still run", left)
	}
	return nil
}

// forget discards the subscriptions, which ended with the bus.
func (c *calls) forget() {
	c.subscribing.Lock()
	defer c.subscribing.Unlock()
	clear(c.subs)
	c.started = false
}
