package sched

import (
	"testing"
	"unsafe"

	"millrace/internal/cacheline"
)

// A shard is written apart from what follows it in memory, and what each push reads of a pool
// apart from what workers that come and go write.
func TestLinesApart(t *testing.T) {
	var s shard
	var p Pool
	cacheline.Apart(t, "a shard and what follows in memory", unsafe.Offsetof(s.waits)+unsafe.Sizeof(s.waits), unsafe.Sizeof(s))
	cacheline.Apart(t, "what a pool's users read and its idle workers", unsafe.Offsetof(p.ended)+unsafe.Sizeof(p.ended), unsafe.Offsetof(p.watching))
	cacheline.Apart(t, "idle workers and the lock", unsafe.Offsetof(p.idlers)+unsafe.Sizeof(p.idlers), unsafe.Offsetof(p.mu))
}
