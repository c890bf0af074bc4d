// Package bucket limits rates: token buckets of a second's worth, in one word each. It knows
// nothing of what is counted.
package bucket

import (
	"sync/atomic"
	"time"
)

// Bucket is a token bucket that is never refused anything, and tells how long it has to be
// left alone then (the generic cell rate algorithm, ITU-T I.371). It holds what comes in one
// second; the zero Bucket is full. Who uses it guards it.
type Bucket struct {
	due int64 // when all that was taken would have come at the rate; 0: nothing was
}

// Take takes n tokens of a bucket into which perSecond come, at now, in nanoseconds on any
// clock that begins above 0. wait is how long it takes until the bucket is not overdrawn.
func (b *Bucket) Take(now, n, perSecond int64) (wait time.Duration) {
	b.due = after(b.due, now, n, perSecond)
	return time.Duration(max(b.due-now, 0))
}

// after is when a bucket is due from which n tokens are taken.
func after(due, now, n, perSecond int64) int64 {
	const most = float64(1 << 50) // 13 days, and no overflow
	if full := now - int64(time.Second); due == 0 || due < full {
		due = full
	}
	return due + int64(min(float64(n)/float64(perSecond)*float64(time.Second), most))
}

// Shared is a bucket that many take from, and that refuses. The zero Shared is full.
type Shared struct{ due atomic.Int64 }

// Allow takes one token; false: there is none, and none is taken. now and perSecond are
// Take's.
func (b *Shared) Allow(now, perSecond int64) bool {
	for {
		due := b.due.Load()
		next := after(due, now, 1, perSecond)
		if next > now {
			return false
		}
		if b.due.CompareAndSwap(due, next) {
			return true
		}
	}
}
