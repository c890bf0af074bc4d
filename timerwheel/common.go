package timerwheel

import "sync/atomic"

// common is what shards, workers and the driver share: first what each call reads, apart from
// what firings and calls write.
type common struct {
	timebase
	live      atomic.Bool // started and not stopped
	maxTimers int64       // Config.MaxTimers
	slots     slots
	_         [64]byte
	count     counters
	_         [64]byte
	runs      runs
}
