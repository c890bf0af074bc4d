package dbasync

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// try runs one query on every lane or on a slow connection; an error of Query is its
// outcome.
func try(t *testing.T, db *DB, stmt Stmt, args ...any) (QueryResult, error) {
	t.Helper()
	ch := make(chan QueryResult, 1)
	if err := db.Query(context.Background(), nil, func(r QueryResult) { ch <- r }, stmt, args...); err != nil {
		return QueryResult{}, err
	}
	r := wait(t, ch)
	return r, r.Err
}

// TestAlteredColumnsHealAtTheSecondTry alters a column under statements that are
// prepared and described. A result is never read as what it was before; a parameter is
// taken as what it is now at the second try.
func TestAlteredColumnsHealAtTheSecondTry(t *testing.T) {
	db := open(t, func(c *Config) { c.Lanes = 2 })
	when := time.Unix(1704164645, 0).UTC()
	for i, c := range []struct {
		from, to, using string
		before, after   any
		want            string // before, as text, in the new type
	}{
		{"int4", "int8", "v", 7, int64(5000000000), "7"},
		{"int2", "int4", "v", 7, 70000, "7"},
		{"int8", "text", "v::text", int64(42), "forty-two", "42"},
		{"int8", "numeric", "v", int64(42), "43", "42"},
		{"float8", "int8", "v", 8.0, int64(9), "8"},
		{"timestamptz", "int8", "extract(epoch from v)", when, int64(9), "1704164645"},
		{"text", "int4", "v::int", "12", 13, "12"},
		{"text", "bytea", "v::bytea", "ab", []byte("cd"), `\x6162`},
		{"int4", "bool", "v <> 0", 1, false, "true"},
		{"int8", "float8", "v", int64(3), 2.5, "3"},
		{"date", "timestamptz", "v", when, when, "2024-01-02 00:00:00+00"},
		{"jsonb", "text", "v::text", []byte("1"), "x", "1"},
		{"int4", "int4[]", "array[v]", 5, []int32{6}, "{5}"},
		{"uuid", "text", "v::text", "00000000-0000-0000-0000-000000000001", "u", "00000000-0000-0000-0000-000000000001"},
	} {
		for _, slow := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s to %s slow=%v", c.from, c.to, slow), func(t *testing.T) {
				name := table(t, "id serial, v "+c.from)
				read := Stmt{SQL: "select v from " + name + " order by id limit 1", Slow: slow}
				write := Stmt{SQL: "insert into " + name + "(v) values ($1)", Slow: slow}
				find := Stmt{SQL: "select count(*) from " + name + " where v = $1", Slow: slow}
				all := Stmt{SQL: "select * from " + name + " order by id limit 1", Slow: slow}
				for range 3 {
					for _, s := range []Stmt{write, find} {
						if s == find && c.from == "json" {
							continue
						}
						if _, err := try(t, db, s, c.before); err != nil {
							t.Fatal(err)
						}
					}
					for _, s := range []Stmt{read, all} {
						if _, err := try(t, db, s); err != nil {
							t.Fatal(err)
						}
					}
				}
				admin(t, server(t).URL(), "alter table "+name+" alter v type "+c.to+" using ("+c.using+")::"+c.to, "alter table "+name+" add extra text default 'more'")
				check := func(s Stmt, col int) {
					t.Helper()
					r, err := try(t, db, s)
					if err != nil {
						r, err = try(t, db, s)
					}
					if err != nil {
						t.Fatalf("%s: %v", s.SQL, err)
					}
					rows := r.Rows()
					if !rows.Next() {
						t.Fatal(rows.Err())
					}
					defer rows.Close()
					want := ask(t, db, Stmt{SQL: fmt.Sprintf("select v, %d from %s order by id limit 1 ", 1000+i, name)})
					wantRows := want.Rows()
					wantRows.Next()
					w, err := wantRows.Values()
					if err != nil {
						t.Fatal(err)
					}
					wantRows.Close()
					got, err := rows.Values()
					if err != nil || fmt.Sprint(got[col]) != fmt.Sprint(w[0]) || r.Fields()[col].DataTypeOID != want.Fields()[0].DataTypeOID {
						t.Errorf("%s: got %v (type %d), %v, want %v", s.SQL, got, r.Fields()[col].DataTypeOID, err, w[0])
					}
					if col == 1 && (len(got) != 3 || got[2] != "more") {
						t.Errorf("%s: got %v, want the new column", s.SQL, got)
					}
				}
				for range 3 {
					check(read, 0)
					check(all, 1)
				}
				for _, s := range []Stmt{write, find} {
					if _, err := try(t, db, s, c.after); err != nil {
						if _, err = try(t, db, s, c.after); err != nil {
							t.Errorf("%s: second try: %v", s.SQL, err)
						}
					}
				}
				if c.want != "" {
					var text string
					if err := ask(t, db, Stmt{SQL: "select v::text from " + name + " order by id limit 1"}).Scan(&text); err != nil || text != c.want {
						t.Errorf("the table has %q, %v, want %q", text, err, c.want)
					}
				}
			})
		}
	}
}

// TestEnumMadeAgain: a type that was dropped and created again has the same name and another OID.
func TestEnumMadeAgain(t *testing.T) {
	db := open(t, func(c *Config) { c.Lanes = 2 })
	for _, slow := range []bool{false, true} {
		name := table(t, "id int")
		mk := []string{"create type e_" + name + " as enum ('a', 'b')", "alter table " + name + " add v e_" + name}
		admin(t, server(t).URL(), mk...)
		write := Stmt{SQL: "insert into " + name + "(v) values ($1)", Slow: slow}
		cast := Stmt{SQL: "select $1::e_" + name, Slow: slow}
		read := Stmt{SQL: "select v from " + name + " limit 1", Slow: slow}
		run := func(tries int) {
			t.Helper()
			for _, s := range []Stmt{write, cast, read} {
				var args []any
				if s != read {
					args = []any{"a"}
				}
				var err error
				for range tries {
					if _, err = try(t, db, s, args...); err == nil {
						break
					}
				}
				if err != nil {
					t.Errorf("slow=%v %s: %v", slow, s.SQL, err)
				}
			}
		}
		for range 8 {
			run(1)
		}
		admin(t, server(t).URL(), append([]string{"alter table " + name + " drop v", "drop type e_" + name}, mk...)...)
		run(2)
		for range 8 {
			run(1)
		}
	}
}
