package engine

import (
	"testing"
	"time"
)

// A mark is never earlier than what it marks, and later by a step at most, or two where its 32 bits
// begin again; what is past is so no earlier than it should, over all of its range.
func TestMarksAreNeverEarly(t *testing.T) {
	const around = int64(1<<32) * tickStep // 497 days
	ms := int64(time.Millisecond)
	for _, at := range []int64{0, 1, tickStep - 1, tickStep, tickStep + 1, 7*tickStep + 3*ms, around - tickStep - 1, around - tickStep, around - 1, around, around + 1, around + tickStep, 3*around - ms} {
		m := markOf(at)
		if m == 0 {
			t.Fatalf("the mark of %d is none", at)
		}
		for _, later := range []int64{0, 1, ms, tickStep - 1, tickStep, tickStep + 1, int64(time.Minute), int64(240 * 24 * time.Hour)} {
			now := at + later
			if got := m.time(now); got < at || got > at+2*tickStep || got > at+tickStep && (at+tickStep-1)/tickStep%(1<<32) != 0 {
				t.Errorf("the mark of %d is %d, %d later", at, got, later)
			}
			limit := time.Duration(later)
			if m.past(now, limit) || later > 0 && m.past(now-1, limit) {
				t.Errorf("%d: %v are past before their time", at, limit)
			}
			if limit > 0 && !m.past(now+2*tickStep+1, limit) {
				t.Errorf("%d: %v are not past two steps after their time", at, limit)
			}
		}
		if m.past(at+int64(time.Hour), 0) {
			t.Error("without a limit something is past")
		}
	}
	if mark(0).past(around, time.Nanosecond) {
		t.Error("what was not is past")
	}
}

// tick's times are right to a step, over all of its range.
func TestTicksGoAround(t *testing.T) {
	const around = int64(1<<32) * tickStep
	for _, at := range []int64{0, 3*tickStep + 1, around - 1, around, around + tickStep + 1} {
		for _, later := range []int64{0, tickStep - 1, tickStep, int64(400 * 24 * time.Hour)} {
			if got := tickOf(at).time(at + later); got <= at-tickStep || got >= at+tickStep {
				t.Errorf("the tick of %d is %d, %d later", at, got, later)
			}
		}
	}
}
