package dbasync

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"millrace/dbasync/pgembed"
)

func TestEachQueryIsItsOwnTransaction(t *testing.T) {
	for _, form := range []string{"chain", "strict"} {
		t.Run(form, func(t *testing.T) {
			db := open(t, func(c *Config) { c.Strict = form == "strict" })
			const n = 1000
			ids := make(map[int64]bool)
			var mu sync.Mutex
			var wg sync.WaitGroup
			wg.Add(n)
			for range n {
				err := db.Query(context.Background(), nil, func(r QueryResult) {
					defer wg.Done()
					var id int64
					if err := r.Scan(&id); err != nil {
						t.Error(err)
					}
					mu.Lock()
					ids[id] = true
					mu.Unlock()
				}, Stmt{SQL: "select txid_current()"})
				if err != nil {
					t.Fatal(err)
				}
			}
			wg.Wait()
			if len(ids) != n {
				t.Errorf("got %d distinct transactions, want %d", len(ids), n)
			}
			if s := db.Stats(); form == "chain" && s.Bursts > n/4 {
				t.Errorf("%d bursts for %d queries: nothing was coalesced", s.Bursts, n)
			}
		})
	}
}

// TestFailuresStayWithTheirQuery mixes inserts that work with such that fail at once
// and such that fail in their commit.
func TestFailuresStayWithTheirQuery(t *testing.T) {
	for _, form := range []string{"chain", "strict", "keyed"} {
		t.Run(form, func(t *testing.T) { mixedWrites(t, form) })
	}
}

func mixedWrites(t *testing.T, form string) {
	srv := pgembed.ForTest(t, pgembed.Config{TCP: true})
	db := openOn(t, srv.URL(), func(c *Config) { c.Strict = form == "strict" })
	admin(t, srv.URL(), "create table parent(id int primary key)", "insert into parent values (1)",
		"create table w(id int primary key, p int references parent deferrable initially deferred)",
		"insert into w values (-1, 1)")
	const n = 2000
	type want struct{ code string }
	got := make([]QueryResult, n)
	var wg sync.WaitGroup
	wg.Add(n)
	wants := make([]want, n)
	for i := range n {
		id, p := i, 1
		switch {
		case i%7 == 3:
			id, wants[i] = -1, want{"23505"}
		case i%13 == 5:
			p, wants[i] = 99, want{"23503"}
		}
		stmt := Stmt{SQL: "insert into w values ($1, $2)"}
		if form == "keyed" {
			stmt.Key = uint64(i%50 + 1)
		}
		err := db.Exec(context.Background(), nil, func(r QueryResult) {
			got[i] = r
			wg.Done()
		}, stmt, id, p)
		if err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	ok := 0
	for i, r := range got {
		var pg *pgconn.PgError
		switch {
		case wants[i].code == "" && r.Outcome == OK && r.Err == nil && r.RowsAffected() == 1:
			ok++
		case wants[i].code != "" && r.Outcome == SQLError && errors.As(r.Err, &pg) && pg.Code == wants[i].code:
		default:
			t.Fatalf("query %d: got %v %v, want code %q", i, r.Outcome, r.Err, wants[i].code)
		}
	}
	var rows int
	if err := ask(t, db, Stmt{SQL: "select count(*) from w where id >= 0"}).Scan(&rows); err != nil {
		t.Fatal(err)
	}
	if rows != ok {
		t.Errorf("got %d rows for %d acknowledged inserts", rows, ok)
	}
	if log := logOf(t, srv); strings.Contains(log, "transaction in progress") { // there is one already, or there is none
		t.Errorf("the server warned: %s", log)
	}
	t.Logf("%s: %d ok of %d, skipped and put back %d, bursts %d", form, ok, n, db.Stats().Skipped, db.Stats().Bursts)
}
