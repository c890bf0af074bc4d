package engine

import (
	"testing"
	"unsafe"

	"millrace/internal/cacheline"
)

// What one processor writes for each frame, read or send stands on no cache line that others
// use for theirs.
func TestLinesApart(t *testing.T) {
	var srv Server
	var l loop
	cacheline.Apart(t, "what each frame reads and what each connection writes", unsafe.Offsetof(srv.fast)+unsafe.Sizeof(srv.fast), unsafe.Offsetof(srv.perIP))
	cacheline.Apart(t, "connections and group sends", unsafe.Offsetof(srv.goAways)+unsafe.Sizeof(srv.goAways), unsafe.Offsetof(srv.groups))
	cacheline.Apart(t, "broadcasts and costs", unsafe.Offsetof(srv.casts)+unsafe.Sizeof(srv.casts), unsafe.Offsetof(srv.costs))
	cacheline.Apart(t, "costs and what is rare", unsafe.Offsetof(srv.costs)+unsafe.Sizeof(srv.costs), unsafe.Offsetof(srv.loopMu))
	cacheline.Apart(t, "what a loop reads and its dirty list", unsafe.Offsetof(l.goroutine)+unsafe.Sizeof(l.goroutine), unsafe.Offsetof(l.mu))
	cacheline.Apart(t, "a loop's dirty list and its goroutine's own", unsafe.Offsetof(l.jobs)+unsafe.Sizeof(l.jobs), unsafe.Offsetof(l.sessions))
	cacheline.Apart(t, "the counters of a loop's goroutine and those of all", unsafe.Offsetof(l.st)+unsafe.Sizeof(l.st), unsafe.Offsetof(l.sum))
	cacheline.Apart(t, "those and what follows in memory", unsafe.Offsetof(l.sum)+unsafe.Sizeof(l.sum), unsafe.Sizeof(l))
}
