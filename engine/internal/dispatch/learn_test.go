package dispatch

import (
	"flag"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// quick has a handle learned with n quick runs.
func quick(t *Table, handle uint32, n int) {
	for range n {
		t.Learn(handle, quickTime)
	}
}

// A handle goes inline after quick runs in a row, and not for runs that take longer than
// a hand-over is worth: one among them begins the count anew.
func TestQuickRunsInARowGoInline(t *testing.T) {
	tab := New(nil)
	quick(tab, 1, quickRuns-1)
	tab.Learn(1, quickTime+1)
	quick(tab, 1, quickRuns-1)
	if tab.Inline(1, Adaptive) || !tab.Learning(1) {
		t.Error("inline too early")
	}
	quick(tab, 1, 1)
	if !tab.Inline(1, Adaptive) || tab.Inline(1, Ordered) || tab.Learning(1) {
		t.Error("not inline")
	}
	for range 1000 {
		tab.Learn(2, 60*time.Microsecond)
	}
	if tab.Inline(2, Adaptive) {
		t.Error("60 µs went inline: a worker does it for less")
	}
}

// A turn is judged by the packet: one of many quick packets is no stall, however long;
// one blocked call among few is.
func TestJudgeIsByThePacket(t *testing.T) {
	for name, c := range map[string]struct {
		frames  int
		took    time.Duration
		demoted bool
	}{
		"8,192 of 5 µs":              {8192, 41 * time.Millisecond, false},
		"64 of 20 µs":                {64, 64 * 20 * time.Microsecond, false},
		"64, of which one took 6 ms": {64, 6*time.Millisecond + 64*5*time.Microsecond, true},
		"one of 2 ms":                {1, 2 * time.Millisecond, true},
		"4 of 500 µs":                {4, 2 * time.Millisecond, true},
	} {
		tab := New(nil)
		quick(tab, 1, quickRuns)
		demoted := 0
		for range maxStrikes {
			if tab.Judge(1, c.frames, c.took) {
				demoted++
			}
		}
		if (demoted == 1) != c.demoted || demoted > 1 || tab.Inline(1, Adaptive) == c.demoted {
			t.Errorf("%s: demoted %d times, inline %v", name, demoted, tab.Inline(1, Adaptive))
		}
	}
}

// A handle that has become slower than a hand-over goes back although it never holds the
// loop up for long; one that is slow now and then stays.
func TestSlowMostOfTheTimeGoesBack(t *testing.T) {
	tab := New(nil)
	quick(tab, 1, quickRuns)
	quick(tab, 2, quickRuns)
	for i := range 10_000 {
		took := 5 * time.Microsecond
		if i%3 == 0 {
			took = 60 * time.Microsecond
		}
		if tab.Judge(1, 1, took) {
			t.Fatalf("demoted at turn %d for being slow in one of three", i)
		}
	}
	n := 1
	for ; !tab.Judge(2, 1, 60*time.Microsecond); n++ {
		if n > 1000 {
			t.Fatal("60 µs stays on the loop")
		}
	}
	if n != slowTurns || tab.Inline(2, Adaptive) {
		t.Errorf("demoted after %d turns, want %d", n, slowTurns)
	}
}

// Stalls far apart don't take a handle from its loop; stalls together do, long ones
// sooner.
func TestStrikesFade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tab := New(nil)
		quick(tab, 1, quickRuns)
		time.Sleep(time.Hour)
		for range 100 {
			for range maxStrikes - 1 {
				if tab.Judge(1, 1, stallTime) {
					t.Fatal("taken back for stalls that were long ago")
				}
			}
			tab.Judge(1, 1, 0) // quick turns between them
			tab.Judge(1, 1, 0)
			time.Sleep(strikeFade + time.Second)
		}
		for i := range maxStrikes {
			if got := tab.Judge(1, 1, stallTime); got != (i == maxStrikes-1) {
				t.Errorf("stall %d: demoted %v", i, got)
			}
		}
		quick(tab, 2, quickRuns)
		if tab.Judge(2, 1, 11*stallTime) || !tab.Judge(2, 1, 11*stallTime) {
			t.Error("want two long stalls to do")
		}
	})
}

// Each time a handle is demoted it has to be quick for twice as long, up to a limit.
func TestDemotedHandlesNeedMoreEachTime(t *testing.T) {
	tab := New(nil)
	for i := range maxBackoff + 3 {
		need := quickRuns << min(i, maxBackoff)
		quick(tab, 1, need-1)
		if tab.Inline(1, Adaptive) {
			t.Fatalf("inline before %d runs after %d times", need, i)
		}
		quick(tab, 1, 1)
		if !tab.Inline(1, Adaptive) {
			t.Fatalf("not inline after %d runs, %d times", need, i)
		}
		if !tab.Demote(1) || tab.Demote(1) || tab.Inline(1, Adaptive) {
			t.Fatal("want it demoted once")
		}
	}
}

