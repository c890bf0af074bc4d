package cluster

import (
	"sync/atomic"
	"time"
	"unsafe"
)

// ErrReplaced, for what a history records.
var ErrReplaced = errReplaced

// AfterReboot is afterReboot with the boot id in the named file.
func AfterReboot(dir, bootID string) error { return afterReboot(dir, bootID) }

// stepped is by how many seconds the wall clock of this process is off.
var stepped atomic.Int64

// StepWall moves the wall clock of this process, as date(1) would: what time.Now
// returns then has another wall time beside the same monotonic reading.
func StepWall(d time.Duration) { stepped.Add(int64(d / time.Second)) }

// InjectClock has the package read the clock that StepWall moves. Before any Cache.
func InjectClock() {
	timeNow = func() time.Time {
		t := time.Now()
		// The first word of a Time that has a monotonic reading: one bit, 33 bits of
		// seconds, 30 bits of nanoseconds.
		*(*uint64)(unsafe.Pointer(&t)) += uint64(stepped.Load()) << 30
		return t
	}
}

// Holds is for how long this process may take the lock for its own from now on,
// if it does not renew its lease any more; 0 when it doesn't hold it.
func (c *Cache) Holds(key string, token uint64) time.Duration {
	n := c.live.Load()
	if n == nil {
		return 0
	}
	l := n.locks
	l.mu.Lock()
	defer l.mu.Unlock()
	k := l.keys[subjectKey(key)]
	if k == nil || k.held == nil || k.held.token != token {
		return 0
	}
	end := k.until
	if l.alive.Before(end) {
		end = l.alive
	}
	return max(0, end.Sub(timeNow()))
}
