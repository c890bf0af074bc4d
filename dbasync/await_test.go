package dbasync

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// pgxUser is what generated code asks of a pool.
type pgxUser interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	Query(context.Context, string, ...any) (pgx.Rows, error)
	QueryRow(context.Context, string, ...any) pgx.Row
	CopyFrom(context.Context, pgx.Identifier, []string, pgx.CopyFromSource) (int64, error)
}

func TestBlockingIsAPool(t *testing.T) {
	db := open(t, nil)
	name := table(t, "id int primary key, s text")
	ctx := context.Background()
	var u pgxUser = db.Blocking()
	if tag, err := u.Exec(ctx, "insert into "+name+" values (@id, @s)", pgx.NamedArgs{"id": 1, "s": "one"}); err != nil || tag.RowsAffected() != 1 {
		t.Errorf("got %v, %v", tag, err)
	}
	if n, err := u.CopyFrom(ctx, pgx.Identifier{name}, []string{"id", "s"}, pgx.CopyFromRows([][]any{{2, "two"}, {3, nil}})); n != 2 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	var s string
	if err := u.QueryRow(ctx, "select s from "+name+" where id = $1", 2).Scan(&s); err != nil || s != "two" {
		t.Errorf("got %q, %v", s, err)
	}
	if err := u.QueryRow(ctx, "select s from "+name+" where id = 99").Scan(&s); !errors.Is(err, pgx.ErrNoRows) || !errors.Is(err, ErrNoRows) {
		t.Errorf("got %v, want pgx.ErrNoRows", err)
	}
	rows, err := u.Query(ctx, "select id, s from "+name+" order by id")
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		ID int
		S  *string
	}
	got, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByName[row])
	if err != nil || len(got) != 3 || *got[1].S != "two" || got[2].S != nil {
		t.Errorf("got %v, %v", got, err)
	}
	_, err = u.Exec(ctx, "insert into "+name+" values (1)")
	var pg *pgconn.PgError
	if !errors.As(err, &pg) || pg.Code != "23505" {
		t.Errorf("got %v, want 23505", err)
	}
	if rows, err := u.Query(ctx, "selec"); err == nil || rows == nil || rows.Next() || rows.Err() == nil {
		t.Errorf("got %v, %v", rows, err)
	}
	if _, err := u.Exec(ctx, "vacuum "+name); err != nil {
		t.Errorf("vacuum: %v", err)
	}
	if _, err := u.Exec(ctx, "commit"); !errors.Is(err, ErrNotOnLane) {
		t.Errorf("commit: got %v, want ErrNotOnLane", err)
	}
	res, err := db.Blocking().SendBatch(ctx, batchOf("select 1", "select 'x'"), TxOptions{})
	if err != nil || len(res) != 2 || res[1].Scan(&s) != nil || s != "x" {
		t.Errorf("got %v, %v", res, err)
	}
	own := errors.New("own")
	if err := db.Blocking().BeginTxFunc(ctx, TxOptions{}, func(context.Context, pgx.Tx) error { return own }); !errors.Is(err, own) {
		t.Errorf("got %v, want own", err)
	}
}

// TestPgxCollectorsReadResults: the functions of pgx that read a pgx.Rows can read a result's Rows.
func TestPgxCollectorsReadResults(t *testing.T) {
	r := ask(t, open(t, nil), Stmt{SQL: "select g as id, 'n' || g as name, array[g, g] as pair from generate_series(1, 3) g"})
	type row struct {
		ID   int64
		Name string
		Pair []int32
	}
	for name, collect := range map[string]func() (any, error){
		"by name": func() (any, error) { return pgx.CollectRows(r.Rows(), pgx.RowToStructByName[row]) },
		"by pos":  func() (any, error) { return pgx.CollectRows(r.Rows(), pgx.RowToStructByPos[row]) },
		"append":  func() (any, error) { return pgx.AppendRows([]row(nil), r.Rows(), pgx.RowToStructByName[row]) },
		"ours":    func() (any, error) { return Collect(r, pgx.RowToStructByName[row]) },
	} {
		if got, err := collect(); err != nil || fmt.Sprint(got) != "[{1 n1 [1 1]} {2 n2 [2 2]} {3 n3 [3 3]}]" {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	if m, err := pgx.CollectOneRow(r.Rows(), pgx.RowToMap); err != nil || m["name"] != "n1" {
		t.Errorf("got %v, %v", m, err)
	}
	if _, err := pgx.CollectExactlyOneRow(r.Rows(), pgx.RowToMap); !errors.Is(err, pgx.ErrTooManyRows) {
		t.Errorf("got %v, want ErrTooManyRows", err)
	}
	type narrow struct{ ID int64 }
	if got, err := pgx.CollectRows(r.Rows(), pgx.RowToStructByName[narrow]); err == nil {
		t.Errorf("got %v for a struct that lacks columns, want an error", got)
	}
}

func TestBlockingEndsWithItsContext(t *testing.T) {
	db := open(t, func(c *Config) { c.SlowConns = 1 })
	b := db.Blocking()
	ask(t, db, Stmt{SQL: "select 1"}) // connected
	ask(t, db, Stmt{SQL: "select 1", Slow: true})
	check := func(name string, o Outcome, call func(context.Context) error) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		err := call(ctx)
		var oe *OutcomeError
		if !errors.Is(err, context.DeadlineExceeded) || !errors.As(err, &oe) || oe.Outcome != o {
			t.Errorf("%s: got %v, want the deadline and %v", name, err, o)
		}
	}
	check("on a lane", MayHaveRun, func(ctx context.Context) error {
		_, err := b.Exec(ctx, "select pg_sleep(4)")
		return err
	})
	var inside sync.Mutex // fn has returned when BeginTxFunc has
	check("in a transaction", MayHaveRun, func(ctx context.Context) error {
		err := b.BeginTxFunc(ctx, TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
			inside.Lock()
			defer inside.Unlock()
			_, err := tx.Exec(ctx, "select pg_sleep(30)")
			return err
		})
		if !inside.TryLock() {
			t.Error("fn still runs")
		} else {
			inside.Unlock()
		}
		return err
	})
	hold := make(chan struct{})
	if err := db.Tx(context.Background(), nil, nil, func(context.Context, pgx.Tx) error { <-hold; return nil }); err != nil {
		t.Fatal(err)
	}
	check("waiting for a connection", NotRun, func(ctx context.Context) error {
		return b.BeginTxFunc(ctx, TxOptions{}, func(context.Context, pgx.Tx) error { t.Error("fn called"); return nil })
	})
	close(hold)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := b.QueryRow(ctx, "select 1").Scan(nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want Canceled", err)
	}
}

