package engine

import "time"

// tick is a time on the server's clock in 32 bits, for times that need not be exact: in steps of
// tickStep, with a range of 497 days. It keeps idle sessions small.
type tick uint32

const tickStep = int64(10 * time.Millisecond)

func tickOf(now int64) tick { return tick(now / tickStep) }

// time returns the time of t, relative to now.
func (t tick) time(now int64) int64 { return now - int64(tickOf(now)-t)*tickStep }

// begunStep is the logarithm of a quarter of a millisecond, in nanoseconds.
const begunStep = 18

// begin records when the first byte of partial arrived, to a quarter of a millisecond.
func (rd *reading) begin(at int64) { rd.partial.Begun = uint32((at + 1<<(begunStep-1)) >> begunStep) }

// begun returns that time, relative to now; it is valid for six days.
func (rd *reading) begun(now int64) int64 {
	return now - int64(int32(uint32(now>>begunStep)-rd.partial.Begun))<<begunStep
}

// mark is a tick at which something was that may not have been: then it is 0. It is rounded up, by
// less than tickStep, so that nothing seems to be longer ago than it is. Its range is 248 days.
type mark uint32

// markOf returns the mark of now. Where that would be 0, at the clock's begin and every 497 days,
// it is the next one.
func markOf(now int64) mark { return mark(max(tickOf(now+tickStep-1), 1)) }

// time returns the time of m, which is not 0 and less than 248 days from now.
func (m mark) time(now int64) int64 {
	ticks := now / tickStep
	return (ticks - int64(int32(uint32(ticks)-uint32(m)))) * tickStep
}

// past reports whether there is a mark, and more than d has passed since; 0 is no limit.
func (m mark) past(now int64, d time.Duration) bool { return m != 0 && past(now, m.time(now), d) }
