package dbasync

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestWhatALaneRefusesDoesNotDependOnCompany: the text decides, not the burst.
func TestWhatALaneRefusesDoesNotDependOnCompany(t *testing.T) {
	for _, c := range []struct {
		sql  string
		want class
	}{
		{"create temp table t()", classState},
		{"create /* x */ local temporary table t()", classState},
		{"create or replace temp view v as select 1", classState},
		{"select 1 into temp t", classState},
		{"select pg_advisory_lock(1)", classState},
		{"select pg_try_advisory_lock_shared (1)", classState},
		{"select pg_advisory_xact_lock(1)", classPlain},
		{"select set_config('a.b', 'c', true)", classStrict},
		{"create index concurrently on t(x)", classSlow},
		{"create unique index concurrently i on t(x)", classSlow},
		{"drop index concurrently i", classSlow},
		{"reindex table concurrently t", classSlow},
		{"create database d", classSlow},
		{"alter system set work_mem = '1MB'", classSlow},
		{"drop subscription s", classSlow},
		{"refresh materialized view concurrently m", classPlain},
		{"create table temp_x(id int)", classPlain},
		{"create index on concurrently_t(x)", classPlain},
		{"insert into temp values (1)", classPlain},
		{"select temp from t", classPlain},
		{"create", classPlain},
	} {
		if got, _ := classify(c.sql); got != c.want {
			t.Errorf("%s: got class %d, want %d", c.sql, got, c.want)
		}
	}
	db := open(t, nil)
	name := table(t, "id int")
	make := Stmt{SQL: "create index concurrently on " + name + "(id)"}
	if err := db.Exec(context.Background(), nil, nil, make); !errors.Is(err, ErrNotOnLane) {
		t.Errorf("alone on a lane: got %v", err)
	}
	make.Slow = true
	if r := ask(t, db, make); r.Outcome != OK {
		t.Errorf("slow: got %v %v", r.Outcome, r.Err)
	}
}

// TestLocalSettingsReachNobodyElse: a setting for one transaction is gone in the next
// of the burst, chained or shared.
func TestLocalSettingsReachNobodyElse(t *testing.T) {
	for _, group := range []bool{false, true} {
		db := open(t, func(c *Config) { c.GroupReads = group; c.Lanes = 1 })
		name := table(t, "id int")
		set := Stmt{SQL: "select set_config('app.tenant', 'tenant-1', true)", ReadOnly: true}
		only := Stmt{SQL: "select set_config('transaction_read_only', 'on', true)"}
		read := Stmt{SQL: "select coalesce(current_setting('app.tenant', true), '')", ReadOnly: true}
		write := Stmt{SQL: "insert into " + name + " values (1)"}
		for _, s := range []Stmt{set, only, read, write} {
			ask(t, db, s)
		}
		var wg sync.WaitGroup
		for i := range 400 {
			s := []Stmt{read, write, read, write, set, read, only, write}[i%8]
			wg.Add(1)
			if err := db.Query(context.Background(), nil, func(r QueryResult) {
				defer wg.Done()
				var v string
				switch {
				case r.Outcome != OK:
					t.Errorf("%s: %v", s.SQL, r.Err)
				case s == read:
					if err := r.Scan(&v); err != nil || v != "" {
						t.Errorf("another's setting: got %q, %v", v, err)
					}
				}
			}, s); err != nil {
				t.Fatal(err)
			}
		}
		wg.Wait()
	}
}

// TestLearnedSlowKeepsItsTimeout: being moved off the lanes gives no more time.
func TestLearnedSlowKeepsItsTimeout(t *testing.T) {
	db := open(t, func(c *Config) { c.QueryTimeout = 300 * time.Millisecond })
	s := Stmt{SQL: "select pg_sleep($1), 'learned'"}
	ask(t, db, s, 0.0)
	db.slow.learn(db.shapes.get(s.SQL))
	r := ask(t, db, s, 30.0)
	for end := time.Now().Add(time.Minute); r.Outcome == NotRun && time.Now().Before(end); { // connecting took all of its time
		r = ask(t, db, s, 30.0)
	}
	if r.Outcome != MayHaveRun || !errors.Is(r.Err, ErrTimeout) {
		t.Errorf("got %v %v after %v, want a timeout", r.Outcome, r.Err, r.Elapsed)
	}
}

// TestTxLeavesNothingAndTellsItsOwnEnd: a Tx gives its connection back clean, and one
// that commits by itself has committed.
func TestTxLeavesNothingAndTellsItsOwnEnd(t *testing.T) {
	db := open(t, func(c *Config) { c.SlowConns = 1 })
	name := table(t, "id int")
	run := func(fn func(context.Context, pgx.Tx) error) QueryResult {
		t.Helper()
		ch := make(chan QueryResult, 1)
		if err := db.Tx(context.Background(), nil, func(r QueryResult) { ch <- r }, fn); err != nil {
			t.Fatal(err)
		}
		return wait(t, ch)
	}
	if r := run(func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "set work_mem = '123kB'; create temp table "+name+" (id int); select pg_advisory_lock(4711); set role pg_monitor", pgx.QueryExecModeSimpleProtocol)
		return err
	}); r.Outcome != OK {
		t.Fatal(r.Err)
	}
	var mem, role string
	var temp bool
	var locks int
	if r := run(func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, "select current_setting('work_mem'), current_user::text, to_regclass('pg_temp."+name+"') is not null, (select count(*) from pg_locks where locktype = 'advisory' and objid = 4711)").Scan(&mem, &role, &temp, &locks)
	}); r.Outcome != OK || mem == "123kB" || role != "postgres" || temp || locks != 0 {
		t.Errorf("after a Tx: %v, work_mem %s, role %s, temp %v, %d locks", r.Err, mem, role, temp, locks)
	}
	insert := func(ctx context.Context, tx pgx.Tx) {
		if _, err := tx.Exec(ctx, "insert into "+name+" values (1)"); err != nil {
			t.Error(err)
		}
	}
	own := errors.New("own")
	for _, c := range []struct {
		name string
		end  func(context.Context, pgx.Tx) error
		want Outcome
		rows int
	}{
		{"commits", func(ctx context.Context, tx pgx.Tx) error { return tx.Commit(ctx) }, OK, 1},
		{"commits and fails", func(ctx context.Context, tx pgx.Tx) error { _ = tx.Commit(ctx); return own }, OK, 1},
		{"rolls back", func(ctx context.Context, tx pgx.Tx) error { return tx.Rollback(ctx) }, SQLError, 0},
		{"rolls back and fails", func(ctx context.Context, tx pgx.Tx) error { _ = tx.Rollback(ctx); return own }, SQLError, 0},
		{"commit as text", func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, "commit"); return err }, MayHaveRun, 1},
	} {
		admin(t, server(t).URL(), "truncate "+name)
		r := run(func(ctx context.Context, tx pgx.Tx) error { insert(ctx, tx); return c.end(ctx, tx) })
		var n int
		if err := ask(t, db, Stmt{SQL: "select count(*) from " + name}).Scan(&n); err != nil || n != c.rows || r.Outcome != c.want {
			t.Errorf("%s: got %v %v, %d rows, want %v, %d", c.name, r.Outcome, r.Err, n, c.want, c.rows)
		}
	}
}
