package dbasync

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestContextEndsAQuery(t *testing.T) {
	db := open(t, func(c *Config) { c.Lanes = 1 })
	ask(t, db, Stmt{SQL: "select pg_sleep($1)"}, 0.0)
	ch := make(chan QueryResult, 2)
	done := func(r QueryResult) { ch <- r }
	ctx, cancel := context.WithCancel(context.Background())
	const runs = 3 * time.Second
	begun := time.Now()
	if err := db.Query(ctx, nil, done, Stmt{SQL: "select pg_sleep($1)"}, runs.Seconds()); err != nil {
		t.Fatal(err)
	}
	active(t, int(db.Conn(0).PID()), "select pg_sleep($1)")
	queued := make(chan QueryResult, 1)
	if err := db.Query(ctx, nil, func(r QueryResult) { queued <- r }, Stmt{SQL: "select pg_sleep($1)"}, 0.0); err != nil {
		t.Fatal(err)
	}
	cancel()
	if r := wait(t, ch); r.Outcome != MayHaveRun || !errors.Is(r.Err, context.Canceled) {
		t.Errorf("in flight: got %v %v", r.Outcome, r.Err)
	}
	if r := wait(t, queued); r.Outcome != NotRun || !errors.Is(r.Err, context.Canceled) {
		t.Errorf("queued: got %v %v", r.Outcome, r.Err)
	}
	if took := time.Since(begun); took > runs*3/4 {
		t.Errorf("told after %v, want it before its end after %v", took, runs)
	}
	// The lane goes on with the same connection.
	pid := db.Conn(0).PID()
	if r := ask(t, db, Stmt{SQL: "select 1"}); r.Outcome != OK || db.Conn(0).PID() != pid {
		t.Errorf("afterwards: got %v %v", r.Outcome, r.Err)
	}
	if err := db.Query(ctx, nil, done, Stmt{SQL: "select 1"}); !errors.Is(err, context.Canceled) {
		t.Errorf("a context that has ended: got %v", err)
	}
}

// active waits until the backend runs that text.
func active(t *testing.T, pid int, sql string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), server(t).URL())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		var found bool
		err := conn.QueryRow(context.Background(), "select exists(select from pg_stat_activity where pid = $1 and query = $2 and state = 'active')", pid, sql).Scan(&found)
		if err != nil {
			t.Fatal(err)
		}
		if found {
			return
		}
	}
	t.Fatalf("backend %d does not run %q", pid, sql)
}

// TestCancelRaces cancels in every phase, under -race.
func TestCancelRaces(t *testing.T) {
	db := open(t, nil)
	var wg sync.WaitGroup
	for i := range 3000 {
		ctx, cancel := context.WithCancel(context.Background())
		stmt := Stmt{SQL: "select $1::int4"}
		if i%3 == 0 {
			stmt.Key = uint64(i%5 + 1)
		}
		if i%200 == 199 {
			db.slow.learn(db.shapes.get(stmt.SQL)) // until it has been quick a few times
		}
		wg.Add(1)
		err := db.Query(ctx, nil, func(r QueryResult) {
			defer wg.Done()
			var v int
			if r.Outcome == OK && (r.Scan(&v) != nil || v != i) {
				t.Errorf("got %d, want %d", v, i)
			}
		}, stmt, i)
		if err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			go func() {
				time.Sleep(time.Duration(i%40) * 10 * time.Microsecond)
				cancel()
			}()
		} else {
			defer cancel()
		}
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	wait(t, done)
	noDetours(t, db)
}

func TestStopEndsEverything(t *testing.T) {
	srv := server(t)
	for range 5 {
		db, err := New(Config{URL: srv.URL(), Lanes: 2})
		if err != nil {
			t.Fatal(err)
		}
		if err := db.Start(context.Background()); err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		ended := map[Outcome]int{}
		accepted := 0
		for i := range 500 {
			stmt := Stmt{SQL: "select pg_sleep(0.02)"}
			stmt.Slow = i%10 == 0
			err := db.Query(context.Background(), nil, func(r QueryResult) {
				mu.Lock()
				ended[r.Outcome]++
				mu.Unlock()
			}, stmt)
			if err != nil {
				t.Fatal(err)
			}
			accepted++
		}
		ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
		err = db.Stop(ctx)
		cancel()
		if err == nil {
			t.Error("Stop did not say that it cut something short")
		}
		if err := db.Stop(context.Background()); err != nil {
			t.Errorf("second Stop: %v", err)
		}
		n := 0
		for _, c := range ended {
			n += c
		}
		if n != accepted || ended[NotRun] == 0 {
			t.Errorf("got %v of %d", ended, accepted)
		}
		if err := db.Query(context.Background(), nil, nil, Stmt{SQL: "select 1"}); !errors.Is(err, ErrClosed) {
			t.Errorf("after Stop: %v", err)
		}
	}
}

func TestStopWaitsForWhatWasAccepted(t *testing.T) {
	srv := server(t)
	db, err := New(Config{URL: srv.URL()})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	ok := 0
	for range 2000 {
		if err := db.Query(context.Background(), nil, func(r QueryResult) {
			mu.Lock()
			defer mu.Unlock()
			if r.Outcome == OK {
				ok++
			}
		}, Stmt{SQL: "select 1"}); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if ok != 2000 {
		t.Errorf("got %d ok, want 2000", ok)
	}
}

// TestCompletionsSurviveAGonePool: if the pool has stopped, completions run on Stop's goroutine.
func TestCompletionsSurviveAGonePool(t *testing.T) {
	srv := server(t)
	for _, err := range []error{gone{}, errFull} {
		pool := &gate{}
		db, e := New(Config{URL: srv.URL(), Pool: pool})
		if e != nil {
			t.Fatal(e)
		}
		if e := db.Start(context.Background()); e != nil {
			t.Fatal(e)
		}
		pool.set(err)
		ch := make(chan QueryResult, 10)
		for range 10 {
			if e := db.Query(context.Background(), nil, func(r QueryResult) { ch <- r }, Stmt{SQL: "select 1"}); e != nil {
				t.Fatal(e)
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		_ = db.Stop(ctx)
		cancel()
		if len(ch) != 10 {
			t.Errorf("pool %v: got %d completions, want 10", err, len(ch))
		}
	}
}

func TestFrozenBackendHoldsNoCompletion(t *testing.T) {
	db := open(t, func(c *Config) { c.Lanes = 1; c.QueryTimeout = time.Second; c.StallTimeout = 2 * time.Second })
	ask(t, db, Stmt{SQL: "select 1"})
	_, pid := someBackend(t, db)
	if err := stop(pid); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = goOn(pid) }()
	begun := time.Now()
	if r := ask(t, db, Stmt{SQL: "select 1"}); r.Outcome != MayHaveRun || !errors.Is(r.Err, ErrTimeout) {
		t.Errorf("got %v %v", r.Outcome, r.Err)
	}
	if took := time.Since(begun); took > 20*time.Second {
		t.Errorf("told after %v, want QueryTimeout, 1 s", took)
	}
	for int(db.Conn(0).PID()) == pid || !db.Conn(0).Connected() {
		if time.Since(begun) > time.Minute {
			t.Fatal("the silent lane was not replaced")
		}
		time.Sleep(5 * time.Millisecond)
	}
	r := ask(t, db, Stmt{SQL: "select 1"})
	for range 4 { // its second may be over on a machine that stands still
		if r.Outcome == OK {
			return
		}
		r = ask(t, db, Stmt{SQL: "select 1"})
	}
	t.Errorf("on the new connection: %v %v", r.Outcome, r.Err)
}
