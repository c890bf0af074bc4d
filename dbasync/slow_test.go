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

// A query that the others waited behind would hold them up for all of stuck; overdue is
// far from what they take else, and less than that.
const (
	stuck   = 3.0
	overdue = 2 * time.Second
)

func TestSlowQueryAmongOthers(t *testing.T) {
	db := open(t, nil)
	slow := Stmt{SQL: "select pg_sleep($1), 'slow'"}
	ask(t, db, slow, 0.0)
	waited, n := beside(t, db, overdue, func() { ask(t, db, slow, stuck) })
	t.Logf("not yet learned: %d of %d others waited over %v", waited, n, overdue)
	if waited > 64 {
		t.Errorf("%d others waited: more than the rest of one burst", waited)
	}
	// It is learned by now, or measured alone next time.
	for range 3 {
		ask(t, db, slow, 0.3)
	}
	if db.Stats().Learned == 0 {
		t.Fatal("nothing was learned")
	}
	waited, n = beside(t, db, overdue, func() { ask(t, db, slow, stuck) })
	if waited != 0 {
		t.Errorf("learned: %d of %d others waited over %v", waited, n, overdue)
	}
	// Being quick for a while brings it back.
	for range 5 { // a run that the machine held up begins the while anew
		for range quickRuns + 1 {
			ask(t, db, slow, 0.0)
		}
		if r := ask(t, db, slow, 0.0); r.Conn >= 0 {
			return
		}
	}
	t.Error("still on the slow connections after being quick")
}

func TestTimeoutOnALaneTeaches(t *testing.T) {
	db := open(t, func(c *Config) { c.StatementTimeout = time.Second })
	stmt := Stmt{SQL: "select pg_sleep($1), 'timeout'"}
	ask(t, db, stmt, 0.0)
	if r := ask(t, db, stmt, 1.5); r.Outcome != SQLError {
		t.Fatalf("got %v %v, want 57014", r.Outcome, r.Err)
	}
	if r := ask(t, db, stmt, 1.5); r.Outcome != OK || r.Conn != -1 {
		t.Errorf("next: got %v %v on %d, want ok on a slow connection", r.Outcome, r.Err, r.Conn)
	}
}

func TestToldSlowHoldsNobody(t *testing.T) {
	db := open(t, nil)
	slow := Stmt{SQL: "select pg_sleep($1), 'told'", Slow: true}
	waited, n := beside(t, db, overdue, func() {
		if r := ask(t, db, slow, stuck); r.Outcome != OK || r.Conn != -1 {
			t.Errorf("got %v %v on %d", r.Outcome, r.Err, r.Conn)
		}
	})
	if waited != 0 {
		t.Errorf("%d of %d others waited over %v", waited, n, overdue)
	}
}
