package timerwheel_test

import (
	"flag"
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
