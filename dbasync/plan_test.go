package dbasync

import (
	"context"
	"sync"
	"testing"
)

func TestAlterIsSeenByTheNextQuery(t *testing.T) {
	db := open(t, nil)
	name := table(t, "id int, a int")
	url := server(t).URL()
	admin(t, url, "insert into "+name+" values (1, 10)")
	all := Stmt{SQL: "select * from " + name + " where id = $1"}
	run := func(columns int) {
		t.Helper()
		var wg sync.WaitGroup
		for range 300 { // on every lane
			wg.Add(1)
			if err := db.Query(context.Background(), nil, func(r QueryResult) {
				defer wg.Done()
				if r.Outcome != OK || r.Len() != 1 || len(r.Fields()) != columns {
					t.Errorf("got %v %v, %d rows of %d columns, want %d", r.Outcome, r.Err, r.Len(), len(r.Fields()), columns)
				}
				if rows := r.Rows(); !rows.Next() {
					t.Errorf("no row: %v", rows.Err())
				} else if _, err := rows.Values(); err != nil {
					t.Error(err)
				}
			}, all, 1); err != nil {
				t.Fatal(err)
			}
		}
		wg.Wait()
	}
	run(2)
	admin(t, url, "alter table "+name+" add column b text default 'x'")
	run(3)
	admin(t, url, "alter table "+name+" drop column a")
	run(2)
	admin(t, url, "drop table "+name)
	if r := ask(t, db, all, 1); r.Outcome != SQLError {
		t.Errorf("dropped: got %v %v", r.Outcome, r.Err)
	}
	admin(t, url, "create table "+name+"(id int, c bigint)", "insert into "+name+" values (1, 2)")
	run(2)
}

// TestAlterBeforeOtherLanesPrepare: a shape is described on one lane, the table changes,
// and then the other lanes prepare it.
func TestAlterBeforeOtherLanesPrepare(t *testing.T) {
	for _, alter := range []string{"alter a type bigint", "add column b int default 5"} {
		db := open(t, nil)
		name := table(t, "id int, a int")
		admin(t, server(t).URL(), "insert into "+name+" values (1, 10)")
		all := Stmt{SQL: "select * from " + name + " where id = $1"}
		ask(t, db, all, 1)
		admin(t, server(t).URL(), "alter table "+name+" "+alter)
		var wg sync.WaitGroup
		for range 400 {
			wg.Add(1)
			if err := db.Query(context.Background(), nil, func(r QueryResult) {
				defer wg.Done()
				rows := r.Rows()
				defer rows.Close()
				if !rows.Next() {
					t.Errorf("%s: no row: %v", alter, rows.Err())
				} else if vs, err := rows.Values(); err != nil || vs[1] != int64(10) && vs[1] != int32(10) {
					t.Errorf("%s: got %v, %v", alter, vs, err)
				}
			}, all, 1); err != nil {
				t.Fatal(err)
			}
		}
		wg.Wait()
	}
}

// TestLostStatementIsPreparedAgain: a function threw the lane's statements away.
func TestLostStatementIsPreparedAgain(t *testing.T) {
	db := open(t, func(c *Config) { c.Lanes = 1 })
	name := table(t, "id int")
	admin(t, server(t).URL(), "create function "+name+"_f() returns int language plpgsql as $$ begin execute 'deallocate all'; return 1; end $$")
	q := Stmt{SQL: "select 5 as five"}
	ask(t, db, q)
	if r := ask(t, db, Stmt{SQL: "select " + name + "_f()"}); r.Outcome != OK {
		t.Fatalf("got %v %v", r.Outcome, r.Err)
	}
	if r := ask(t, db, q); r.Outcome != OK {
		t.Errorf("got %v %v", r.Outcome, r.Err)
	}
	// A chain finds that even BEGIN is gone: the lane is made anew, nothing is lost.
	var wg sync.WaitGroup
	for range 200 {
		wg.Add(1)
		if err := db.Query(context.Background(), nil, func(r QueryResult) {
			defer wg.Done()
			if r.Outcome != OK {
				t.Errorf("got %v %v", r.Outcome, r.Err)
			}
		}, q); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

func TestReadsMayShareATransaction(t *testing.T) {
	db := open(t, func(c *Config) { c.GroupReads = true })
	name := table(t, "id int")
	ids := make(map[int64]int)
	var mu sync.Mutex
	var wg sync.WaitGroup
	failed, refused := 0, 0
	for i := range 1000 {
		stmt, args := Stmt{SQL: "select pg_backend_pid()::int8 * 1000000000 + (extract(epoch from now()) * 1000000)::int8 % 1000000000", ReadOnly: true}, []any(nil)
		switch {
		case i%50 == 7:
			stmt.SQL, args = "select 1/$1::int4", []any{0}
		case i%50 == 9:
			stmt.SQL, args = "insert into "+name+" values ($1)", []any{i}
		}
		wg.Add(1)
		if err := db.Query(context.Background(), nil, func(r QueryResult) {
			defer wg.Done()
			mu.Lock()
			defer mu.Unlock()
			var id int64
			switch {
			case i%50 == 7 && r.Outcome == SQLError:
				failed++
			case i%50 == 9:
				// Alone in its burst it travels without a group, and works.
				if r.Outcome == SQLError {
					refused++
				}
			case r.Outcome != OK || r.Scan(&id) != nil:
				t.Errorf("query %d: got %v %v", i, r.Outcome, r.Err)
			}
			ids[id]++
		}, stmt, args...); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	if failed != 20 {
		t.Errorf("got %d failures, want 20", failed)
	}
	if len(ids) > 900 {
		t.Errorf("%d transactions for 1000 reads: nothing was shared", len(ids))
	}
	t.Logf("%d distinct transactions, %d writes refused", len(ids), refused)
}
