package registry

import (
	"testing"
	"unsafe"
)

// Who looks a slot up shares no line with those who take and give back.
func TestLinesApart(t *testing.T) {
	const line = 64
	var t0 Table[int]
	for _, c := range []struct {
		what     string
		from, to uintptr // the end of one, and where the other begins
	}{
		{"slots and the lock", unsafe.Offsetof(t0.slots) + unsafe.Sizeof(t0.slots), unsafe.Offsetof(t0.mu)},
	} {
		if c.to < c.from+line {
			t.Errorf("%s: byte %d to %d, want a cache line between them", c.what, c.from, c.to)
		}
	}
}
