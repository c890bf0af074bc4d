package dbasync

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestHugeResultCostsLittle(t *testing.T) {
	db := open(t, func(c *Config) { c.StatementTimeout = -1 })
	ask(t, db, Stmt{SQL: "select 1"})
	base, peak := heapNow(), int64(0)
	stop, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			peak = max(peak, heapNow())
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	for _, sql := range []string{"select generate_series(1, 10000000)", "select repeat('x', 50000000)", "select repeat('x', 1000) from generate_series(1,50000)"} {
		for _, slow := range []bool{false, true} {
			if slow && strings.Contains(sql, "50000000") {
				continue // pgx reads a row whole
			}
			res := ask(t, db, Stmt{SQL: sql, Slow: slow, ReadOnly: true})
			if !errors.Is(res.Err, ErrResultTooLarge) || res.Outcome != OK || res.Len() != 0 {
				t.Errorf("%s slow=%v: got %v %v, %d rows", sql, slow, res.Outcome, res.Err, res.Len())
			}
		}
	}
	close(stop)
	<-ended
	if peak > base+32<<20 {
		t.Errorf("heap grew from %d to %d MiB", base>>20, peak>>20)
	}
	if res := ask(t, db, Stmt{SQL: "select 1"}); res.Outcome != OK {
		t.Errorf("afterwards: %v %v", res.Outcome, res.Err)
	}
}

func TestQueueLimitsRefuseAtOnce(t *testing.T) {
	db := open(t, func(c *Config) {
		c.Lanes, c.MaxQueue, c.MaxQueueBytes = 1, 100, 1<<20
		c.MaxQueryBytes, c.SlowAfter = 1<<19, -1
	})
	ask(t, db, Stmt{SQL: "select pg_sleep($1)"}, 0.0)
	ask(t, db, Stmt{SQL: "select length($1)"}, "")
	var wg sync.WaitGroup
	wg.Add(1)
	ended := func(QueryResult) { wg.Done() }
	if err := db.Query(context.Background(), nil, ended, Stmt{SQL: "select pg_sleep($1)"}, 3.0); err != nil {
		t.Fatal(err)
	}
	accepted, refused := 1, 0
	for range 1000 {
		wg.Add(1)
		switch err := db.Query(context.Background(), nil, ended, Stmt{SQL: "select length($1)"}, "x"); {
		case err == nil:
			accepted++
		case errors.Is(err, ErrQueueFull):
			refused++
			wg.Done()
		default:
			t.Fatal(err)
		}
	}
	if accepted != 100 || refused != 901 {
		t.Errorf("got %d accepted, %d refused", accepted, refused)
	}
	wg.Wait()
	big := strings.Repeat("x", 1<<18)
	wg.Add(1)
	if err := db.Query(context.Background(), nil, ended, Stmt{SQL: "select pg_sleep($1)"}, 3.0); err != nil {
		t.Fatal(err)
	}
	n := 0
	for ; n < 10; n++ {
		wg.Add(1)
		if err := db.Query(context.Background(), nil, ended, Stmt{SQL: "select length($1)"}, big); err != nil {
			wg.Done()
			if !errors.Is(err, ErrQueueFull) {
				t.Errorf("got %v", err)
			}
			break
		}
	}
	if n != 3 {
		t.Errorf("got %d queries of 256 KiB into 1 MiB, want 3", n)
	}
	wg.Wait()
	err := db.Query(context.Background(), nil, nil, Stmt{SQL: "select length($1)"}, big+big+big)
	if !errors.Is(err, ErrTooLong) {
		t.Errorf("got %v, want ErrTooLong", err)
	}
}

