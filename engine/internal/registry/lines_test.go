package registry

import (
	"testing"
	"unsafe"

	"millrace/internal/cacheline"
)

// Who looks a slot up shares no line with those who take and give back.
func TestLinesApart(t *testing.T) {
	var t0 Table[int]
	cacheline.Apart(t, "slots and the lock", unsafe.Offsetof(t0.slots)+unsafe.Sizeof(t0.slots), unsafe.Offsetof(t0.mu))
}
