package dbasync

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"

	"millrace/dbasync/pgembed"
)

func TestTxCommitsOrLeavesNothing(t *testing.T) {
	db := open(t, nil)
	name := table(t, "id int primary key")
	ctx := context.Background()
	run := func(fn func(context.Context, pgx.Tx) error) QueryResult {
		ch := make(chan QueryResult, 1)
		if err := db.Tx(ctx, nil, func(r QueryResult) { ch <- r }, fn); err != nil {
			t.Fatal(err)
		}
		return wait(t, ch)
	}
	insert := func(n int) func(context.Context, pgx.Tx) error {
		return func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "insert into "+name+" values ($1), ($1+1)", n)
			return err
		}
	}
	if r := run(insert(1)); r.Outcome != OK {
		t.Errorf("got %v %v", r.Outcome, r.Err)
	}
	if r := run(insert(2)); r.Outcome != SQLError {
		t.Errorf("duplicate: got %v %v", r.Outcome, r.Err)
	}
	own := errors.New("own")
	r := run(func(ctx context.Context, tx pgx.Tx) error { _ = insert(10)(ctx, tx); return own })
	if r.Outcome != SQLError || !errors.Is(r.Err, own) {
		t.Errorf("own error: got %v %v", r.Outcome, r.Err)
	}
	if r := run(func(ctx context.Context, tx pgx.Tx) error { _ = insert(20)(ctx, tx); panic("oops") }); r.Outcome != SQLError {
		t.Errorf("panic: got %v %v", r.Outcome, r.Err)
	}
	r = run(func(ctx context.Context, tx pgx.Tx) error {
		_ = insert(30)(ctx, tx)
		_, err := tx.Exec(ctx, "select pg_terminate_backend(pg_backend_pid())")
		return fmt.Errorf("lost: %v", err)
	})
	if r.Outcome != NotRun {
		t.Errorf("lost before the commit: got %v %v", r.Outcome, r.Err)
	}
	var n int
	if err := ask(t, db, Stmt{SQL: "select count(*) from " + name}).Scan(&n); err != nil || n != 2 {
		t.Errorf("got %d rows, %v, want 2", n, err)
	}
}

