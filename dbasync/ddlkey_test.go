package dbasync

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"millrace/internal/faultproxy"
)

// TestKeyedStatementsUseWhatEarlierOnesMake: tables, columns, types and functions are made,
// altered and made anew by statements of the same key that have not ended when their users
// are queued, whose texts are new or known from before.
func TestKeyedStatementsUseWhatEarlierOnesMake(t *testing.T) {
	for _, form := range []string{"chain", "strict", "one lane"} {
		t.Run(form, func(t *testing.T) {
			db := open(t, func(c *Config) {
				c.Strict = form == "strict"
				if form == "one lane" {
					c.Lanes = 1
				}
			})
			const keys = 6
			var wg sync.WaitGroup
			for k := range keys {
				n := fmt.Sprintf("made_%d", tableNo.Add(1))
				for _, q := range madeAndUsed(n) {
					wg.Add(1)
					err := db.Query(context.Background(), nil, func(r QueryResult) {
						defer wg.Done()
						if r.Outcome != OK || r.Err != nil {
							t.Errorf("%s: %v %v", q.sql, r.Outcome, r.Err)
							return
						}
						if rows := r.Rows(); q.want != nil && rows.Next() {
							if vs, err := rows.Values(); err != nil || fmt.Sprint(vs[0]) != fmt.Sprint(q.want) {
								t.Errorf("%s: got %v, %v, want %v", q.sql, vs, err, q.want)
							}
							rows.Close()
						}
					}, Stmt{SQL: q.sql, Key: uint64(k + 1)}, q.args...)
					if err != nil {
						wg.Done()
						t.Errorf("%s: %v", q.sql, err)
					}
				}
			}
			wg.Wait()
		})
	}
}

type made struct {
	sql  string
	args []any
	want any // the first value of the first row; nil: not looked at
}

// madeAndUsed is a migration and its use, over things called n.
func madeAndUsed(n string) []made {
	insert, count, get := "insert into "+n+" values ($1)", "select count(*) from "+n, "select v from "+n+" limit 1"
	qs := []made{{sql: "create table " + n + " (v int)"}}
	for i := range 5 {
		qs = append(qs, made{insert, []any{i}, nil})
	}
	qs = append(qs,
		made{count, nil, 5}, made{get, nil, 0},
		// A column.
		made{"alter table " + n + " add column w text", nil, nil},
		made{"update " + n + " set w = $1 where v = $2", []any{"x", 3}, nil},
		made{"select w from " + n + " where v = $1", []any{3}, "x"},
		// Another type of a parameter, and of a column, under known texts.
		made{"alter table " + n + " alter v type bigint", nil, nil},
		made{insert, []any{int64(1) << 40}, nil},
		made{insert, []any{int64(1)<<40 + 1}, nil},
		made{"select max(v) from " + n, nil, int64(1)<<40 + 1},
		made{"drop table " + n, nil, nil},
		made{"create table " + n + " (v text)", nil, nil},
		made{insert, []any{"a text"}, nil},
		made{insert, []any{"another"}, nil},
		made{get, nil, "a text"},
		made{count, nil, 2},
		// A type, a function, and what a function makes.
		made{"create type " + n + "_e as enum ('a', 'b')", nil, nil},
		made{"select 'b'::" + n + "_e::text", nil, "b"},
		made{"create function " + n + "_f(n int) returns int language sql as 'select n + 1'", nil, nil},
		made{"select " + n + "_f($1)", []any{4}, 5},
		made{"do $$ begin execute 'create table " + n + "_d (d int)'; end $$", nil, nil},
		made{"insert into " + n + "_d values ($1) returning d", []any{7}, 7},
		made{"create view " + n + "_v as select d * 2 as dd from " + n + "_d", nil, nil},
		made{"select dd from " + n + "_v", nil, 14},
	)
	return qs
}

// TestKeyedTextThatMakesNoSenseFails: at its turn, and what is behind it goes on, also when a
// lane comes between the end of the first and its leaving the queue.
func TestKeyedTextThatMakesNoSenseFails(t *testing.T) {
	db := open(t, func(c *Config) { c.Lanes = 2 })
	for range 20 {
		keyedNonsense(t, db, table(t, "id int"))
	}
}

func keyedNonsense(t *testing.T, db *DB, name string) {
	t.Helper()
	var mu sync.Mutex
	got := map[string]int{}
	var wg sync.WaitGroup
	put := func(key uint64, sql, want string) {
		wg.Add(1)
		err := db.Query(context.Background(), nil, func(r QueryResult) {
			defer wg.Done()
			code := "ok"
			var pg *pgconn.PgError
			if errors.As(r.Err, &pg) {
				code = pg.Code
			}
			mu.Lock()
			got[code]++
			mu.Unlock()
			if code != want {
				t.Errorf("%s: got %v %v, want %s", sql, r.Outcome, r.Err, want)
			}
		}, Stmt{SQL: sql, Key: key})
		if err != nil {
			t.Fatal(err)
		}
	}
	for i := range 200 {
		key := uint64(i%7 + 1)
		switch i % 4 {
		case 0:
			put(key, "insert into "+name+" values (1)", "ok")
		case 1:
			put(key, "insert into no_such_table values (1)", "42P01")
		case 2:
			put(key, fmt.Sprintf("selec %d", i%8), "42601")
		case 3:
			put(key, "select count(*) from "+name, "ok")
		}
	}
	wg.Wait()
	if got["ok"] != 100 || got["42P01"] != 50 || got["42601"] != 50 {
		t.Errorf("got %v", got)
	}
}

