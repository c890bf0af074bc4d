package main

import (
	"os"
	"runtime/debug"
	"time"

	"millrace/engine"
)

// Memory that the process needs in addition to what its limits count, in bytes, approximately.
const (
	fallen         = 6 << 20  // a decrease by this much is returned to the system
	ownMemory      = 20 << 20 // the program itself, and headroom for the garbage collector
	natsMemory     = 128 << 20
	sessionMemory  = 4 << 10
	workerMemory   = 16 << 10
	timerMemory    = 128
	cacheKeyMemory = 256
	lockMemory     = 256 // of a held lock; waits are counted in the budget
)

// limitMemory keeps the heap from growing to twice the live memory between garbage collections: it
// sets the runtime's memory limit to 5/4 of what sessions may hold by budget, plus what everything
// else holds at the time. A limit that the user set with GOMEMLIMIT is kept. It adjusts the limit
// until stop is called, which ends its goroutine.
func limitMemory(srv *engine.Server, behind *backends, budget int) (stop func()) {
	if os.Getenv("GOMEMLIMIT") != "" {
		return func() {}
	}
	limit := memoryLimit(srv, behind, budget)
	peak := limit
	old := debug.SetMemoryLimit(limit)
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(time.Second)
		defer t.Stop()
		for {
			select {
			case <-quit:
				debug.SetMemoryLimit(old)
				return
			case <-t.C:
			}
			now := memoryLimit(srv, behind, budget)
			if now > limit+limit/10 || now < limit-limit/10 {
				limit = now
				debug.SetMemoryLimit(limit)
			}
			if peak = max(peak, now); peak-now >= fallen {
				peak = now
				debug.FreeOSMemory() // an idle server would not collect it
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
	}
}

// memoryLimit returns what the process may take, in bytes. It includes a thirty-second of the
// budget for the garbage collector's own tables.
func memoryLimit(srv *engine.Server, behind *backends, budget int) int64 {
	n := int64(budget) + int64(budget)/4 + int64(budget)/32 + ownMemory
	n += int64(srv.Stats().Conns)*sessionMemory + int64(behind.pool.Stats().Workers)*workerMemory
	n += int64(behind.timers.Len()) * timerMemory
	c := behind.cache.Stats()
	n += c.Bytes + c.Entries*cacheKeyMemory + c.Locks*lockMemory
	if behind.nats != nil {
		n += natsMemory
	}
	return n
}
