package cluster

import (
	"sync"
	"time"
)

// timeNow is the time that leases and ttls are counted by. Only tests replace it,
// with one whose wall clock is stepped.
var timeNow = time.Now

// clock is what this process knows of the servers' clock: what they last said,
// carried on by the process's own monotonic clock. Steps of the machine's wall
// clock don't move it.
type clock struct {
	mu   sync.Mutex
	said time.Time // guarded by mu
	at   time.Time // guarded by mu; when it was heard, on the monotonic clock
}

// set takes in the servers' time, which they told a moment ago.
func (c *clock) set(said time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.said, c.at = said, timeNow()
}

// past says whether t has come, as far as is known.
func (c *clock) past(t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.said.Add(timeNow().Sub(c.at)).Before(t)
}

// now is the servers' time as far as is known; zero: they have not said.
func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.at.IsZero() {
		return time.Time{}
	}
	return c.said.Add(timeNow().Sub(c.at))
}
