package dbasync

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// TestStreamHoldsOneChunk reads a result of 200 MB through a DB that bounds a result to
// 4 MiB, and looks at the heap on the way.
func TestStreamHoldsOneChunk(t *testing.T) {
	db := open(t, nil)
	total := 200_000
	if *long {
		total = 5_000_000
	}
	var n, high, calls int
	res, err := Await(func(on Submitter, done func(QueryResult)) error {
		return db.Stream(context.Background(), on, done, func(chunk QueryResult) error {
			if calls++; calls%100 == 1 {
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				high = max(high, int(m.HeapAlloc))
			}
			if chunk.Bytes() > chunkBytes+2048 || chunk.Len() > chunkRows {
				t.Errorf("a chunk of %d bytes, %d rows", chunk.Bytes(), chunk.Len())
			}
			ids, err := pgx.CollectRows(chunk.Rows(), func(r pgx.CollectableRow) (id int, err error) {
				return id, r.Scan(&id, nil)
			})
			if err != nil {
				return err
			}
			for _, id := range ids {
				if n++; id != n {
					return fmt.Errorf("got row %d, want %d", id, n)
				}
			}
			return nil
		}, Stmt{SQL: "select g, repeat('x', 1000) from generate_series(1, $1::int) g", ReadOnly: true}, total)
	})
	if err != nil || res.Outcome != OK || n != total || res.RowsAffected() != int64(total) {
		t.Fatalf("got %v %v, %v: %d rows, want %d", res.Outcome, res.Err, err, n, total)
	}
	if high > 32<<20 {
		t.Errorf("the heap grew to %d MiB", high>>20)
	}
	t.Logf("%d rows in %d chunks, heap at most %d KiB", n, calls, high>>10)
}

