package cluster

import (
	"sync"
	"time"
)

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
	c.said, c.at = said, time.Now()
}

// past says whether t has come, as far as is known.
func (c *clock) past(t time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.said.Add(time.Since(c.at)).Before(t)
}
