package engine

import (
	"time"

	"millrace/engine/internal/cputime"
	"millrace/engine/internal/dispatch"
)

// doubted is how many inline turns of a loop are watched after a long one. A callback that blocks
// once in many more turns than these is seldom caught, and costs little.
const doubted = 1024

// doubt tells whether long inline turns of a loop have held it up, or the system has put its thread
// aside for others. That takes a reading of the thread's counters before the turn, two system
// calls. So they are read only for a while after a long turn, which itself is not judged.
//
// It is not exact: a goroutine that the runtime has put aside, for a garbage collection or after
// 10 ms, may seem to have waited.
type doubt struct {
	here   func() cputime.Mark // nil in a simulation, whose time is not the system's
	turns  int                 // how many more turns are watched
	on     bool                // this one is,
	before cputime.Mark        // since then
}

// begin begins a turn.
func (d *doubt) begin() {
	if d.turns == 0 {
		d.on = false
		return
	}
	d.turns--
	d.on = true
	if d.here != nil {
		d.before = d.here()
	}
}

// end returns for how long a turn of some frames, which took so long, has held the loop up: if it
// was long, the CPU time it used if it has not waited, and 0 if that is unknown.
func (d *doubt) end(frames int, took time.Duration) time.Duration {
	if !dispatch.Long(frames, took) {
		return took
	}
	d.turns = doubted
	if !d.on {
		return 0
	}
	if d.here != nil {
		if ran, ok := d.before.Ran(); ok {
			return ran
		}
	}
	return took
}
