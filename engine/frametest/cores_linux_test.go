package frametest

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"millrace/engine"
	"millrace/internal/tally"
)

// list is what was counted, the most frequent first.
func (p *price) list() string {
	var names []string
	for name := range p.each {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return int(p.each[b].Times - p.each[a].Times) })
	var out strings.Builder
	for _, name := range names {
		if n := p.per(name); n > 0.0005 {
			fmt.Fprintf(&out, "\n%9.4f  %s", n, strings.TrimPrefix(name, "millrace/engine"))
		}
	}
	return out.String()
}

// loops is how often loops took their own locks, for each frame.
func (p *price) loops() (n float64) {
	for _, name := range []string{"piece", "popDirty", "sweep", "walk"} {
		n += p.per("millrace/engine.(*loop)." + name)
	}
	return n
}

// forAll are beginnings of the functions whose locks there are one of for all loops.
var forAll = []string{"millrace/engine.(*Server)", "millrace/engine.(*Group)", "millrace/engine.(*groups)", "millrace/engine.(*flow)",
	"millrace/engine.(*others)", "millrace/engine/internal/registry", "millrace/engine/internal/perip"}

// shared is how often locks that there is one of were taken, and what all write was written,
// but for idlers, for each frame.
func (p *price) shared() (n float64) {
	for name := range p.each {
		if slices.Contains(byTime, name) {
			continue
		}
		if name == "budget" || slices.ContainsFunc(forAll, func(begin string) bool { return strings.HasPrefix(name, begin) }) {
			n += p.per(name)
		}
	}
	return n
}

// Whatever number of loops there is, a frame takes as many locks, none of them one that all
// loops have together, and what all loops write is written no more often.
func TestLocksDoNotGrowWithLoops(t *testing.T) {
	if !tally.On {
		t.Skip("wants a build with -tags tally")
	}
	counts, rounds := []int{2, 8}, 60
	if *manyCores {
		counts, rounds = []int{2, 4, 8, 16, 32}, 200
	}
	for _, tc := range []struct {
		name   string
		shape  shape
		shared float64 // most, for each frame
		grow   float64 // how many times the locks with the fewest loops: a group's members are on more loops then
		turn   float64 // a loop's turn: 2, and some that find more to send, as other loops run beside a group's
	}{
		{"inline, 1 in flight", shape{pipe: 1, dispatch: engine.Inline, sub: subEcho, answers: 1}, 0.02, 1.1, 2.4},
		{"inline, 32 in flight", shape{pipe: 32, dispatch: engine.Inline, sub: subEcho, answers: 32}, 0.002, 1.1, 2.4},
		{"workers, 1 in flight", shape{pipe: 1, dispatch: engine.Ordered, sub: subEcho, answers: 1}, 0.05, 1.5, 2.4},
		{"workers, 32 in flight", shape{pipe: 32, dispatch: engine.Ordered, sub: subEcho, answers: 32}, 0.005, 1.5, 2.4},
		{"groups of 8", shape{pipe: 1, dispatch: engine.Inline, sub: subGroup, answers: 8, room: 8}, 0.05, 2.5, 3.1},
	} {
		var first *price
		for _, n := range counts {
			t.Run(fmt.Sprintf("%s/loops=%d", tc.name, n), func(t *testing.T) {
				s := tc.shape
				s.loops, s.conns, s.body = n, 8*n, 64
				p := start(t, s).measure(t, rounds)
				t.Logf("a frame: %.3f locks, %.4f that somebody else had, %.4f shared; %.3f idlers, %.3f steals, %.3f turns, %.3f of loops with %.3f locks",
					p.locks, p.waited, p.shared(), p.per("idlers"), p.per("steals"), p.turns, p.loopTurns, p.loops())
				if *manyCores {
					t.Log(p.list())
				}
				if first == nil {
					first = p
				}
				// One when a turn begins and one when it ends, and one each time that something to send
				// has come meanwhile.
				if n := p.loops(); n > tc.turn*p.loopTurns+0.02 {
					t.Errorf("a loop's turn takes its own lock %.2f times: %s", n/p.loopTurns, p.list())
				}
				// For each member one to refer to the frame; for each write one to be put on the list and
				// one to begin it, and some that find nothing to write; three of the sender's own.
				if most := 8 + 2.4*p.writes + tc.turn*p.loopTurns + 3.3; s.room > 0 && p.locks > most {
					t.Errorf("%.2f locks for a frame to a group of 8, with %.2f writes and %.2f turns, want at most %.2f: %s", p.locks, p.writes, p.loopTurns, most, p.list())
				}
				if p.locks > tc.grow*first.locks+0.1 {
					t.Errorf("%.3f locks a frame, with %d loops %.3f: %s", p.locks, counts[0], first.locks, p.list())
				}
				if n := p.shared(); n > tc.shared {
					t.Errorf("%.4f shared locks and writes a frame, want at most %v: %s", n, tc.shared, p.list())
				}
				if p.per("idlers") > 2.2*p.turns+0.01 { // one to sleep and one to wake
					t.Errorf("%.3f writes to the idle workers' word, in %.3f turns a frame", p.per("idlers"), p.turns)
				}
			})
		}
	}
}
