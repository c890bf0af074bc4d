// Package hist counts durations in buckets of which each ends 9 % above the one before:
// those of Prometheus's native histograms with schema 3, in seconds.
//
//	var h hist.Histogram
//	h.Observe(time.Since(began))
//	p99 := h.Snapshot().Quantile(0.99)
package hist

import (
	"math"
	"sort"
	"sync/atomic"
	"time"
)

// Bucket i counts what is longer than bucket i-1's end and no longer than its own, which is
// 2 to the power of (First+i)/PerDoubling seconds. The first also has all that is shorter,
// the last all that is longer.
const (
	PerDoubling = 8
	First       = -24 * PerDoubling // 60 ns
	Buckets     = 31*PerDoubling + 1
)

// ends are the buckets' ends in nanoseconds.
var ends = func() (e [Buckets]int64) {
	for i := range e {
		e[i] = int64(End(i) * 1e9)
	}
	return e
}()

// End is where bucket i ends, in seconds.
func End(i int) float64 { return math.Exp2(float64(First+i) / PerDoubling) }

// Bucket is the bucket that counts d.
func Bucket(d time.Duration) int {
	i := sort.Search(Buckets, func(i int) bool { return int64(d) <= ends[i] })
	return min(i, Buckets-1)
}

// Histogram counts. Its zero value is ready; any goroutine may use it.
type Histogram struct {
	counts [Buckets]atomic.Uint64
	sum    atomic.Int64
}

// Observe counts one duration; one below 0 is 0.
func (h *Histogram) Observe(d time.Duration) {
	d = max(d, 0)
	h.counts[Bucket(d)].Add(1)
	h.sum.Add(int64(d))
}

// Snapshot is what has been counted so far.
func (h *Histogram) Snapshot() Snapshot {
	s := Snapshot{Sum: time.Duration(h.sum.Load())}
	for i := range h.counts {
		s.Counts[i] = h.counts[i].Load()
	}
	return s
}

// Snapshot is a Histogram at one time. See Bucket for what its counts are of.
type Snapshot struct {
	Counts [Buckets]uint64
	Sum    time.Duration // of all that was counted
}

// Count is how many were counted.
func (s *Snapshot) Count() (n uint64) {
	for _, c := range s.Counts {
		n += c
	}
	return n
}

// Add adds n that ended up in the bucket of d, without a part in Sum.
func (s *Snapshot) Add(d time.Duration, n uint64) { s.Counts[Bucket(d)] += n }

// Quantile is what the share q of those counted was no longer than, too long by a bucket at
// most; 0 when nothing was counted.
func (s *Snapshot) Quantile(q float64) time.Duration {
	n := s.Count()
	if n == 0 {
		return 0
	}
	want := min(uint64(q*float64(n)), n-1)
	var seen uint64
	for i, c := range s.Counts {
		if seen += c; seen > want {
			return time.Duration(ends[i])
		}
	}
	return time.Duration(ends[Buckets-1])
}

// Merge adds what another has counted.
func (s *Snapshot) Merge(other *Snapshot) {
	for i, n := range other.Counts {
		s.Counts[i] += n
	}
	s.Sum += other.Sum
}
