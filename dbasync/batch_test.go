package dbasync

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

func batchOf(sqls ...string) *pgx.Batch {
	b := &pgx.Batch{}
	for _, sql := range sqls {
		b.Queue(sql)
	}
	return b
}

// send runs one batch and waits for it.
func send(t *testing.T, db *DB, b *pgx.Batch, opts TxOptions) BatchResult {
	t.Helper()
	ch := make(chan BatchResult, 1)
	if err := db.SendBatch(context.Background(), nil, func(r BatchResult) { ch <- r }, b, opts); err != nil {
		t.Fatal(err)
	}
	return wait(t, ch)
}

func TestBatchIsOneTransaction(t *testing.T) {
	obs := newWatcher()
	db := open(t, func(c *Config) { c.Observer = obs })
	parent := table(t, "id int primary key")
	name := table(t, "id int primary key, tx bigint default txid_current(), p int references "+parent+" deferrable initially deferred")
	b := &pgx.Batch{}
	b.Queue("insert into "+name+"(id) values ($1)", 1)
	b.Queue("insert into "+name+"(id) values (@id)", pgx.NamedArgs{"id": 2})
	b.Queue("select id, tx from " + name + " order by id")
	b.Queue("set local work_mem = '1MB'")
	r := send(t, db, b, TxOptions{})
	if r.Outcome != OK || r.Err != nil || len(r.Results) != 4 {
		t.Fatalf("got %v %v, %d results", r.Outcome, r.Err, len(r.Results))
	}
	type row struct{ ID, TX int64 }
	rows, err := pgx.CollectRows(r.Results[2].Rows(), pgx.RowToStructByName[row])
	if err != nil || len(rows) != 2 || rows[0].TX != rows[1].TX || r.Results[0].Tag() != "INSERT 0 1" {
		t.Errorf("got %v, %v, tag %q: want two rows of one transaction", rows, err, r.Results[0].Tag())
	}
	for _, c := range []struct {
		name, code string
		failed     int
		sqls       []string
	}{
		{"second fails", "23505", 1, []string{"insert into T(id) values (10)", "insert into T(id) values (1)", "insert into T(id) values (11)"}},
		{"commit fails", "23503", -1, []string{"insert into T(id) values (12)", "insert into T(id, p) values (13, 99)"}},
		{"no such table", "42P01", -1, []string{"insert into T(id) values (14)", "insert into nowhere values (1)"}},
		{"at run time", "22012", 1, []string{"insert into T(id) values (15)", "select 1/(id-1) from T where id = 1"}},
	} {
		for i := range c.sqls {
			c.sqls[i] = strings.Replace(c.sqls[i], "T", name, 1)
		}
		r := send(t, db, batchOf(c.sqls...), TxOptions{})
		var pg *pgconn.PgError
		if r.Outcome != SQLError || !errors.As(r.Err, &pg) || pg.Code != c.code || r.Failed != c.failed || r.Results != nil {
			t.Errorf("%s: got %v %v, failed %d, want %s at %d", c.name, r.Outcome, r.Err, r.Failed, c.code, c.failed)
		}
	}
	bad := &pgx.Batch{}
	bad.Queue("insert into " + name + "(id) values (20)")
	bad.Queue("insert into "+name+"(id) values ($1)", struct{}{})
	if r := send(t, db, bad, TxOptions{}); r.Outcome != NotRun {
		t.Errorf("an argument that can't be encoded: got %v %v", r.Outcome, r.Err)
	}
	// The connection they share is in order afterwards.
	if r := send(t, db, batchOf("insert into "+name+"(id) values (30)"), TxOptions{}); r.Outcome != OK {
		t.Errorf("afterwards: got %v %v", r.Outcome, r.Err)
	}
	for range 7 { // as many units as were sent
		wait(t, obs.ended)
	}
	if n := len(obs.ended); n != 0 {
		t.Errorf("OnQueryEnd %d times more than there were units", n)
	}
	var ids []int32
	if err := ask(t, db, Stmt{SQL: "select array_agg(id order by id) from " + name}).Scan(&ids); err != nil || fmt.Sprint(ids) != "[1 2 30]" {
		t.Errorf("got ids %v, %v, want 1 2 30", ids, err)
	}
}

