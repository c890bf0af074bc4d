package dbasync

import (
	"context"
	"errors"
	"flag"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/dbasync/pgembed"
)

var long = flag.Bool("long", false, "run the long form of the soaks")

// faults keeps inserts in flight and writes down what became of each.
type faults struct {
	db      *DB
	form    string
	first   int64 // before the first id
	limit   int64 // how many are sent; 0: until stop
	next    atomic.Int64
	stop    atomic.Bool
	lastOK  atomic.Int64 // unix nano
	wg      sync.WaitGroup
	mu      sync.Mutex
	ended   map[int64]Outcome // guarded by mu
	twice   int               // guarded by mu
	refused int               // guarded by mu
}

// newFaults has ids of its own: of n 2^32.
func newFaults(db *DB, form string, n int) *faults {
	f := &faults{db: db, form: form, first: int64(n) << 32, ended: make(map[int64]Outcome)}
	f.next.Store(f.first)
	return f
}

func (f *faults) insert() {
	if f.stop.Load() {
		f.wg.Done()
		return
	}
	id := f.next.Add(1)
	if f.limit > 0 && id-f.first > f.limit {
		f.next.Add(-1)
		f.wg.Done()
		return
	}
	err := f.send(id, func(r QueryResult) {
		f.mu.Lock()
		if _, ok := f.ended[id]; ok {
			f.twice++
		}
		f.ended[id] = r.Outcome
		f.mu.Unlock()
		if r.Outcome == OK {
			f.lastOK.Store(time.Now().UnixNano())
		}
		f.insert()
	})
	if err != nil {
		f.mu.Lock()
		f.refused++
		f.mu.Unlock()
		f.wg.Done()
	}
}

// send writes row id in the form's way.
func (f *faults) send(id int64, done func(QueryResult)) error {
	ctx := context.Background()
	stmt := Stmt{SQL: "insert into f values ($1)"}
	switch f.form {
	case "tx":
		return f.db.BeginTxFunc(ctx, nil, done, conflicting, func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, stmt.SQL, id); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "update conflicted set v = v + 1 where k = $1", id%2)
			return err
		})
	case "batch":
		b := &pgx.Batch{}
		b.Queue(stmt.SQL, id)
		b.Queue("update conflicted set v = v + 1 where k = $1", 2+id%2)
		return f.db.SendBatch(ctx, nil, func(r BatchResult) { done(r.QueryResult) }, b, conflicting)
	case "keyed":
		stmt.Key = uint64(id%97 + 1)
	}
	stmt.Slow = f.form == "slow"
	return f.db.Exec(ctx, nil, done, stmt, id)
}

// conflicting transactions update a few rows, so that the server undoes many of them
// with 40001.
var conflicting = TxOptions{TxOptions: pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, MaxRetries: 20}

const faultTables = `
drop table if exists f, conflicted;
create table f(id bigint);
create table conflicted(k int primary key, v bigint not null);
insert into conflicted select k, 0 from generate_series(0, 3) k`

// compareConflicted: each transaction that wrote its row has counted once.
func (f *faults) compareConflicted(t *testing.T, url string, present map[int64]int) {
	t.Helper()
	first := map[string]int{"tx": 0, "batch": 2}
	k, ok := first[f.form]
	if !ok {
		return
	}
	want := int64(0)
	for id := range f.ended {
		want += int64(present[id])
	}
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var got int64
	if err := conn.QueryRow(context.Background(), "select sum(v) from conflicted where k between $1 and $1 + 1", k).Scan(&got); err != nil || got != want {
		t.Errorf("%s: %d rows were written and %d counted, %v", f.form, want, got, err)
	}
}

// awaitOK returns how long it took until a query was acknowledged that ended after
// since.
func (f *faults) awaitOK(t *testing.T, since time.Time) time.Duration {
	t.Helper()
	for deadline := since.Add(time.Minute); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if at := f.lastOK.Load(); at > since.UnixNano() {
			return time.Unix(0, at).Sub(since)
		}
	}
	t.Fatal("no query was acknowledged in a minute")
	return 0
}

// TestOutcomesAreExactThroughFaults restarts the server under load, in order and by
// force, freezes a backend, kills one, and then compares every outcome with the table.
func TestOutcomesAreExactThroughFaults(t *testing.T) {
	for _, form := range []string{"chain", "strict", "keyed"} {
		t.Run(form, func(t *testing.T) { faultRun(t, form) })
	}
}

func faultRun(t *testing.T, form string) {
	srv := pgembed.ForTest(t, pgembed.Config{TCP: true})
	admin(t, srv.URL(), "create table f(id bigint)")
	db := openOn(t, srv.URL(), func(c *Config) { c.Strict = form == "strict" })
	f := &faults{db: db, form: form, ended: make(map[int64]Outcome)}
	const inFlight = 2500
	f.wg.Add(inFlight)
	for range inFlight {
		f.insert()
	}
	f.awaitOK(t, time.Now())
	restarts, frozen := 2, time.Second
	if *long {
		restarts, frozen = 10, 5*time.Second
	}
	for range restarts {
		for _, how := range []pgembed.Mode{pgembed.Fast, pgembed.Immediate} {
			if err := srv.Restart(context.Background(), how); err != nil {
				t.Fatal(err)
			}
			if took := f.awaitOK(t, time.Now()); took > 20*time.Second {
				t.Errorf("recovered after %v", took)
			}
			time.Sleep(100 * time.Millisecond) // under load
		}
	}
	freeze(t, db, frozen)
	f.awaitOK(t, time.Now())
	crash(t, db)
	f.awaitOK(t, time.Now())
	f.stop.Store(true)
	f.wg.Wait()
	f.compare(t, srv.URL())
}

