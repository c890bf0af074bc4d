package dbasync

import (
	"context"
	"sync"
	"testing"
)

// TestQueueLocksPerBurst: what all lanes share is locked by the burst, not by the query, and
// so is what all callers share.
// 256 queries in a closed loop have bursts of about 60; each takes the lock when it is
// filled and when it is answered, and a few callers find a lane asleep.
func TestQueueLocksPerBurst(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes bursts small")
	}
	db := open(t, nil)
	stmt := Stmt{SQL: "select $1::int4"}
	ask(t, db, stmt, 1)
	locks, bursts := queueLocks(db), db.Stats().Bursts
	moves := quotaMoves(db)
	const each, callers = 400, 256
	var wg sync.WaitGroup
	wg.Add(callers)
	for i := range callers {
		left := each
		key := uint64(i % 2 * i) // half of them have a key
		var next func(QueryResult)
		next = func(r QueryResult) {
			if left--; r.Err != nil || left < 0 {
				if r.Err != nil {
					t.Error(r.Err)
				}
				wg.Done()
				return
			}
			if err := db.Query(context.Background(), nil, next, Stmt{SQL: stmt.SQL, Key: key}, left); err != nil {
				t.Error(err)
				wg.Done()
			}
		}
		next(QueryResult{})
	}
	wg.Wait()
	locks, bursts = queueLocks(db)-locks, db.Stats().Bursts-bursts
	perQuery, perBurst := float64(locks)/(each*callers), float64(locks)/float64(bursts)
	t.Logf("%.3f locks a query, %.1f a burst of %.0f", perQuery, perBurst, float64(each*callers)/float64(bursts))
	if perQuery := float64(quotaMoves(db)-moves) / (each * callers); perQuery > 0.05 {
		t.Errorf("the limits' shared part was used %.3f times a query, want at most 0.05", perQuery)
	}
	if perQuery > 0.25 {
		t.Errorf("got %.2f locks of the queue a query, want at most 0.25", perQuery)
	}
}

func queueLocks(db *DB) uint64 {
	db.q.mu.Lock()
	defer db.q.mu.Unlock()
	return db.q.locked
}

func quotaMoves(db *DB) uint64 {
	db.quota.mu.Lock()
	defer db.quota.mu.Unlock()
	return db.quota.moves
}
