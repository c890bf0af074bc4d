package cluster

import (
	"sync"
	"time"
)

// timeNow returns the time for leases and TTLs. Only tests replace it, with a clock that is
// stepped.
var timeNow = time.Now

// clock is this process's estimate of the servers' clock: the last time that they reported,
// advanced by the process's monotonic clock. Steps of the machine's wall clock don't affect it.
type clock struct {
	mu   sync.Mutex
	said time.Time // guarded by mu
	at   time.Time // guarded by mu; when it was received, on the monotonic clock
}

// set records the servers' time, just received.
func (c *clock) set(said time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said, c.at = said, timeNow()
}

// past reports whether t has passed, as far as is known.
func (c *clock) past(t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.said.Add(timeNow().Sub(c.at)).Before(t)
}

// now returns the estimate of the servers' time; zero if unknown.
func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		return time.Time{}
	}
	return c.said.Add(timeNow().Sub(c.at))
}