// someBackend returns a backend of a lane.
func someBackend(t *testing.T, db *DB) (lane, pid int) {
	t.Helper()
	for range 5000 {
		for i := range db.cfg.Lanes {
			if pid := db.Conn(i).PID(); pid != 0 {
				return i, int(pid)
			}
		}
		time.Sleep(time.Millisecond)
	}
	t.Fatal("no lane is up")
	return 0, 0
}

func freeze(t *testing.T, db *DB, d time.Duration) {
	t.Helper()
	_, pid := someBackend(t, db)
	if err := stop(pid); err != nil {
		t.Fatal(err)
	}
	time.Sleep(d)
	if err := goOn(pid); err != nil {
		t.Fatal(err)
	}
}

// crash kills one backend; the postmaster then ends all the others by force.
func crash(t *testing.T, db *DB) {
	t.Helper()
	_, pid := someBackend(t, db)
	if err := kill(pid); err != nil {
		t.Fatal(err)
	}
}

func (f *faults) compare(t *testing.T, url string) {
	t.Helper()
	f.compareWith(t, url, rowsOf(t, url))
}

func (f *faults) compareWith(t *testing.T, url string, present map[int64]int) {
	t.Helper()
	f.compareConflicted(t, url, present)
	var n [4]int
	okAbsent, failedPresent, doubled := 0, 0, 0
	for id, o := range f.ended {
		n[o]++
		switch c := present[id]; {
		case c > 1:
			doubled++
		case o == OK && c == 0:
			okAbsent++
		case (o == SQLError || o == NotRun) && c != 0:
			failedPresent++
		}
	}
	issued := int(f.next.Load()-f.first) - f.refused
	if len(f.ended) != issued || f.twice != 0 {
		t.Errorf("%d accepted, %d ended, %d twice", issued, len(f.ended), f.twice)
	}
	if okAbsent+failedPresent+doubled != 0 {
		t.Errorf("%s: %d ok but absent, %d failed but present, %d doubled", f.form, okAbsent, failedPresent, doubled)
	}
	t.Logf("%s: %d ended: ok %d, sql error %d, not run %d, may have run %d; put back %d; refused %d",
		f.form, len(f.ended), n[OK], n[SQLError], n[NotRun], n[MayHaveRun], f.db.Stats().Skipped, f.refused)
}

func rowsOf(t *testing.T, url string) map[int64]int {
	t.Helper()
	var conn *pgx.Conn
	var err error
	for range 200 { // the server may be recovering
		if conn, err = pgx.Connect(context.Background(), url); err == nil {
			break
		}
		time.Sleep(50 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	rows, err := conn.Query(context.Background(), "select id from f")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[int64])
	if err != nil {
		t.Fatal(err)
	}
	present := make(map[int64]int)
	for _, id := range ids {
		present[id]++
	}
	return present
}

func TestServerAbsentAtStart(t *testing.T) {
	srv := pgembed.ForTest(t, pgembed.Config{TCP: true})
	ctx := context.Background()
	if err := srv.Halt(ctx, pgembed.Fast); err != nil {
		t.Fatal(err)
	}
	obs := newWatcher()
	db := openOn(t, srv.URL(), func(c *Config) { c.Observer = obs; c.Lanes = 2; c.QueryTimeout = time.Minute })
	brief := openOn(t, srv.URL(), func(c *Config) { c.QueryTimeout = 500 * time.Millisecond })
	down := wait(t, obs.conns)
	if down.err == nil || db.Connected() {
		t.Fatalf("got %v, connected %v, want a failure", down.err, db.Connected())
	}
	// What can't run ends in time, and surely has not run.
	late := make(chan QueryResult, 1)
	if err := brief.Query(ctx, nil, func(r QueryResult) { late <- r }, Stmt{SQL: "select 1"}); err != nil {
		t.Fatal(err)
	}
	if r := wait(t, late); r.Outcome != NotRun || !errors.Is(r.Err, ErrTimeout) {
		t.Errorf("got %v %v, want a timeout that did not run", r.Outcome, r.Err)
	}
	// What waits runs when the server comes.
	res := make(chan QueryResult, 1)
	if err := db.Query(ctx, nil, func(r QueryResult) { res <- r }, Stmt{SQL: "select 2"}); err != nil {
		t.Fatal(err)
	}
	if err := srv.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if r := wait(t, res); r.Outcome != OK {
		t.Errorf("got %v %v", r.Outcome, r.Err)
	}
	for ev := wait(t, obs.conns); ev.err != nil; ev = wait(t, obs.conns) {
	}
}

// watcher is an Observer that keeps what it is told.
type watcher struct {
	conns chan event
	ended chan QueryResult
}

func newWatcher() *watcher {
	return &watcher{conns: make(chan event, 1000), ended: make(chan QueryResult, 100_000)}
}

func (w *watcher) OnDBConnect(c Conn, err error) { w.conns <- event{conn: c, err: err} }
func (w *watcher) OnQueryEnd(r QueryResult)      { w.ended <- r }
