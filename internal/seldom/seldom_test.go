package seldom

import (
	"testing"
	"testing/synctest"
	"time"
)

// One line a second, and each says how many were held back since the one before.
func TestALineASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l Line
		var written, held uint64
		const every = 10 * time.Millisecond
		for range 350 { // 3.5 s
			if n, ok := l.Due(); ok {
				written++
				held += n
			}
			time.Sleep(every)
		}
		if written != 4 || held != 3*99 {
			t.Errorf("%d lines, that tell of %d others, want 4 and 297", written, held)
		}
		time.Sleep(Every)
		if n, ok := l.Due(); !ok || n != 49 {
			t.Errorf("at last: %d %v, want 49", n, ok)
		}
		time.Sleep(Every)
		if n, ok := l.Due(); !ok || n != 0 {
			t.Errorf("after a pause: %d %v, want none", n, ok)
		}
	})
}