// workerPool queues for one worker.
type workerPool struct{ fn chan func() }

func (p workerPool) Submit(fn func()) error {
	p.fn <- fn
	return nil
}

// TestBlockingNeedsNoWorker: a worker of the DB's pool may wait though it is the only one.
func TestBlockingNeedsNoWorker(t *testing.T) {
	pool := workerPool{make(chan func(), 100)}
	db := open(t, func(c *Config) { c.Pool = pool })
	done := make(chan error, 1)
	go func() { // the pool's one worker
		for fn := range pool.fn {
			fn()
		}
	}()
	_ = pool.Submit(func() {
		var n int
		done <- db.Blocking().QueryRow(context.Background(), "select 7").Scan(&n)
	})
	if err := wait(t, done); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := db.Stop(ctx); err != nil {
		t.Error(err)
	}
	close(pool.fn)
}

func TestCopyBothWays(t *testing.T) {
	db := open(t, nil)
	name, ctx := table(t, "id int primary key, s text"), context.Background()
	var in strings.Builder
	for i := range 20_000 {
		fmt.Fprintf(&in, "%d,row %d\n", i, i)
	}
	from := "copy " + name + " from stdin (format csv)"
	copyIn := func(r *strings.Reader, sql string) QueryResult {
		res, err := Await(func(on Submitter, done func(QueryResult)) error { return db.CopyFromReader(ctx, on, done, r, sql) })
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	if r := copyIn(strings.NewReader(in.String()), from); r.Outcome != OK || r.RowsAffected() != 20_000 {
		t.Fatalf("got %v %v, %d rows", r.Outcome, r.Err, r.RowsAffected())
	}
	if r := copyIn(strings.NewReader("20001,x\n20002,y\n1,again\n"), from); r.Outcome != SQLError {
		t.Errorf("got %v %v, want a duplicate key", r.Outcome, r.Err)
	}
	var out bytes.Buffer
	n, err := db.Blocking().CopyTo(ctx, &out, "COPY (select * from "+name+" order by id)\n TO  stdout (format csv)")
	if err != nil || n != 20_000 || out.String() != in.String() {
		t.Errorf("got %d rows, %d bytes, %v; want the %d that went in", n, out.Len(), err, in.Len())
	}
	own := errors.New("disk full")
	_, err = db.Blocking().CopyTo(ctx, failingWriter{own}, "copy "+name+" to stdout")
	if !errors.Is(err, own) {
		t.Errorf("got %v, want the writer's error", err)
	}
	res, err := Await(func(on Submitter, done func(QueryResult)) error {
		return db.CopyFromReader(ctx, on, done, &failingReader{err: own}, from)
	})
	if err != nil || res.Outcome != SQLError || !errors.Is(res.Err, own) {
		t.Errorf("got %v %v, %v; want the reader's error", res.Outcome, res.Err, err)
	}
	if err := db.CopyTo(ctx, nil, nil, &out, from); err == nil {
		t.Error("a COPY FROM was taken for a COPY TO")
	}
	var count int
	if err := ask(t, db, Stmt{SQL: "select count(*) from " + name}).Scan(&count); err != nil || count != 20_000 {
		t.Errorf("got %d rows, %v, want 20000", count, err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

type failingReader struct {
	n   int
	err error
}

func (r *failingReader) Read(p []byte) (int, error) {
	if r.n++; r.n > 3 {
		return 0, r.err
	}
	return copy(p, fmt.Sprintf("%d,half\n", 50_000+r.n)), nil
}
