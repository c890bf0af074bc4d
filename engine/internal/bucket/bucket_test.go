package bucket

import (
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"
)

const second = int64(time.Second)

// Whoever waits as long as he is told gets the rate, and a second's worth more at most,
// whatever he takes at once; who stays below the rate never waits.
func TestWhoWaitsGetsTheRate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rate := rapid.Int64Range(1, 1<<30).Draw(t, "rate")
		var b Bucket
		start := rapid.Int64Range(1, 1<<50).Draw(t, "start")
		now, taken := start, 0.0
		for range 100 {
			n := rapid.Int64Range(0, rate*3).Draw(t, "n")
			now += rapid.Int64Range(0, second/2).Draw(t, "pause")
			wait := b.Take(now, n, rate)
			if wait < 0 || float64(wait) > float64(n)/float64(rate)*1e9+2 {
				t.Fatalf("%v for %d at %d a second", wait, n, rate)
			}
			taken += float64(n)
			now += int64(wait)
			if most := (float64(now-start)/1e9+1)*float64(rate)*(1+1e-6) + 1; taken > most {
				t.Fatalf("%.0f taken in %v, want %.0f at most", taken, time.Duration(now-start), most)
			}
		}
		steady := Bucket{}
		for i := range int64(100) {
			if wait := steady.Take(second*(i+1), rate, rate); wait > 1000 {
				t.Fatalf("%v for who stays below the rate", wait)
			}
		}
	})
}

func TestTakeDoesNotOverflow(t *testing.T) {
	var b Bucket
	for range 5 {
		if wait := b.Take(1, math.MaxInt64, 1); wait <= 0 {
			t.Fatalf("got %v", wait)
		}
	}
}

// Many who ask at the same time get as many as one would.
func TestSharedGivesOutNoMoreThanTheRate(t *testing.T) {
	var b Shared
	var got atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for i := range int64(2000) {
				if b.Allow(second+i*second/2000, 100) {
					got.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if n := got.Load(); n < 150 || n > 201 {
		t.Errorf("%d in a second at 100 a second, want 200 with those of the second before", n)
	}
}
