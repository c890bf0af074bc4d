package engine

import (
	"testing"
	"time"
	"unsafe"
)

// An idle connection is little more than its Session. Above 416 bytes the allocator takes
// the next size, and 10,000 idle connections cost 300 KiB more.
func TestSessionSize(t *testing.T) {
	const most = 416
	if n := unsafe.Sizeof(Session{}); n > most {
		t.Errorf("a Session has %d bytes, want at most %d", n, most)
	}
}

func TestBegun(t *testing.T) {
	var rd reading
	const step = int64(1) << begunStep
	for _, then := range []int64{1, step, int64(time.Hour), 1<<50 + 12345} {
		for _, gone := range []int64{-step / 2, 0, step / 2, int64(time.Minute), int64(100 * time.Hour)} {
			rd.begin(then)
			if off := rd.begun(then+gone) - then; off < -step || off > step {
				t.Errorf("begun at %d, seen %d later, is off by %d", then, gone, off)
			}
		}
	}
}

func TestTick(t *testing.T) {
	const wrap = tickStep << 32
	for _, then := range []int64{1, tickStep, int64(time.Hour), wrap - 1, wrap, 3*wrap + 5} {
		for _, gone := range []int64{0, tickStep / 2, int64(time.Minute), wrap / 2} {
			now := then + gone
			got := tickOf(then).time(now)
			if off := got - then; off <= -tickStep || off >= tickStep {
				t.Errorf("tickOf(%d) seen from %d is %d", then, now, got)
			}
		}
	}
}
