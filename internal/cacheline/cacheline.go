// Package cacheline is for tests of what processors write: that it is apart.
package cacheline

import "testing"

// Size is that of a line in bytes, on the processors that matter here.
const Size = 64

// Apart fails the test if less than a line lies between two places in memory: from, the end of
// a field or struct, and to, where the next begins.
func Apart(t *testing.T, what string, from, to uintptr) {
	t.Helper()
	if to < from+Size {
		t.Errorf("%s: byte %d to %d, want a cache line between them", what, from, to)
	}
}
