package frametest

import (
	"fmt"
	"testing"

	"millrace/engine"
	"millrace/internal/tally"
)

// A frame costs what it did. Each limit is a little above what is counted here again and
// again, and what the server does as time goes by, so that inline one more lock, write or
// allocation for each batch is too many. A figure that is below it by much is a trick that was
// found, and the limit goes down with it.
func TestFrameCostsWhatItDid(t *testing.T) {
	for _, tc := range []struct {
		dispatch              engine.Dispatch
		pipe                  int
		allocs, writes, locks float64 // most, for each frame
	}{
		{engine.Inline, 1, 0.05, 1.01, 5.2},
		{engine.Inline, 32, 0.005, 0.033, 1.14},
		// On workers a frame, or 32, may have a turn of the loop to itself, which takes a few
		// locks and allocates nothing; and a slow machine makes adaptive dispatch use them.
		{engine.Adaptive, 1, 0.05, 1.01, 15.6},
		{engine.Adaptive, 32, 0.005, 0.033, 1.55},
		{engine.Ordered, 1, 0.05, 1.01, 15.6},
		{engine.Ordered, 32, 0.005, 0.033, 1.55},
	} {
		t.Run(fmt.Sprintf("%v/pipe=%d", tc.dispatch, tc.pipe), func(t *testing.T) {
			b := start(t, shape{loops: 2, conns: 16, pipe: tc.pipe, body: 64, dispatch: tc.dispatch, sub: subEcho, answers: tc.pipe})
			p := b.measure(t, 400)
			t.Logf("a frame: %.4f allocations, %.4f writes, %.4f locks, %.4f turns", p.allocs, p.writes, p.locks, p.turns)
			if p.allocs > tc.allocs && !raced && !tally.On {
				t.Errorf("%.4f allocations a frame, want at most %v", p.allocs, tc.allocs)
			}
			if p.writes > tc.writes {
				t.Errorf("%.4f write system calls a frame, want at most %v", p.writes, tc.writes)
			}
			if p.locks > tc.locks {
				t.Errorf("%.4f locks a frame, want at most %v: %v", p.locks, tc.locks, p.list())
			}
		})
	}
}
