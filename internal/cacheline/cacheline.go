// Package cacheline is for tests of what processors write: that it is apart.
package cacheline

import "testing"

// Size is that of a line in bytes, on the processors that matter here.
const Size = 64

// Gap is from the end of one field, or struct, to the beginning of the next in memory.
type Gap struct {
	What     string
	From, To uintptr
}

// Apart fails the test for each gap that is less than a line.
func Apart(t *testing.T, gaps []Gap) {
	t.Helper()
	for _, g := range gaps {
		if g.To < g.From+Size {
			t.Errorf("%s: byte %d to %d, want a cache line between them", g.What, g.From, g.To)
		}
	}
}