// TestUseAfterACompletionIsNotRefusedByAnOlderTry: a text was described in vain before its
// table was made; who uses it when the table is there, while that answer is on its way, has
// it asked again.
func TestUseAfterACompletionIsNotRefusedByAnOlderTry(t *testing.T) {
	for _, key := range []uint64{0, 5} {
		p, url := through(t, server(t).URL())
		db := openOn(t, url, func(c *Config) { c.Lanes = 1 })
		ask(t, db, Stmt{SQL: "select 1"})
		name := fmt.Sprintf("later_%d", tableNo.Add(1))
		use := Stmt{SQL: "select count(*) from " + name, Key: key}
		early, late := make(chan QueryResult, 1), make(chan QueryResult, 1)
		p.Stall(faultproxy.Down)
		if err := db.Query(context.Background(), nil, func(r QueryResult) { early <- r }, use); err != nil {
			t.Fatal(err)
		}
		conn, err := pgx.Connect(context.Background(), server(t).URL())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		await(t, "the server to have refused it", func() bool {
			var done bool
			err := conn.QueryRow(context.Background(), "select exists(select from pg_stat_activity where pid = $1 and query = $2 and state like 'idle%')", db.Conn(0).PID(), use.SQL).Scan(&done)
			return err == nil && done
		})
		admin(t, server(t).URL(), "create table "+name+"()")
		if err := db.Query(context.Background(), nil, func(r QueryResult) { late <- r }, use); err != nil {
			t.Fatal(err)
		}
		p.Heal()
		if r := wait(t, early); r.Outcome != SQLError {
			t.Errorf("key %d: before the table was there: got %v %v", key, r.Outcome, r.Err)
		}
		if r := wait(t, late); r.Outcome != OK {
			t.Errorf("key %d: after it was made: got %v %v", key, r.Outcome, r.Err)
		}
	}
}

// TestKeyedStatementsUseWhatAFunctionMakes: nothing in its call tells that it makes a table.
func TestKeyedStatementsUseWhatAFunctionMakes(t *testing.T) {
	db := open(t, nil)
	ask(t, db, Stmt{SQL: "select 1"})
	for k := range 8 {
		name := fmt.Sprintf("fmade_%d", tableNo.Add(1))
		admin(t, server(t).URL(), "create function "+name+"_f() returns void language plpgsql as $$ begin perform pg_sleep(0.02); execute 'create table "+name+" (v int)'; end $$")
		var wg sync.WaitGroup
		for _, sql := range []string{"select " + name + "_f()", "insert into " + name + " values (1)", "insert into " + name + " values (1)", "select v from " + name} {
			wg.Add(1)
			if err := db.Query(context.Background(), nil, func(r QueryResult) {
				defer wg.Done()
				if r.Outcome != OK {
					t.Errorf("%s: got %v %v", sql, r.Outcome, r.Err)
				}
			}, Stmt{SQL: sql, Key: uint64(k + 1)}); err != nil {
				t.Fatal(err)
			}
		}
		wg.Wait()
	}
}

// TestBatchUsesWhatItMakes: pgx describes a batch before any of it runs.
func TestBatchUsesWhatItMakes(t *testing.T) {
	db := open(t, nil)
	b := db.Blocking()
	ctx := context.Background()
	name := fmt.Sprintf("batch_%d", tableNo.Add(1))
	make := func(fail bool) *pgx.Batch {
		q := &pgx.Batch{}
		q.Queue("create table " + name + " (v int)")
		q.Queue("insert into "+name+" values ($1), ($2)", 1, 2)
		q.Queue("alter table " + name + " alter v type text")
		q.Queue("insert into "+name+" values ($1)", "three")
		if fail {
			q.Queue("select 1/0")
		}
		q.Queue("select count(*) from " + name)
		return q
	}
	exists := func() (n int) {
		if err := ask(t, db, Stmt{SQL: "select count(*) from pg_class where relname = '" + name + "'"}).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	_, err := b.SendBatch(ctx, make(true), TxOptions{})
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "22012" || !strings.Contains(err.Error(), "statement 4") || exists() != 0 {
		t.Errorf("got %v, want a division by zero in statement 4 and nothing left; left %d", err, exists())
	}
	res, err := b.SendBatch(ctx, make(false), TxOptions{})
	if err != nil || len(res) != 5 || exists() != 1 {
		t.Fatalf("got %d results, %v", len(res), err)
	}
	var n int
	if err := res[4].Scan(&n); err != nil || n != 3 || res[1].RowsAffected() != 2 {
		t.Errorf("got %d rows, %v, %d inserted first", n, err, res[1].RowsAffected())
	}
}
