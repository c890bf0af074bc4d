// Package hist counts durations in exponential buckets, each 9 % wider than the previous one: those
// of Prometheus's native histograms with schema 3, in seconds.
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

// Bucket i counts durations above the end of bucket i-1 and up to its own end, which is 2 to the
// power of (First+i)/PerDoubling seconds. The first bucket also counts everything shorter, the last
// everything longer.
const (
	PerDoubling = 8
	First       = -24 * PerDoubling // 60 ns
	Buckets     = 31*PerDoubling + 1
)

// ends are the ends of the buckets in nanoseconds.
var ends = func() (e [Buckets]int64) {
	for i := range e {
		e[i] = int64(End(i) * 1e9)
	}
	return e
}()

// End returns the end of bucket i, in seconds.
func End(i int) float64 { return math.Exp2(float64(First+i) / PerDoubling) }

// Bucket returns the bucket that counts d.
func Bucket(d time.Duration) int {
	i := sort.Search(Buckets, func(i int) bool { return int64(d) <= ends[i] })
	return min(i, Buckets-1)
}

// Histogram is a histogram of durations. Its zero value is ready; any goroutine may use it.
type Histogram struct {
	counts [Buckets]atomic.Uint64
	sum    atomic.Int64
}

// Observe counts one duration; negative durations count as 0.
func (h *Histogram) Observe(d time.Duration) {
	d = max(d, 0)
	h.counts[Bucket(d)].Add(1)
	h.sum.Add(int64(d))
}

// Snapshot returns the present counts.
func (h *Histogram) Snapshot() Snapshot {
	s := Snapshot{Sum: time.Duration(h.sum.Load())}
	for i := range h.counts {
		s.Counts[i] = h.counts[i].Load()
	}
	return s
}

// Snapshot is the state of a Histogram at one time. See Bucket for the meaning of its counts.
type Snapshot struct {
	Counts [Buckets]uint64
	Sum    time.Duration // of all durations
}

// Count returns the number of durations.
func (s *Snapshot) Count() (n uint64) {
	for _, c := range s.Counts {
		n += c
	}
	return n
}

// Add adds n to the bucket of d, but not to Sum.
func (s *Snapshot) Add(d time.Duration, n uint64) { s.Counts[Bucket(d)] += n }

// Quantile returns an upper bound of the quantile q, at most one bucket too long; 0 for an empty
// histogram.
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

// Merge adds the counts of other.
func (s *Snapshot) Merge(other *Snapshot) {
	for i, n := range other.Counts {
		s.Counts[i] += n
	}
	s.Sum += other.Sum
}