// TestBothBuffersFull sends and gets more than the sockets hold.
func TestBothBuffersFull(t *testing.T) {
	db := open(t, func(c *Config) { c.Lanes, c.MaxQueueBytes, c.QueryTimeout = 1, 256<<20, 5*time.Minute })
	big := strings.Repeat("x", 200_000)
	var wg sync.WaitGroup
	for range 240 {
		wg.Add(1)
		err := db.Query(context.Background(), nil, func(r QueryResult) {
			defer wg.Done()
			var s string
			if err := r.Scan(&s); err != nil || len(s) != 300_000 {
				t.Errorf("got %d bytes, %v", len(s), err)
			}
		}, Stmt{SQL: "select $1::text || repeat('y', 100000)"}, big)
		if err != nil {
			t.Fatal(err)
		}
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	wait(t, done)
}

func TestTransactionControlIsRefused(t *testing.T) {
	db := open(t, nil)
	for _, sql := range []string{"begin", " COMMIT", "/* x */ rollback", "set search_path = x", "listen a", "copy w from stdin",
		"declare c cursor for select 1", "discard all", "savepoint a", "prepare p as select 1"} {
		for _, slow := range []bool{false, true} {
			if err := db.Query(context.Background(), nil, nil, Stmt{SQL: sql, Slow: slow}); !errors.Is(err, ErrNotOnLane) {
				t.Errorf("%s: got %v, want ErrNotOnLane", sql, err)
			}
		}
	}
	if err := db.Query(context.Background(), nil, nil, Stmt{SQL: "vacuum"}); !errors.Is(err, ErrNotOnLane) {
		t.Errorf("vacuum: got %v", err)
	}
	if res := ask(t, db, Stmt{SQL: "vacuum pg_class", Slow: true}); res.Outcome != OK {
		t.Errorf("vacuum, slow: got %v %v", res.Outcome, res.Err)
	}
	if err := db.Query(context.Background(), nil, nil, Stmt{SQL: "select 1", Slow: true, Key: 1}); !errors.Is(err, ErrKeySlow) {
		t.Errorf("slow with a key: got %v", err)
	}
	if err := db.Query(context.Background(), nil, nil, Stmt{SQL: "select 1"}, "too many"); err == nil {
		t.Log("the first use of a text tells later")
	}
	ask(t, db, Stmt{SQL: "select 1"})
	if err := db.Query(context.Background(), nil, nil, Stmt{SQL: "select 1"}, "too many"); err == nil {
		t.Error("an argument too many was accepted")
	}
}

// TestProcedureMayCommit: call runs outside the chain's transaction block.
func TestProcedureMayCommit(t *testing.T) {
	db := open(t, nil)
	name := table(t, "id int")
	admin(t, server(t).URL(), "create procedure p_"+name+"(n int) language plpgsql as $$ begin insert into "+name+" values (n); commit; insert into "+name+" values (-n); end $$")
	var wg sync.WaitGroup
	for i := range 200 {
		stmt := Stmt{SQL: "call p_" + name + "($1)"}
		if i%2 == 1 {
			stmt.SQL = "insert into " + name + " values ($1)"
		}
		wg.Add(1)
		if err := db.Exec(context.Background(), nil, func(r QueryResult) {
			defer wg.Done()
			if r.Outcome != OK {
				t.Errorf("got %v %v", r.Outcome, r.Err)
			}
		}, stmt, i+1); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	var n int
	if err := ask(t, db, Stmt{SQL: "select count(*) from " + name}).Scan(&n); err != nil || n != 300 {
		t.Errorf("got %d rows, %v, want 300", n, err)
	}
}

// gate is a Submitter that can be full or gone.
type gate struct {
	mu    sync.Mutex
	err   error
	tasks int
}

var errFull = errors.New("full")

func (g *gate) set(err error) {
	g.mu.Lock()
	g.err = err
	g.mu.Unlock()
}

func (g *gate) Submit(fn func()) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return g.err
	}
	g.tasks++
	go fn()
	return nil
}

type gone struct{}

func (gone) Error() string   { return "gone" }
func (gone) Is(e error) bool { return e == net.ErrClosed }

func TestFullSubmitterIsRetriedGoneOneIsStale(t *testing.T) {
	db := open(t, nil)
	g := &gate{err: errFull}
	ch := make(chan QueryResult, 10)
	done := func(r QueryResult) { ch <- r }
	if err := db.Query(context.Background(), g, done, Stmt{SQL: "select 1"}); err != nil {
		t.Fatal(err)
	}
	for db.Stats().Undelivered == 0 {
		time.Sleep(time.Millisecond)
	}
	select {
	case <-ch:
		t.Fatal("delivered through a full submitter")
	case <-time.After(50 * time.Millisecond):
	}
	g.set(nil)
	if r := wait(t, ch); r.Stale || r.Outcome != OK || g.tasks != 1 {
		t.Errorf("got %v stale=%v tasks=%d", r.Outcome, r.Stale, g.tasks)
	}
	g.set(gone{})
	if err := db.Query(context.Background(), g, done, Stmt{SQL: "select 1"}); err != nil {
		t.Fatal(err)
	}
	if r := wait(t, ch); !r.Stale || r.Outcome != OK {
		t.Errorf("got %v stale=%v, want a stale one", r.Outcome, r.Stale)
	}
	// Full, then gone.
	g.set(errFull)
	if err := db.Query(context.Background(), g, done, Stmt{SQL: "select 1"}); err != nil {
		t.Fatal(err)
	}
	for db.Stats().Undelivered == 0 {
		time.Sleep(time.Millisecond)
	}
	g.set(gone{})
	if r := wait(t, ch); !r.Stale {
		t.Error("want a stale one")
	}
}

func TestRowsGoWhenSubmitterStaysFull(t *testing.T) {
	db := open(t, func(c *Config) { c.MaxQueueBytes = 100_000 })
	g := &gate{err: errFull}
	var mu sync.Mutex
	dropped, n := 0, 0
	var wg sync.WaitGroup
	ask(t, db, Stmt{SQL: "select repeat('x', 10000)"})
	for range 64 {
		wg.Add(1)
		err := db.Query(context.Background(), g, func(r QueryResult) {
			mu.Lock()
			defer mu.Unlock()
			n++
			if errors.Is(r.Err, ErrResultDropped) && r.Outcome == OK {
				dropped++
			}
			wg.Done()
		}, Stmt{SQL: "select repeat('x', 10000)"})
		if err != nil {
			wg.Done()
			if !errors.Is(err, ErrQueueFull) {
				t.Fatal(err)
			}
		}
	}
	for s := db.Stats(); s.Undelivered < s.Outstanding; s = db.Stats() {
		time.Sleep(time.Millisecond)
	}
	if s := db.Stats(); s.OutstandingBytes > 200_000 {
		t.Errorf("%d bytes wait for a full submitter", s.OutstandingBytes)
	}
	g.set(nil)
	wg.Wait()
	if n > 15 && dropped == 0 {
		t.Errorf("%d delivered, none dropped", n)
	}
}