func TestBatchRefusesWhatEndsItsTransaction(t *testing.T) {
	db := open(t, nil)
	with := &pgx.Batch{}
	with.Queue("select 1").Exec(func(pgconn.CommandTag) error { return nil })
	for name, b := range map[string]*pgx.Batch{
		"empty": {}, "callback": with, "commit": batchOf("select 1", " /* x */ commit"), "set": batchOf("set work_mem = '1MB'"),
		"vacuum": batchOf("vacuum"), "copy": batchOf("copy x from stdin"), "long": batchOf(strings.Repeat(" ", 17<<20) + "select 1"),
	} {
		if err := db.SendBatch(context.Background(), nil, func(BatchResult) { t.Error("done called") }, b, TxOptions{}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if s := db.Stats(); s.Accepted != 0 || s.OutstandingBytes != 0 {
		t.Errorf("got %+v", s)
	}
}

// TestBatchGoesInOneWrite: the latency of the network delays a batch once, not once for each statement.
func TestBatchGoesInOneWrite(t *testing.T) {
	p := newCountingProxy(t, server(t).URL())
	db := openOn(t, p.url, func(c *Config) { c.SlowConns, c.Lanes = 1, 1 })
	b := &pgx.Batch{}
	for i := range 20 {
		b.Queue("select $1::int", i)
	}
	send(t, db, b, TxOptions{}) // describes
	least := p.turns.Load()
	for range 10 { // the lane may be connecting meanwhile, and the connection is cleaned up
		before := p.turns.Load()
		if r := send(t, db, b, TxOptions{}); r.Outcome != OK || len(r.Results) != 20 {
			t.Fatalf("got %v %v", r.Outcome, r.Err)
		}
		least = min(least, p.turns.Load()-before)
	}
	if least > 2 {
		t.Errorf("%d turns between client and server for 20 statements, want 1", least)
	}
}

func TestBatchSurvivesAlteredTables(t *testing.T) {
	db := open(t, func(c *Config) { c.SlowConns = 1 })
	name := table(t, "id int")
	b := batchOf("insert into "+name+" values (1)", "select * from "+name)
	if r := send(t, db, b, TxOptions{}); r.Outcome != OK {
		t.Fatalf("got %v %v", r.Outcome, r.Err)
	}
	admin(t, server(t).URL(), "alter table "+name+" alter id type text")
	r := send(t, db, batchOf("select * from "+name), TxOptions{})
	var s string
	if r.Outcome != OK || r.Results[0].Scan(&s) != nil || s != "1" {
		t.Errorf("got %v %v, %q", r.Outcome, r.Err, s)
	}
}

// TestBatchBoundsItsRows: rows dropped because of a limit are reported.
func TestBatchBoundsItsRows(t *testing.T) {
	db := open(t, func(c *Config) { c.MaxResultRows = 100 })
	r := send(t, db, batchOf("select generate_series(1,60)", "select generate_series(1,60)", "select generate_series(1,10)"), TxOptions{})
	if r.Outcome != OK || r.Results[0].Len() != 60 || r.Results[2].Len() != 10 || !errors.Is(r.Results[1].Err, ErrResultTooLarge) || r.Results[1].Len() != 0 {
		t.Errorf("got %v %v: %v", r.Outcome, r.Err, r.Results)
	}
}

// TestBatchOutcomesAreExact cuts connections under units of two inserts each and counts
// the rows in the table: both inserts or none, as the outcome says.
func TestBatchOutcomesAreExact(t *testing.T) {
	db := open(t, func(c *Config) { c.SlowConns = 4 })
	name := table(t, "id int, half int")
	units := 600
	if *long {
		units = 20_000
	}
	var mu sync.Mutex
	got := make(map[int]Outcome)
	var wg sync.WaitGroup
	var twice atomic.Int64
	for i := range units {
		b := &pgx.Batch{}
		b.Queue("insert into "+name+" values ($1, 1)", i)
		if i%60 == 30 { // its own connection dies in the middle
			b.Queue("select pg_terminate_backend(pg_backend_pid())")
		}
		if i%40 == 20 {
			b.Queue("select 1/(0*$1::int)", i)
		}
		b.Queue("insert into "+name+" values ($1, 2)", i)
		wg.Add(1)
		err := db.SendBatch(context.Background(), nil, func(r BatchResult) {
			mu.Lock()
			if _, ok := got[i]; ok {
				twice.Add(1)
			}
			got[i] = r.Outcome
			mu.Unlock()
			wg.Done()
		}, b, TxOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	r := ask(t, db, Stmt{SQL: "select id, count(*) from " + name + " group by id"})
	rows := make(map[int]int)
	var id, n int
	if _, err := pgx.ForEachRow(r.Rows(), []any{&id, &n}, func() error { rows[id] = n; return nil }); err != nil {
		t.Fatal(err)
	}
	count := make(map[Outcome]int)
	for i := range units {
		o := got[i]
		count[o]++
		want := map[Outcome]bool{OK: rows[i] == 2, SQLError: rows[i] == 0, NotRun: rows[i] == 0, MayHaveRun: rows[i] == 0 || rows[i] == 2}
		if !want[o] {
			t.Errorf("unit %d: told %v, %d rows", i, o, rows[i])
		}
	}
	if twice.Load() != 0 || count[OK] == 0 || count[SQLError] == 0 {
		t.Errorf("twice %d, outcomes %v", twice.Load(), count)
	}
	t.Logf("outcomes %v", count)
}
