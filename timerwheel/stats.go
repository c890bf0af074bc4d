package timerwheel

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// Stats are a service's figures since New.
type Stats struct {
	Pending  int    // timers live now
	Fired    uint64 // callbacks run
	Skipped  uint64 // periods that passed while the previous firing was in progress, or while the process was suspended
	Refused  uint64 // Submits refused; each is tried again on a later tick
	Waiting  int    // batches of firings that wait for such a retry
	Dropped  uint64 // timers that ended because their submitter was closed
	Stale    uint64 // firings killed or replaced after they were handed out
	Panics   uint64 // callbacks that panicked or ended their goroutine
	TooMany  uint64 // SetTimer calls refused because of a limit
	Early    uint64 // slots that the wheel made expire early, and that were armed again
	Rebuilds uint64 // wheels replaced because of a stepped clock, or because slots did not expire any more
	Late     Histogram
}

// counters are what Stats reads, and what limits are checked against.
type counters struct {
	pending   atomic.Int64 // live timers, and ended ones until they are removed
	cancelled atomic.Int64 // firings out whose timer was killed or set anew before they ran

	_                                [64]byte // for each batch of firings
	fired, skipped, refused, dropped atomic.Uint64
	stale, panics, tooMany           atomic.Uint64
	early, rebuilds                  atomic.Uint64
	waiting                          atomic.Int64
	late                             [lateBuckets]atomic.Uint64
}

const (
	lateSub     = 16 // buckets for each doubling: 6 % wide
	lateBuckets = lateSub * 30
)

// A Histogram counts how late callbacks began, from their deadline, in
// microseconds: exact below 16, then 16 buckets to each doubling.
type Histogram struct {
	counts [lateBuckets]uint64
}

// bucketOf returns the bucket of a lateness in ns.
func bucketOf(ns int64) int {
	us := uint64(max(ns, 0)) / 1000
	if us < lateSub {
		return int(us)
	}
	shift := bits.Len64(us) - 5
	return min(shift*lateSub+int(us>>shift), lateBuckets-1)
}

// bucketEnd returns the first lateness above bucket i.
func bucketEnd(i int) time.Duration {
	if i < lateSub {
		return time.Duration(i+1) * time.Microsecond
	}
	shift := i/lateSub - 1
	return time.Duration(uint64(i-shift*lateSub+1)<<shift) * time.Microsecond
}

// Count returns the number of firings counted.
func (h *Histogram) Count() uint64 {
	var n uint64
	for _, c := range h.counts {
		n += c
	}
	return n
}

// Quantile returns a lateness that the share q of the firings stayed below,
// too high by at most one bucket; 0 when nothing fired.
func (h *Histogram) Quantile(q float64) time.Duration {
	n := h.Count()
	if n == 0 {
		return 0
	}
	want := min(uint64(q*float64(n)), n-1)
	var seen uint64
	for i, c := range h.counts {
		if seen += c; seen > want {
			return bucketEnd(i)
		}
	}
	return bucketEnd(lateBuckets - 1)
}

// Each calls fn for every non-empty bucket, the shortest first, with the bucket's end and its
// count.
func (h *Histogram) Each(fn func(end time.Duration, n uint64)) {
	for i, n := range h.counts {
		if n > 0 {
			fn(bucketEnd(i), n)
		}
	}
}

// Sub returns what was counted since an earlier Histogram.
func (h Histogram) Sub(earlier Histogram) Histogram {
	for i := range h.counts {
		h.counts[i] -= earlier.counts[i]
	}
	return h
}

// batchCounts gathers a batch's counts, so that workers touch the shared
// counters once a batch and not once a firing.
type batchCounts struct {
	bucket, run  int // the latest lateness bucket, and how many in a row
	fired, stale int
}

func (b *batchCounts) ran(c *counters, late int64) {
	b.fired++
	if i := bucketOf(late); i != b.bucket {
		b.addRun(c)
		b.bucket = i
	}
	b.run++
}

// takeBack undoes the latest ran: the firing turned out to be stale.
func (b *batchCounts) takeBack() {
	b.fired--
	b.run--
	b.stale++
}

func (b *batchCounts) addRun(c *counters) {
	if b.run > 0 {
		c.late[b.bucket].Add(uint64(b.run))
		b.run = 0
	}
}

func (b *batchCounts) addTo(c *counters) {
	b.addRun(c)
	if b.fired > 0 {
		c.fired.Add(uint64(b.fired))
	}
	if b.stale > 0 {
		c.stale.Add(uint64(b.stale))
	}
	*b = batchCounts{}
}

// stats reads the counters.
func (c *counters) stats() Stats {
	st := Stats{
		Pending: int(c.pending.Load()),
		Fired:   c.fired.Load(), Skipped: c.skipped.Load(), Refused: c.refused.Load(),
		Waiting: int(c.waiting.Load()), Dropped: c.dropped.Load(), Stale: c.stale.Load(),
		Panics: c.panics.Load(), TooMany: c.tooMany.Load(),
		Early: c.early.Load(), Rebuilds: c.rebuilds.Load(),
	}
	for i := range c.late {
		st.Late.counts[i] = c.late[i].Load()
	}
	return st
}
