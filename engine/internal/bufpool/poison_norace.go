//go:build !race

package bufpool

// poison is for builds with the race detector.
func poison([]byte) {}
