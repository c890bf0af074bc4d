package door

import "time"

// places is a semaphore that limits how many handshakes compute at the same time. A handshake that
// waits for its client holds none.
type places chan struct{}

// take acquires a place, and returns the time at which it did.
func (p places) take() time.Time {
	p <- struct{}{}
	return time.Now()
}

// leave releases a place.
func (p places) leave() { <-p }

// rest releases a place that was acquired at since, after a pause of times as long as it was held, at
// most restMost. Then it calls then, on another goroutine. It does not block.
func (p places) rest(since time.Time, times time.Duration, then func()) {
	time.AfterFunc(min(times*time.Since(since), restMost), func() {
		p.leave()
		then()
	})
}

// restMost limits the pause: the holder may have held the place for long because the machine is busy.
const restMost = 100 * time.Millisecond
