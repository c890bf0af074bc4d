package hist

import (
	"math"
	"math/rand/v2"
	"sort"
	"sync"
	"testing"
	"time"
)

// Every duration is in the bucket that the definition says: no longer than its end, and
// longer than the end of the one before.
func TestBucketIsTheFirstThatEndsNoEarlier(t *testing.T) {
	durations := []time.Duration{-1, 0, 1, 59, 60, 61, time.Microsecond, time.Millisecond, time.Second, 128 * time.Second, time.Hour, math.MaxInt64}
	r := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		durations = append(durations, time.Duration(math.Exp2(r.Float64()*40)))
	}
	for _, d := range durations {
		i := Bucket(d)
		if i > 0 && d.Seconds() <= End(i-1)*(1-1e-9) {
			t.Errorf("%v in bucket %d, which begins at %v s", d, i, End(i-1))
		}
		if i < Buckets-1 && d.Seconds() > End(i)*(1+1e-9) {
			t.Errorf("%v in bucket %d, which ends at %v s", d, i, End(i))
		}
	}
	if Bucket(time.Second) != -First {
		t.Errorf("one second is in bucket %d, want %d: 2^0 s", Bucket(time.Second), -First)
	}
}

func TestQuantilesAreTooLongByABucketAtMost(t *testing.T) {
	var h Histogram
	r := rand.New(rand.NewPCG(3, 4))
	var all []time.Duration
	var sum time.Duration
	for range 5000 {
		d := time.Duration(math.Exp2(7 + r.Float64()*28))
		all = append(all, d)
		sum += d
	}
	var wg sync.WaitGroup
	for part := range 4 { // the counts of several goroutines are all there
		wg.Go(func() {
			for _, d := range all[part*1250 : (part+1)*1250] {
				h.Observe(d)
			}
		})
	}
	wg.Wait()
	sort.Slice(all, func(i, j int) bool { return all[i] < all[j] })
	s := h.Snapshot()
	if s.Count() != 5000 || s.Sum != sum {
		t.Errorf("count %d and sum %v, want 5000 and %v", s.Count(), s.Sum, sum)
	}
	for _, q := range []float64{0, 0.5, 0.9, 0.99, 1} {
		want := all[min(int(q*5000), 4999)]
		got := s.Quantile(q)
		if got < want || float64(got) > float64(want)*1.1+1 {
			t.Errorf("quantile %v is %v, want %v to a tenth more", q, got, want)
		}
	}
	var none Snapshot
	if none.Quantile(0.5) != 0 {
		t.Error("the quantile of nothing is not 0")
	}
}
