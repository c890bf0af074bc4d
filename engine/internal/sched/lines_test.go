package sched

import (
	"testing"
	"unsafe"
)

// A shard is written apart from what follows it in memory, and what each push reads of a pool
// apart from what workers that come and go write.
func TestLinesApart(t *testing.T) {
	const line = 64
	var s shard
	var p Pool
	for _, c := range []struct {
		what     string
		from, to uintptr // the end of one, and where the other begins
	}{
		{"a shard and what follows in memory", unsafe.Offsetof(s.waits) + unsafe.Sizeof(s.waits), unsafe.Sizeof(s)},
		{"what a pool's users read and its idle workers", unsafe.Offsetof(p.ended) + unsafe.Sizeof(p.ended), unsafe.Offsetof(p.watching)},
		{"idle workers and the lock", unsafe.Offsetof(p.idlers) + unsafe.Sizeof(p.idlers), unsafe.Offsetof(p.mu)},
	} {
		if c.to < c.from+line {
			t.Errorf("%s: byte %d to %d, want a cache line between them", c.what, c.from, c.to)
		}
	}
}
