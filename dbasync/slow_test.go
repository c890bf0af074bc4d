package dbasync

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// beside runs a closed loop of 64 selects while fn runs, and returns how many of them
// took longer than limit, and how many there were.
func beside(t *testing.T, db *DB, limit time.Duration, fn func()) (late, n int64) {
	t.Helper()
	ask(t, db, Stmt{SQL: "select $1::int4"}, 1)
	var stop atomic.Bool
	var nLate, all atomic.Int64
	var wg sync.WaitGroup
	var next func()
	next = func() {
		if stop.Load() {
			wg.Done()
			return
		}
		begun := time.Now()
		err := db.Query(context.Background(), nil, func(r QueryResult) {
			all.Add(1)
			if time.Since(begun) > limit {
				nLate.Add(1)
			}
			if r.Outcome != OK {
				t.Errorf("got %v %v", r.Outcome, r.Err)
			}
			next()
		}, Stmt{SQL: "select $1::int4"}, 1)
		if err != nil {
			t.Error(err)
			wg.Done()
		}
	}
	wg.Add(64)
	for range 64 {
		next()
	}
	fn()
	stop.Store(true)
	wg.Wait()
	return nLate.Load(), all.Load()
}

func TestSlowQueryAmongOthers(t *testing.T) {
	db := open(t, nil)
	slow := Stmt{SQL: "select pg_sleep($1), 'slow'"}
	ask(t, db, slow, 0.0)
	late, n := beside(t, db, 250*time.Millisecond, func() { ask(t, db, slow, 2.0) })
	t.Logf("not yet learned: %d of %d others waited over 250 ms", late, n)
	if late > 64 {
		t.Errorf("%d others waited: more than the rest of one burst", late)
	}
	// It is learned by now, or measured alone next time.
	for range 3 {
		ask(t, db, slow, 0.3)
	}
	if db.Stats().Learned == 0 {
		t.Fatal("nothing was learned")
	}
	late, n = beside(t, db, 250*time.Millisecond, func() { ask(t, db, slow, 2.0) })
	if late != 0 {
		t.Errorf("learned: %d of %d others waited over 250 ms", late, n)
	}
	// Being quick for a while brings it back.
	for range quickRuns + 1 {
		ask(t, db, slow, 0.0)
	}
	if r := ask(t, db, slow, 0.0); r.Conn < 0 {
		t.Error("still on the slow connections after being quick")
	}
}

func TestTimeoutOnALaneTeaches(t *testing.T) {
	db := open(t, func(c *Config) { c.StatementTimeout = 100 * time.Millisecond })
	stmt := Stmt{SQL: "select pg_sleep($1), 'timeout'"}
	ask(t, db, stmt, 0.0)
	if r := ask(t, db, stmt, 0.3); r.Outcome != SQLError {
		t.Fatalf("got %v %v, want 57014", r.Outcome, r.Err)
	}
	if r := ask(t, db, stmt, 0.3); r.Outcome != OK || r.Conn != -1 {
		t.Errorf("next: got %v %v on %d, want ok on a slow connection", r.Outcome, r.Err, r.Conn)
	}
}

func TestToldSlowHoldsNobody(t *testing.T) {
	db := open(t, nil)
	slow := Stmt{SQL: "select pg_sleep($1), 'told'", Slow: true}
	late, n := beside(t, db, 250*time.Millisecond, func() {
		if r := ask(t, db, slow, 1.0); r.Outcome != OK || r.Conn != -1 {
			t.Errorf("got %v %v on %d", r.Outcome, r.Err, r.Conn)
		}
	})
	if late != 0 {
		t.Errorf("%d of %d others waited over 250 ms", late, n)
	}
}
