package timerwheel_test

import (
	"flag"
	"fmt"
	"testing"

	"millrace/timerwheel/timerbench"
)

var large = flag.Bool("large", false, "also measure 1M and 5M outstanding timers")

// BenchmarkTimers runs ours, one time.AfterFunc a timer and one library entry
// a timer side by side; bench/peers/timers adds another framework's wheel.
func BenchmarkTimers(b *testing.B) {
	sizes := timerbench.Sizes
	if *large {
		sizes = append(sizes[:len(sizes):len(sizes)], timerbench.LargeSizes...)
	}
	timerbench.Run(b, sizes, timerbench.Std(), timerbench.Ours(), timerbench.Library())
}

// BenchmarkRatios measures ours against one time.AfterFunc a timer, turn about
// and by CPU time: what a busy machine leaves comparable. Use -benchtime 1x.
func BenchmarkRatios(b *testing.B) {
	sizes := []int{100_000}
	if *large {
		sizes = append(sizes, timerbench.LargeSizes...)
	}
	for _, n := range sizes {
		b.Run(fmt.Sprintf("n=%d", n), func(b *testing.B) {
			timerbench.Ratios(b, n, 9, timerbench.Std(), timerbench.Ours())
		})
	}
}
