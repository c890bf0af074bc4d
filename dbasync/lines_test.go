package dbasync

import (
	"testing"
	"unsafe"

	"millrace/internal/cacheline"
)

// Inboxes stand in an array, and are written by different processors.
func TestLinesApart(t *testing.T) {
	var b inbox
	cacheline.Apart(t, "an inbox's last and the next one's mutex", unsafe.Offsetof(b.n)+unsafe.Sizeof(b.n), unsafe.Sizeof(b)+unsafe.Offsetof(b.mu))
}
