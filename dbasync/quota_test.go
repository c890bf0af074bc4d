package dbasync

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
)

// TestQuotaIsExact: with many callers and parts, never more than the limit is accepted, and
// whatever parts it was taken from and given to, all of it can be had again.
func TestQuotaIsExact(t *testing.T) {
	const queries, bytes = 100, 1000
	var q quota
	q.init(8, queries, bytes)
	var n, size, refused atomic.Int64
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(1, uint64(i)))
			var mine []int
			for range 20_000 {
				if len(mine) > 0 && rng.IntN(2) == 0 {
					last := mine[len(mine)-1]
					mine = mine[:len(mine)-1]
					n.Add(-1)
					size.Add(-int64(last))
					q.give(&q.parts[rng.IntN(len(q.parts))], last)
					continue
				}
				b := rng.IntN(40)
				if !q.take(b) {
					refused.Add(1)
					continue
				}
				mine = append(mine, b)
				if n, size := n.Add(1), size.Add(int64(b)); n > queries || size > bytes {
					t.Errorf("%d queries of %d bytes are outstanding", n, size)
				}
			}
			for _, b := range mine {
				n.Add(-1)
				size.Add(-int64(b))
				q.give(q.part(), b)
			}
		})
	}
	wg.Wait()
	if refused.Load() == 0 {
		t.Error("the limit was never reached")
	}
	if n, size := q.used(); n != 0 || size != 0 {
		t.Errorf("%d queries of %d bytes count as outstanding", n, size)
	}
	for i := range queries {
		if !q.take(bytes / queries) {
			t.Fatalf("the %dth of %d is refused", i+1, queries)
		}
	}
	if q.take(0) {
		t.Error("one beyond the limit is accepted")
	}
	q.give(&q.parts[3], bytes/queries)
	if q.take(bytes/queries + 1) {
		t.Error("a byte beyond the limit is accepted")
	}
	if !q.take(bytes / queries) {
		t.Error("what another part has is refused")
	}
}

// TestLimitFromOutside: of many callers on all processors exactly MaxQueue get in while
// nothing ends, and as many again afterwards.
func TestLimitFromOutside(t *testing.T) {
	const limit = 500
	db := open(t, func(c *Config) { c.MaxQueue = limit })
	full := &gate{err: errFull}
	for round := range 3 {
		full.set(errFull)
		var accepted, refused, ended atomic.Int64
		var wg sync.WaitGroup
		for range 4 * runtime.GOMAXPROCS(0) {
			wg.Go(func() {
				for range limit {
					err := db.Query(context.Background(), full, func(QueryResult) { ended.Add(1) }, Stmt{SQL: "select $1::int4"}, 1)
					switch {
					case err == nil:
						accepted.Add(1)
					case errors.Is(err, ErrQueueFull):
						refused.Add(1)
					default:
						t.Error(err)
					}
				}
			})
		}
		wg.Wait()
		if accepted.Load() != limit || refused.Load() == 0 {
			t.Errorf("round %d: got %d accepted, %d refused, want %d accepted", round, accepted.Load(), refused.Load(), limit)
		}
		if got := db.Stats().Outstanding; got != limit {
			t.Errorf("round %d: got Outstanding %d, want %d", round, got, limit)
		}
		full.set(nil)
		await(t, "all completions", func() bool { return ended.Load() == accepted.Load() })
		if s := db.Stats(); s.Outstanding != 0 || s.OutstandingBytes != 0 || s.UndeliveredBytes != 0 {
			t.Errorf("round %d: got %+v", round, s)
		}
	}
}
