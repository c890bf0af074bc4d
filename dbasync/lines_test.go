package dbasync

import (
	"testing"
	"unsafe"

	"millrace/internal/cacheline"
)

// Inboxes and parts of the quota stand in arrays, and are written by different processors.
func TestLinesApart(t *testing.T) {
	var b inbox
	cacheline.Apart(t, "an inbox's last and the next one's mutex", unsafe.Offsetof(b.n)+unsafe.Sizeof(b.n), unsafe.Sizeof(b)+unsafe.Offsetof(b.mu))
	var p quotaPart
	cacheline.Apart(t, "a part's last and the next one's first count", unsafe.Offsetof(p.rows)+unsafe.Sizeof(p.rows), unsafe.Sizeof(p)+unsafe.Offsetof(p.left))
	var q quota
	cacheline.Apart(t, "what queries read of a quota, and its lock", unsafe.Offsetof(q.batch)+unsafe.Sizeof(q.batch), unsafe.Offsetof(q.mu))
}
