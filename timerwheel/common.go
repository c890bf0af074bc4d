package timerwheel

import "sync/atomic"

// common is what shards, workers and the driver share.
type common struct {
	timebase
	slots slots
	count counters
	runs  runs
	live  atomic.Bool // started and not stopped

	maxTimers int64 // Config.MaxTimers
}
