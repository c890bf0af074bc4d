package timerwheel

import (
	"testing"
	"unsafe"

	"millrace/internal/cacheline"
)

// What one processor writes for each call stands on no line that another uses for its own: of a
// shard, as they are an array; of what calls read; of the counters.
func TestLinesApart(t *testing.T) {
	var c common
	var sh shard
	var s slots
	var n counters
	cacheline.Apart(t, "a shard's last and the next one's mutex", unsafe.Offsetof(sh.emptyRounds)+unsafe.Sizeof(sh.emptyRounds), unsafe.Sizeof(sh)+unsafe.Offsetof(sh.mu))
	cacheline.Apart(t, "what each call reads and armed slots", unsafe.Offsetof(s.request)+unsafe.Sizeof(s.request), unsafe.Offsetof(s.keys))
	cacheline.Apart(t, "slots and counters", unsafe.Offsetof(c.slots)+unsafe.Sizeof(c.slots), unsafe.Offsetof(c.count))
	cacheline.Apart(t, "live timers and firings", unsafe.Offsetof(n.cancelled)+unsafe.Sizeof(n.cancelled), unsafe.Offsetof(n.fired))
	cacheline.Apart(t, "firings and runs", unsafe.Offsetof(c.count)+unsafe.Sizeof(c.count), unsafe.Offsetof(c.runs))
}
