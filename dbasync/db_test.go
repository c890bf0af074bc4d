package dbasync

import (
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func TestQueryReturnsRows(t *testing.T) {
	db := open(t, nil)
	for range 3 { // unknown, described, prepared
		res := ask(t, db, Stmt{SQL: "select $1::int8 as a, $2::text as b, null::int4 as c, 1.50::numeric as d"}, 7, "x")
		var a int64
		var b, d string
		var c *int32
		if err := res.Scan(&a, &b, &c, &d); err != nil {
			t.Fatal(err)
		}
		if a != 7 || b != "x" || c != nil || d != "1.50" || res.Tag() != "SELECT 1" {
			t.Errorf("got %v %v %v %v %q", a, b, c, d, res.Tag())
		}
	}
	res := ask(t, db, Stmt{SQL: "select g, g::text from generate_series(1, $1::int4) g"}, 20000)
	if res.Len() != 20000 || res.Err != nil {
		t.Fatalf("got %d rows, %v", res.Len(), res.Err)
	}
	type pair struct {
		G    int32
		Text string `db:"g"`
	}
	n := int32(0)
	rows := res.Rows()
	for rows.Next() {
		var p pair
		if err := rows.Scan(&p.G, &p.Text); err != nil {
			t.Fatal(err)
		}
		if n++; p.G != n {
			t.Fatalf("got row %d, want %d", p.G, n)
		}
	}
	if n != 20000 || rows.Err() != nil {
		t.Errorf("got %d rows, %v", n, rows.Err())
	}
	vals, err := pgx.CollectRows(ask(t, db, Stmt{SQL: "select g from generate_series(1,3) g"}).Rows(), pgx.RowTo[int])
	if err != nil || len(vals) != 3 || vals[2] != 3 {
		t.Errorf("got %v, %v", vals, err)
	}
}

func TestErrorsReachTheirQuery(t *testing.T) {
	db := open(t, nil)
	res := ask(t, db, Stmt{SQL: "select 1/$1::int4"}, 0)
	var pg *pgconn.PgError
	if res.Outcome != SQLError || !errors.As(res.Err, &pg) || pg.Code != "22012" {
		t.Errorf("got %v %v, want 22012", res.Outcome, res.Err)
	}
	res = ask(t, db, Stmt{SQL: "selec 1"})
	if res.Outcome != SQLError || !errors.As(res.Err, &pg) || pg.Code != "42601" {
		t.Errorf("got %v %v, want 42601", res.Outcome, res.Err)
	}
	if res := ask(t, db, Stmt{SQL: "select 1"}); res.Outcome != OK {
		t.Errorf("got %v %v afterwards", res.Outcome, res.Err)
	}
}
