package nodes

import (
	"context"
	"sync"
	"time"
)

// callContext is the context of a called service: it ends at its deadline, when its parent does, or
// when the call has returned. Most calls only read the caller from it, so the channel and timer
// that wake waiters are created when somebody waits.
type callContext struct {
	context.Context // the parent
	until           time.Time
	caller          Caller

	mu     sync.Mutex
	waited context.Context    // guarded by mu; nil: nobody waits
	cancel context.CancelFunc // guarded by mu; of waited
	ended  bool               // guarded by mu
}

func newCallContext(from context.Context, until time.Time, caller Caller) *callContext {
	return &callContext{Context: from, until: until, caller: caller}
}

func (c *callContext) Deadline() (time.Time, bool) {
	if at, ok := c.Context.Deadline(); ok && at.Before(c.until) {
		return at, true
	}
	return c.until, true
}

func (c *callContext) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waited == nil {
		c.waited, c.cancel = context.WithDeadline(c.Context, c.until)
		if c.ended {
			c.cancel()
		}
	}
	return c.waited.Done()
}

func (c *callContext) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.waited != nil:
		return c.waited.Err()
	case c.ended:
		return context.Canceled
	case c.Context.Err() != nil:
		return c.Context.Err()
	case !time.Now().Before(c.until):
		return context.DeadlineExceeded
	}
	return nil
}

func (c *callContext) Value(key any) any {
	if _, ok := key.(callerKey); ok {
		return &c.caller
	}
	return c.Context.Value(key)
}

// end is called when the call has returned.
func (c *callContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	if c.cancel != nil {
		c.cancel()
	}
}
