package timerwheel

import "math"

// Waking the goroutines between the wheel and a worker costs as much as some
// hundred firings. So while more than denseRate timers fire on each tick, slots
// of level 0 are not armed on the wheel: the clock brings up as many ticks at
// once as make coalescedFirings, two at least, Config.Slack at most, as a
// network card coalesces interrupts. They are also fewer than the shortest
// period has, for two of one timer's firings at once would lose one.
const (
	denseRate        = 48
	coalescedFirings = 800
	judgeTicks       = 64 // how many ticks it is judged by
)

// A coalescer decides how many ticks to process together. Guarded by driver.driving.
type coalescer struct {
	slack    int64 // Config.Slack in ticks
	judged   int64 // tick at which it did so last
	fired    int64 // firings handed out since
	shortest int64 // the shortest period among them, ns
	together int64 // ticks from one poll to the next
}

// rate decides for the ticks since then whether to coalesce.
func (c *coalescer) rate(ticks, tick int64) bool {
	if c.fired <= denseRate*ticks {
		return false
	}
	c.together = c.atMost(min(c.slack, max(2, (coalescedFirings*ticks+c.fired/2)/c.fired)), tick)
	return c.together > 1
}

// restart resets the counts for the next decision.
func (c *coalescer) restart(nowTick int64) {
	c.judged, c.fired, c.shortest = nowTick, 0, math.MaxInt64
}

// atMost limits ticks taken together by the shortest period seen, with half a
// tick for the time that firing takes.
func (c *coalescer) atMost(ticks, tick int64) int64 {
	return min(ticks, (c.shortest-int64(justAbove)-tick/2)/tick)
}