// Slow runs count also while other workers note quick ones.
func TestSlowRunsAreNotLost(t *testing.T) {
	tab := New(nil)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50_000 {
				quick(tab, 1, 1) // so all four together at most four in a row
				tab.Learn(1, time.Millisecond)
			}
		})
	}
	wg.Wait()
	if tab.Inline(1, Adaptive) {
		t.Error("inline, with every second run slow")
	}
}

// modelEntry is what a table must know of one handle.
type modelEntry struct {
	fixed         Mode
	quick         bool
	backoff, runs int
	strikes, slow int
	lastStrike    time.Duration
}

func (m *modelEntry) inline(mode Mode) bool {
	if m.fixed != Adaptive {
		return m.fixed == Inline
	}
	return mode == Inline || mode == Adaptive && m.quick
}

func (m *modelEntry) learn(took time.Duration) {
	if m.fixed != Adaptive || m.quick {
		return
	}
	m.runs++
	if took > quickTime {
		m.runs = 0
	}
	if m.runs >= quickRuns<<m.backoff {
		*m = modelEntry{quick: true, backoff: m.backoff}
	}
}

func (m *modelEntry) demote() bool {
	if m.fixed != Adaptive || !m.quick {
		return false
	}
	*m = modelEntry{backoff: min(m.backoff+1, maxBackoff)}
	return true
}

func (m *modelEntry) judge(now time.Duration, frames int, took time.Duration) bool {
	if m.fixed != Adaptive || !m.quick {
		return false
	}
	if took <= time.Duration(frames)*slowTime {
		m.slow = max(m.slow-1, 0)
		return false
	}
	m.slow++
	if took >= stallTime {
		if now-m.lastStrike >= strikeFade {
			m.strikes = 0
		}
		m.strikes, m.lastStrike = m.strikes+1, now
		if took > 10*stallTime {
			m.strikes++
		}
	}
	if m.strikes >= maxStrikes || m.slow >= slowTurns {
		return m.demote()
	}
	return false
}

// With room for every handle a table does what a map of them does.
func TestTableModel(t *testing.T) {
	flag.Set("rapid.nofailfile", "true") // the seed is in the output
	rapid.Check(t, func(rt *rapid.T) {
		handles := rapid.SliceOfNDistinct(rapid.Uint32(), 1, probes, rapid.ID).Draw(rt, "handles") // they fit wherever they hash to
		m, fix := map[uint32]*modelEntry{}, map[uint32]Mode{}
		for _, h := range handles {
			fix[h] = rapid.SampledFrom([]Mode{Adaptive, Adaptive, Adaptive, Ordered, Inline}).Draw(rt, "fixed")
			m[h] = &modelEntry{fixed: fix[h]}
		}
		tab := New(fix)
		now := time.Duration(0)
		pick := func(t *rapid.T) uint32 { return rapid.SampledFrom(handles).Draw(t, "handle") }
		times := rapid.SampledFrom([]time.Duration{0, quickTime, quickTime + 1, slowTime, slowTime + 1, stallTime, 11 * stallTime})
		rt.Repeat(map[string]func(*rapid.T){
			"": func(t *rapid.T) {
				for h, want := range m {
					for _, mode := range modes {
						if got := tab.Inline(h, mode); got != want.inline(mode) {
							t.Fatalf("%#x in mode %d: inline %v, want %v", h, mode, got, want.inline(mode))
						}
					}
					if got := tab.Learning(h); got != (want.fixed == Adaptive && !want.quick) {
						t.Fatalf("%#x: learning %v", h, got)
					}
				}
			},
			"learn": func(t *rapid.T) {
				h, took := pick(t), times.Draw(t, "took")
				for range rapid.SampledFrom([]int{1, quickRuns, quickRuns << 2}).Draw(t, "runs") {
					tab.Learn(h, took)
					m[h].learn(took)
				}
			},
			"judge": func(t *rapid.T) {
				h, frames, took := pick(t), rapid.IntRange(1, 3).Draw(t, "frames"), times.Draw(t, "took")
				for range rapid.SampledFrom([]int{1, slowTurns - 1}).Draw(t, "turns") {
					if got, want := tab.Judge(h, frames, took), m[h].judge(now, frames, took); got != want {
						t.Fatalf("%#x: demoted %v, want %v", h, got, want)
					}
				}
			},
			"demote": func(t *rapid.T) {
				h := pick(t)
				if got, want := tab.Demote(h), m[h].demote(); got != want {
					t.Fatalf("%#x: demoted %v, want %v", h, got, want)
				}
			},
			"fix": func(t *rapid.T) {
				h, mode := pick(t), rapid.SampledFrom(modes).Draw(t, "mode")
				tab.Fix(h, mode)
				if mode != Adaptive || m[h].fixed != Adaptive {
					m[h] = &modelEntry{fixed: mode}
				}
			},
			"wait": func(t *rapid.T) {
				d := rapid.SampledFrom([]time.Duration{time.Second, strikeFade}).Draw(t, "d")
				now += d
				tab.epoch = tab.epoch.Add(-d)
			},
		})
	})
}
