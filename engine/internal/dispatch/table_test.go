package dispatch

import (
	"math/rand/v2"
	"sync"
	"testing"
)

var modes = []Mode{Adaptive, Ordered, Inline}

// An entry holds what it was made of.
func TestEntryHoldsItsParts(t *testing.T) {
	for range 1000 {
		h, k, b, s, w, r := rand.Uint32(), uint8(rand.IntN(5)), uint8(rand.IntN(16)), uint8(rand.IntN(8)), uint8(rand.IntN(32)), uint16(rand.Uint32())
		e := makeEntry(h, k, b, s, w, r)
		if e.handle() != h || e.kind() != k || e.backoff() != b || e.strikes() != s || e.slow() != w || e.runs() != r {
			t.Fatalf("%x: %x %d %d %d %d %d", e, h, k, b, s, w, r)
		}
	}
	if quickRuns<<maxBackoff > 1<<16-1 || maxBackoff > 15 || maxStrikes+1 > 7 || slowTurns > 31 {
		t.Error("a constant does not fit its part of an entry")
	}
}

// Every handle that is fixed stays so, however many there are and whatever else is
// learned beside them at the same time.
func TestFixedHandlesStayFixed(t *testing.T) {
	fix := map[uint32]Mode{}
	for i := range uint32(3000) {
		fix[i*0x10001^i<<7] = []Mode{Ordered, Inline}[i%2]
	}
	tab := New(fix)
	var wg sync.WaitGroup
	for g := range uint64(4) {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, g))
			for range 20_000 {
				h := r.Uint32()
				if h&1 == 0 {
					h %= 3000 * 0x10001
				}
				for range quickRuns {
					tab.Learn(h, 0)
				}
				tab.Judge(h, 1, 20*stallTime)
				tab.Judge(h, 1, 20*stallTime)
			}
		})
	}
	wg.Wait()
	for h, m := range fix {
		for _, mode := range modes {
			if got := tab.Inline(h, mode); got != (m == Inline) {
				t.Fatalf("handle %#x fixed as %v: inline %v in mode %v", h, m, got, mode)
			}
		}
		if tab.Learning(h) || tab.Demote(h) {
			t.Fatalf("handle %#x: learned or demoted", h)
		}
	}
}

// Fix has the last word, until it is taken back; what was learned of others stays.
func TestFixKeepsWhatWasLearnedOfOthers(t *testing.T) {
	tab := New(map[uint32]Mode{1: Inline, 2: Adaptive})
	if !tab.AnyInline(Ordered) || tab.Inline(2, Ordered) || !tab.Learning(2) {
		t.Error("want 1 fixed, and 2 not")
	}
	quick(tab, 3, quickRuns)
	tab.Demote(3)
	quick(tab, 4, quickRuns)
	quick(tab, 5, quickRuns-1)
	tab.Fix(1, Adaptive)
	tab.Fix(4, Ordered)
	if tab.Inline(1, Adaptive) || !tab.Inline(1, Inline) || tab.Inline(4, Inline) || tab.AnyInline(Ordered) || !tab.AnyInline(Adaptive) {
		t.Error("Fix did not hold")
	}
	tab.Fix(4, Adaptive)
	if tab.Inline(4, Adaptive) {
		t.Error("what had been learned before Fix came back")
	}
	quick(tab, 5, 1)
	quick(tab, 3, quickRuns)
	if !tab.Inline(5, Adaptive) || tab.Inline(3, Adaptive) {
		t.Error("what was learned of others got lost")
	}
	tab.Fix(6, Inline)
	if !tab.Inline(6, Ordered) {
		t.Error("not inline")
	}
}

// Handles that a client makes up can't keep a real one from being learned, nor the
// table from staying small.
func TestAFullTableStillLearns(t *testing.T) {
	tab := New(nil)
	for h := uint32(1); h <= 100_000; h++ {
		quick(tab, h, quickRuns)
	}
	const handle = 0xABCD0001
	quick(tab, handle, quickRuns)
	if !tab.Inline(handle, Adaptive) {
		t.Error("a handle was not learned")
	}
	if n := len(tab.slots.Load().at); n > 1<<9 {
		t.Errorf("%d slots", n)
	}
}
