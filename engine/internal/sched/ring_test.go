package sched

import "testing"

// The ring keeps its order across growth, wrapping and shrinking.
func TestRingKeepsItsOrder(t *testing.T) {
	r := ring{max: 5000}
	next, want, got := 0, 0, -1
	for phase := range 6 { // it fills, and is nearly emptied, by turns
		for step := range 9000 {
			if (step%7 < 5) == (phase%2 == 0) {
				n := next
				if r.push(func() { got = n }) {
					next++
				} else if r.len() != 5000 {
					t.Fatalf("refused at %d", r.len())
				}
			} else if fn := r.pop(); fn != nil {
				fn()
				if got != want {
					t.Fatalf("got %d, want %d", got, want)
				}
				want++
			}
		}
	}
	if want < 5000 || next-want != r.len() {
		t.Errorf("%d in, %d out, %d inside", next, want, r.len())
	}
}

// A ring releases the memory of a burst, without growing and shrinking repeatedly.
func TestRingShrinksAfterABurst(t *testing.T) {
	r := ring{max: 1 << 20}
	fn := func() {}
	for range 1 << 20 {
		r.push(fn)
	}
	for r.pop() != nil {
	}
	if len(r.q) != ringLeast {
		t.Errorf("an empty ring has room for %d, want %d", len(r.q), ringLeast)
	}
	if n := testing.AllocsPerRun(100, func() {
		for range ringLeast + 1 {
			r.push(fn)
		}
		for range ringLeast / 2 {
			r.pop()
		}
		for range ringLeast / 2 {
			r.push(fn)
		}
		for r.pop() != nil {
		}
	}); n > 2 {
		t.Errorf("%v allocations for a ring that grows and shrinks once", n)
	}
}
