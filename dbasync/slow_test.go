package dbasync

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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
	if r := ask(t, db, stmt, 0.5); r.Outcome != OK || r.Conn != -1 {
		t.Errorf("next: got %v %v on %d, want ok on a slow connection", r.Outcome, r.Err, r.Conn)
	}
	var pg *pgconn.PgError
	if r := ask(t, db, stmt, 30.0); r.Outcome != SQLError || r.Conn != -1 || !errors.As(r.Err, &pg) || pg.Code != codeCanceled {
		t.Errorf("too long: got %v %v on %d, want 57014 on a slow connection", r.Outcome, r.Err, r.Conn)
	}
}

// keepsTimeout checks what was moved off the lanes of db: it keeps StatementTimeout, which
// is 300 ms, and leaves nothing of it to others.
func keepsTimeout(t *testing.T, db *DB) {
	t.Helper()
	name := table(t, "id int")
	timeout := func(s Stmt) (v string) {
		t.Helper()
		if err := ask(t, db, s).Scan(&v); err != nil {
			t.Errorf("%s: %v", s.SQL, err)
		}
		return v
	}
	show := Stmt{SQL: "select current_setting('statement_timeout') /* asked to be slow */", Slow: true}
	before := timeout(show)
	for _, sql := range []string{
		"insert into " + name + " select 1 from pg_sleep(20)",
		"do $$ begin perform pg_sleep(20); end $$",
		"select current_setting('statement_timeout') from pg_sleep(0)",
		"insert into " + name + " values (7) returning current_setting('statement_timeout')",
	} {
		s := Stmt{SQL: sql}
		db.slow.learn(db.shapes.get(sql))
		r := ask(t, db, s)
		for try := 0; r.Outcome == NotRun && try < 10; try++ { // its time went by before it began
			r = ask(t, db, s)
		}
		var pg *pgconn.PgError
		var v string
		switch long := strings.Contains(sql, "(20)"); {
		case r.Conn != -1:
			t.Errorf("%s: ran on lane %d: %v %v", sql, r.Conn, r.Outcome, r.Err)
		case long && (r.Outcome != SQLError || !errors.As(r.Err, &pg) || pg.Code != codeCanceled):
			t.Errorf("%s: got %v %v after %v, want 57014", sql, r.Outcome, r.Err, r.Elapsed)
		case !long && (r.Scan(&v) != nil || v != "300ms"):
			t.Errorf("%s: got %q, %v", sql, v, r.Err)
		}
		if after := timeout(show); after != before {
			t.Errorf("%s leaves a statement_timeout of %s, want %s", sql, after, before)
		}
	}
	var rows int
	if err := ask(t, db, Stmt{SQL: "select count(*) from " + name}).Scan(&rows); err != nil || rows != 1 {
		t.Errorf("%d rows are there, want that of the one that was in time: %v", rows, err)
	}
	if r := ask(t, db, Stmt{SQL: "select 1 from pg_sleep(0.6)", Slow: true}); r.Outcome != OK {
		t.Errorf("one that says that it is slow: got %v %v", r.Outcome, r.Err)
	}
}

func TestMovedOffTheLanesKeepsItsTimeout(t *testing.T) {
	db := open(t, func(c *Config) { c.StatementTimeout, c.SlowConns = 300*time.Millisecond, 1 })
	keepsTimeout(t, db)
	// What AfterConnect sets counts on lanes, and so it does here.
	db = open(t, func(c *Config) {
		c.StatementTimeout = 300 * time.Millisecond
		c.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
			_, err := c.Exec(ctx, "set statement_timeout = 77777")
			return err
		}
	})
	sql := "select current_setting('statement_timeout')"
	for _, where := range []string{"lane", "slow"} {
		var v string
		if err := ask(t, db, Stmt{SQL: sql}).Scan(&v); err != nil || v != "77777ms" {
			t.Errorf("%s: got %q, %v", where, v, err)
		}
		db.slow.learn(db.shapes.get(sql))
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
