package budget

import (
	"testing"
	"unsafe"

	"millrace/internal/cacheline"
)

// Parts write apart from one another, and from what all read.
func TestLinesApart(t *testing.T) {
	var b Budget
	var c count
	cacheline.Apart(t, "a part's level and what it writes", unsafe.Offsetof(b.part)+unsafe.Sizeof(b.part), unsafe.Offsetof(b.held))
	cacheline.Apart(t, "what it writes and what follows in memory", unsafe.Offsetof(b.held)+unsafe.Sizeof(b.held), unsafe.Sizeof(b))
	cacheline.Apart(t, "what all read and what all write", unsafe.Offsetof(c.mu)+unsafe.Sizeof(c.mu), unsafe.Offsetof(c.used))
}
