package budget

import (
	"testing"
	"unsafe"
)

// Parts write apart from one another, and from what all read.
func TestLinesApart(t *testing.T) {
	const line = 64
	var b Budget
	var c count
	for _, c := range []struct {
		what     string
		from, to uintptr // the end of one, and where the other begins
	}{
		{"a part's level and what it writes", unsafe.Offsetof(b.part) + unsafe.Sizeof(b.part), unsafe.Offsetof(b.held)},
		{"what it writes and what follows in memory", unsafe.Offsetof(b.held) + unsafe.Sizeof(b.held), unsafe.Sizeof(b)},
		{"what all read and what all write", unsafe.Offsetof(c.mu) + unsafe.Sizeof(c.mu), unsafe.Offsetof(c.used)},
	} {
		if c.to < c.from+line {
			t.Errorf("%s: byte %d to %d, want a cache line between them", c.what, c.from, c.to)
		}
	}
}
