// Package bucket has token buckets that hold the tokens of one second, of 8 bytes each.
package bucket

import (
	"sync/atomic"
	"time"
)

// Bucket is a token bucket that never refuses: it can be overdrawn, and says how long it then takes to
// recover (the generic cell rate algorithm, ITU-T I.371). It holds the tokens of one second. The zero
// Bucket is full. It is not safe for concurrent use.
type Bucket struct {
	due int64 // when all tokens taken would have come in at the rate, in Take's nanoseconds; 0: none were taken
}

// Take takes n tokens at the time now, in nanoseconds on any clock that starts above 0. perSecond is
// how many tokens come in. wait is how long it takes until the bucket is not overdrawn any more.
func (b *Bucket) Take(now, n, perSecond int64) (wait time.Duration) {
	b.due = after(b.due, now, n, perSecond)
	return time.Duration(max(b.due-now, 0))
}

// after returns a bucket's due after n tokens were taken.
func after(due, now, n, perSecond int64) int64 {
	const most = float64(1 << 50) // 13 days, and no overflow
	if full := now - int64(time.Second); due == 0 || due < full {
		due = full
	}
	return due + int64(min(float64(n)/float64(perSecond)*float64(time.Second), most))
}

// Shared is a bucket that refuses instead of being overdrawn, and is safe for concurrent use. The zero
// Shared is full.
type Shared struct{ due atomic.Int64 }

// Allow takes one token; false if there is none. now and perSecond are as in Take.
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