// TestStreamWaitsForItsReader: while each has not returned, the server is held up.
func TestStreamWaitsForItsReader(t *testing.T) {
	db := open(t, nil)
	admin(t, server(t).URL(), "create sequence stream_seq")
	at := make(chan struct{})
	goOn := make(chan struct{})
	ch := make(chan QueryResult, 1)
	var once sync.Once
	err := db.Stream(context.Background(), nil, func(r QueryResult) { ch <- r }, func(QueryResult) error {
		once.Do(func() { close(at); <-goOn })
		return nil
	}, Stmt{SQL: "select nextval('stream_seq'), repeat('y', 1000) from generate_series(1, 100000)"})
	if err != nil {
		t.Fatal(err)
	}
	wait(t, at)
	last := func() (n int64) {
		if err := ask(t, db, Stmt{SQL: "select last_value from stream_seq"}).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	prev := int64(-1) // until the buffers between are full
	for now := last(); now != prev; now = last() {
		prev = now
		time.Sleep(100 * time.Millisecond)
	}
	if prev > 50_000 {
		t.Errorf("the server made %d of 100000 rows while the first chunk was not read", prev)
	}
	close(goOn)
	if r := wait(t, ch); r.Outcome != OK || r.RowsAffected() != 100_000 {
		t.Errorf("got %v %v, %d rows", r.Outcome, r.Err, r.RowsAffected())
	}
}

func TestStreamThatEndsEarlyIsUndone(t *testing.T) {
	db := open(t, func(c *Config) { c.MaxResultBytes = 1 << 20 })
	name := table(t, "id int")
	ctx := context.Background()
	own := errors.New("enough")
	insert := Stmt{SQL: "insert into " + name + " select generate_series(1, 1000000) returning id, repeat('z', 200)"}
	stream := func(each func(QueryResult) error, stmt Stmt) QueryResult {
		r, err := Await(func(on Submitter, done func(QueryResult)) error { return db.Stream(ctx, on, done, each, stmt) })
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	calls := 0
	if r := stream(func(QueryResult) error { calls++; return own }, insert); r.Outcome != SQLError || !errors.Is(r.Err, own) || calls != 1 {
		t.Errorf("got %v %v after %d calls", r.Outcome, r.Err, calls)
	}
	// It ends at once, without the rest of the rows.
	if r := stream(func(QueryResult) error { return own }, Stmt{SQL: "select generate_series(1, 1000000000000)"}); r.Outcome != SQLError || r.Elapsed > time.Minute {
		t.Errorf("a long result: got %v %v after %v", r.Outcome, r.Err, r.Elapsed)
	}
	ok := func(QueryResult) error { return nil }
	if r := stream(ok, Stmt{SQL: "select 1/(g-500) from generate_series(1,1000) g"}); r.Outcome != SQLError {
		t.Errorf("got %v %v, want a division by zero", r.Outcome, r.Err)
	}
	if r := stream(ok, Stmt{SQL: "select repeat('x', 2000000)"}); !errors.Is(r.Err, ErrResultTooLarge) {
		t.Errorf("got %v %v, want ErrResultTooLarge", r.Outcome, r.Err)
	}
	if r := stream(ok, Stmt{SQL: "insert into " + name + " values (1)", ReadOnly: true}); r.Outcome != SQLError {
		t.Errorf("a write that says ReadOnly: got %v %v", r.Outcome, r.Err)
	}
	if r := stream(ok, Stmt{SQL: "select 1 where false"}); r.Outcome != OK || r.RowsAffected() != 0 {
		t.Errorf("no rows: got %v %v", r.Outcome, r.Err)
	}
	if err := db.Stream(ctx, nil, nil, ok, Stmt{SQL: "commit"}); !errors.Is(err, ErrNotOnLane) {
		t.Errorf("got %v, want ErrNotOnLane", err)
	}
	var n int
	if err := ask(t, db, Stmt{SQL: "select count(*) from " + name}).Scan(&n); err != nil || n != 0 {
		t.Errorf("got %d rows, %v, want none", n, err)
	}
}

// TestStreamCallsNothingAfterItsEnd: the context ends while each runs.
func TestStreamCallsNothingAfterItsEnd(t *testing.T) {
	db := open(t, nil)
	for range 20 {
		ctx, cancel := context.WithCancel(context.Background())
		var running, ended atomic.Bool
		ch := make(chan QueryResult, 2)
		err := db.Stream(ctx, nil, func(r QueryResult) {
			if running.Load() {
				t.Error("done was called while each ran")
			}
			ended.Store(true)
			ch <- r
		}, func(QueryResult) error {
			running.Store(true)
			defer running.Store(false)
			if ended.Load() {
				t.Error("each was called after done")
			}
			cancel()
			time.Sleep(2 * time.Millisecond) // work
			return nil
		}, Stmt{SQL: "select generate_series(1, 100000)"})
		if err != nil {
			t.Fatal(err)
		}
		if r := wait(t, ch); r.Outcome == OK || r.Outcome == SQLError {
			t.Errorf("got %v %v", r.Outcome, r.Err)
		}
		cancel()
	}
}

// goneAfter is a submitter that is there for some calls.
type goneAfter struct{ left atomic.Int64 }

func (g *goneAfter) Submit(fn func()) error {
	if g.left.Add(-1) < 0 {
		return net.ErrClosed
	}
	go fn()
	return nil
}

func TestStreamEndsWithItsSubmitter(t *testing.T) {
	db := open(t, nil)
	on := &goneAfter{}
	on.left.Store(3)
	ch := make(chan QueryResult, 1)
	err := db.Stream(context.Background(), on, func(r QueryResult) { ch <- r }, func(QueryResult) error { return nil },
		Stmt{SQL: "select generate_series(1, 1000000)"})
	if err != nil {
		t.Fatal(err)
	}
	if r := wait(t, ch); !r.Stale || !errors.Is(r.Err, net.ErrClosed) {
		t.Errorf("got %v %v, stale %v", r.Outcome, r.Err, r.Stale)
	}
}
