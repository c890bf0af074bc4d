package engine

import (
	"sync"
	"testing"
)

// Loops add to lines of their own, and nothing is lost or counted twice where a sum is taken
// while they do.
func TestSpreadSums(t *testing.T) {
	var x spread
	for lane := range 2 * spreads {
		x.add(lane, 1)
	}
	for i := range x {
		if n := x[i].n.Load(); n != 2 {
			t.Errorf("line %d of %d has %d, want 2: its own loop's and the one's that is as many further", i, spreads, n)
		}
	}
	taken := x.take()
	var wg sync.WaitGroup
	for lane := range 4 {
		wg.Go(func() {
			for range 10_000 {
				x.add(lane, 3)
			}
		})
	}
	for range 1000 {
		taken += x.take()
	}
	wg.Wait()
	if n := taken + x.load(); n != 2*spreads+4*3*10_000 {
		t.Errorf("%d in all, want %d", n, 2*spreads+4*3*10_000)
	}
}
