package door

import "time"

// places are where handshakes compute: a few, and one that waits for its client has none.
type places chan struct{}

// take waits for a place, and returns when it was taken.
func (p places) take() time.Time {
	p <- struct{}{}
	return time.Now()
}

// leave gives up a place.
func (p places) leave() { <-p }

// rest gives up a place that was taken then, once it has been empty for so many times as long as it was taken, and calls
// then, on another goroutine.
func (p places) rest(since time.Time, times time.Duration, then func()) {
	time.AfterFunc(min(times*time.Since(since), restMost), func() {
		p.leave()
		then()
	})
}

// restMost is how long a place rests at most: who had it may have waited for a processor meanwhile.
const restMost = 100 * time.Millisecond