func TestCopyFromAndDo(t *testing.T) {
	db := open(t, nil)
	name := table(t, "id int, s text")
	ctx := context.Background()
	ch := make(chan QueryResult, 1)
	done := func(r QueryResult) { ch <- r }
	rows := make([][]any, 5000)
	for i := range rows {
		rows[i] = []any{i, fmt.Sprint(i)}
	}
	if err := db.CopyFrom(ctx, nil, done, pgx.Identifier{name}, []string{"id", "s"}, pgx.CopyFromRows(rows)); err != nil {
		t.Fatal(err)
	}
	if r := wait(t, ch); r.Outcome != OK || r.RowsAffected() != 5000 {
		t.Errorf("got %v %v, %d rows", r.Outcome, r.Err, r.RowsAffected())
	}
	err := db.Do(ctx, nil, done, func(ctx context.Context, c *pgx.Conn) error {
		if _, err := c.Exec(ctx, "set work_mem = '1MB'; create temp table x(); select pg_advisory_lock(77)", pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		_, err := c.Exec(ctx, "select * from x")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if r := wait(t, ch); r.Outcome != OK {
		t.Errorf("do: got %v %v", r.Outcome, r.Err)
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); { // its state goes with its connection
		var held bool
		if err := ask(t, db, Stmt{SQL: "select exists(select from pg_locks where locktype='advisory' and objid=77)"}).Scan(&held); err != nil {
			t.Fatal(err)
		} else if !held {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Error("the session lock is still held")
}

func TestNotificationsArriveInOrder(t *testing.T) {
	srv := pgembed.ForTest(t, pgembed.Config{TCP: true})
	db := openOn(t, srv.URL(), nil)
	ch := make(chan Notification, 5000)
	stop, err := db.Listen(nil, "news", func(n Notification) { ch <- n })
	if err != nil {
		t.Fatal(err)
	}
	other := make(chan Notification, 10)
	if _, err := db.Listen(nil, "Other \"one", func(n Notification) { other <- n }); err != nil {
		t.Fatal(err)
	}
	listening := func(n int) {
		t.Helper()
		for end := time.Now().Add(time.Minute); time.Now().Before(end); {
			var c int
			r := ask(t, db, Stmt{SQL: "select count(*) from pg_stat_activity where query ilike 'listen%' and state = 'idle'", Retry: true})
			if r.Scan(&c) == nil && c >= n {
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Fatal("nobody listens")
	}
	listening(1)
	notify := func(channel, payload string) {
		t.Helper()
		if r := ask(t, db, Stmt{SQL: "select pg_notify($1, $2)", Key: 1, Retry: true}, channel, payload); r.Outcome != OK {
			t.Fatalf("got %v %v", r.Outcome, r.Err)
		}
	}
	for i := range 200 {
		notify("news", fmt.Sprint(i))
	}
	for i := range 200 {
		if n := wait(t, ch); n.Payload != fmt.Sprint(i) || n.Lost {
			t.Fatalf("got %+v, want %d", n, i)
		}
	}
	notify("Other \"one", "x")
	if n := wait(t, other); n.Payload != "x" {
		t.Errorf("got %+v", n)
	}
	if err := srv.Restart(context.Background(), pgembed.Fast); err != nil {
		t.Fatal(err)
	}
	if n := wait(t, ch); !n.Lost {
		t.Errorf("after a restart: got %+v, want Lost", n)
	}
	notify("news", "again")
	if n := wait(t, ch); n.Payload != "again" {
		t.Errorf("got %+v", n)
	}
	stop()
	notify("news", "unheard")
	notify("Other \"one", "y")
	for n := wait(t, other); n.Payload != "y"; n = wait(t, other) {
	}
	if len(ch) != 0 {
		t.Errorf("got %+v after stop", <-ch)
	}
}

func TestObserverSwapsWhileRunning(t *testing.T) {
	first, second := newWatcher(), newWatcher()
	db := open(t, func(c *Config) { c.Observer = first; c.Lanes = 2 })
	seen := map[int]bool{}
	for len(seen) < 2 {
		ev := wait(t, first.conns)
		if ev.err != nil || !ev.conn.Connected() {
			t.Fatalf("got %v", ev.err)
		}
		seen[ev.conn.Index()] = true
	}
	var wg sync.WaitGroup
	for i := range 2000 {
		wg.Add(1)
		if err := db.Query(context.Background(), nil, func(QueryResult) { wg.Done() }, Stmt{SQL: "select 1"}); err != nil {
			t.Fatal(err)
		}
		if i == 1000 {
			db.SetObserver(second)
		}
	}
	wg.Wait()
	for n := 0; n < 2000; n++ { // each to one of them
		select {
		case <-first.ended:
		case <-second.ended:
		case <-time.After(time.Minute):
			t.Fatalf("got %d ends, want 2000", n)
		}
	}
	if len(first.ended)+len(second.ended) != 0 {
		t.Error("an end was told twice")
	}
	db.SetObserver(nil)
	ask(t, db, Stmt{SQL: "select 1"})
}

func TestStructsAndTypes(t *testing.T) {
	db := open(t, nil)
	type world struct {
		ID           int64
		RandomNumber int32 `db:"randomnumber"`
		Note         *string
		At           time.Time
	}
	stmt := Stmt{SQL: "select id::int8 as id, id*2 as randomnumber, null::text as note, '2024-01-02 03:04:05Z'::timestamptz as at from generate_series(1, $1) id"}
	ch := make(chan []world, 1)
	if err := QueryStructs(context.Background(), db, nil, func(ws []world, err error) {
		if err != nil {
			t.Error(err)
		}
		ch <- ws
	}, stmt, 3); err != nil {
		t.Fatal(err)
	}
	ws := wait(t, ch)
	if len(ws) != 3 || ws[2].ID != 3 || ws[2].RandomNumber != 6 || ws[2].Note != nil || ws[2].At.Unix() != 1704164645 {
		t.Errorf("got %+v", ws)
	}
	if _, err := One[world](ask(t, db, stmt, 0)); !errors.Is(err, ErrNoRows) {
		t.Errorf("got %v, want ErrNoRows", err)
	}
	// Whatever pgx can encode and decode.
	args := []any{[]int32{1, 2}, map[string]any{"a": 1.0}, time.Unix(1704164645, 0), pgtype.UUID{Bytes: [16]byte{1}, Valid: true}, []byte{0, 255}, 1.5, true, int64(1) << 40, nil}
	sql := "select $1::int4[], $2::jsonb, $3::timestamptz, $4::uuid, $5::bytea, $6::float8, $7::bool, $8::int8, $9::text"
	for range 2 {
		r := ask(t, db, Stmt{SQL: sql}, args...)
		rows := r.Rows()
		if !rows.Next() {
			t.Fatal(rows.Err())
		}
		got, err := rows.Values()
		if err != nil || got[5] != 1.5 || got[6] != true || got[7] != int64(1)<<40 || got[8] != nil || got[1].(map[string]any)["a"] != 1.0 {
			t.Errorf("got %v, %v", got, err)
		}
		rows.Close()
	}
}

// TestArgumentsMayBeReused: the bytes of a first use are copied too.
func TestArgumentsMayBeReused(t *testing.T) {
	db := open(t, nil)
	for i := range 3 {
		b := []byte("before")
		ch := make(chan QueryResult, 1)
		if err := db.Query(context.Background(), nil, func(r QueryResult) { ch <- r }, Stmt{SQL: "select $1::bytea, 'reuse'"}, b); err != nil {
			t.Fatal(err)
		}
		copy(b, "AFTER!")
		var got []byte
		if err := wait(t, ch).Scan(&got, nil); err != nil || string(got) != "before" {
			t.Errorf("use %d: got %q, %v", i, got, err)
		}
	}
}
