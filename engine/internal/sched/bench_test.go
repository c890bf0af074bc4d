package sched

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkTurn is a task's turn that pushes the task again, from as many homes as there are
// processors: what the run queue itself costs, with one shard for all and with one for each.
func BenchmarkTurn(b *testing.B) {
	procs := runtime.GOMAXPROCS(0)
	for _, shards := range []int{1, procs} {
		b.Run(fmt.Sprintf("shards=%d", shards), func(b *testing.B) {
			p := startShards(b, Config{Workers: max(2*procs, shards)}, shards)
			var wg sync.WaitGroup
			b.ReportAllocs()
			b.ResetTimer()
			for home := range 2 * procs {
				wg.Add(1)
				each := b.N / (2 * procs)
				j := newJob(nil)
				j.run = func(j *job) {
					if each--; each < 0 {
						wg.Done()
						return
					}
					p.Push(&j.Task, uint(home))
				}
				p.Push(&j.Task, uint(home))
			}
			wg.Wait()
			b.StopTimer()
			stop(b, p)
		})
	}
}

// BenchmarkSharedWrite is an atomic add to a word that one goroutine writes, and to one that
// all do: what docs/sharing.md calls a line that stays and a line that moves.
func BenchmarkSharedWrite(b *testing.B) {
	for _, all := range []bool{false, true} {
		b.Run(fmt.Sprintf("all=%v", all), func(b *testing.B) {
			var shared atomic.Int64
			b.RunParallel(func(pb *testing.PB) {
				n := &shared
				if !all {
					n = &(&struct {
						_ [64]byte
						n atomic.Int64
						_ [64]byte
					}{}).n
				}
				for pb.Next() {
					n.Add(1)
				}
			})
		})
	}
}
