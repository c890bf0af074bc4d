package dbasync

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// standstill is a Submitter that takes everything and runs nothing until it is let go.
type standstill struct {
	mu    sync.Mutex
	fns   []func()
	going bool
}

func (s *standstill) Submit(fn func()) error {
	s.mu.Lock()
	if !s.going {
		s.fns = append(s.fns, fn)
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	go fn()
	return nil
}

func (s *standstill) letGo() {
	s.mu.Lock()
	fns := s.fns
	s.fns, s.going = nil, true
	s.mu.Unlock()
	for _, fn := range fns {
		fn()
	}
}

func heapNow() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestUndeliveredResultsAreBounded: nothing is delivered while many large results come. The
// heap stays within the limit and a result for each connection, no lane is taken for a
// silent one, and when all goes on nothing is lost.
func TestUndeliveredResultsAreBounded(t *testing.T) {
	const limit, one, size, n = 4 << 20, 512 << 10, 128 << 10, 300
	for _, form := range []string{"chain", "keyed", "group", "slow", "batch"} {
		t.Run(form, func(t *testing.T) {
			pool := &standstill{}
			db := open(t, func(c *Config) {
				c.MaxQueueBytes, c.MaxResultBytes, c.Pool = limit, one, pool
				c.DeliveryTimeout, c.SlowAfter = time.Hour, -1
				c.QueryTimeout, c.StatementTimeout = 2*time.Hour, -1
				c.GroupReads = form == "group"
			})
			await(t, "the lanes", func() bool { return db.Stats().LanesUp == 4 })
			stmt := Stmt{SQL: "select repeat(chr(97 + $1::int % 26), $2)", Slow: form == "slow", ReadOnly: form == "group"}
			base := heapNow()
			var wg sync.WaitGroup
			var got atomic.Int64
			for i := range n {
				wg.Add(1)
				check := func(r QueryResult) {
					var s string
					if err := r.Scan(&s); err != nil || len(s) != size || strings.Trim(s, string(rune('a'+i%26))) != "" {
						t.Errorf("query %d: got %d bytes, %v", i, len(s), err)
						return
					}
					got.Add(1)
				}
				if form == "keyed" {
					stmt.Key = uint64(i%9 + 1)
				}
				var err error
				if form == "batch" {
					b := &pgx.Batch{}
					b.Queue(stmt.SQL, i, size)
					err = db.SendBatch(context.Background(), nil, func(r BatchResult) {
						defer wg.Done()
						if len(r.Results) != 1 {
							t.Errorf("batch %d: %v %v", i, r.Outcome, r.Err)
							return
						}
						check(r.Results[0])
					}, b, TxOptions{})
				} else {
					err = db.Query(context.Background(), nil, func(r QueryResult) { check(r); wg.Done() }, stmt, i, size)
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			await(t, "results past the limit", func() bool { return db.rows.over() })
			connects, high := db.Stats().Connects, int64(0)
			for range 15 {
				high = max(high, heapNow()-base)
				time.Sleep(20 * time.Millisecond) // the rest of them would come now
			}
			// One result as it grows, and one finished, for each of 4 connections.
			if most := int64(limit + 4*3*one); high > most {
				t.Errorf("the heap grew by %d KiB, want at most %d", high>>10, most>>10)
			}
			s := db.Stats()
			t.Logf("heap +%d KiB, undelivered %d KiB, %d lanes paused", high>>10, s.UndeliveredBytes>>10, s.LanesPaused)
			if s.UndeliveredBytes < limit || s.OutstandingBytes < s.UndeliveredBytes {
				t.Errorf("counted: %d undelivered, %d outstanding", s.UndeliveredBytes, s.OutstandingBytes)
			}
			if form != "slow" && form != "batch" && (s.LanesPaused == 0 || s.Pauses == 0) {
				t.Errorf("%d lanes are paused, %d pauses", s.LanesPaused, s.Pauses)
			}
			for _, l := range db.lanes {
				if l.paused.Load() { // for good, as nothing is delivered
					l.watch(db.now()+time.Hour, nil)
				}
			}
			pool.letGo()
			wg.Wait()
			s = db.Stats()
			if got.Load() != n || s.ResultsDropped != 0 || s.Connects != connects {
				t.Errorf("%d of %d with their rows, %d dropped, %d new connections", got.Load(), n, s.ResultsDropped, s.Connects-connects)
			}
		})
	}
}

// TestWhoHoldsUpItsResultsGetsWhatItWaitsFor: a strand blocks in a completion until another
// query of the DB has ended, its own or one of another strand's, while more of its results
// wait than may.
func TestWhoHoldsUpItsResultsGetsWhatItWaitsFor(t *testing.T) {
	const size, n = 64 << 10, 120
	forms := map[string]func(db *DB) error{
		"a blocking call": func(db *DB) error {
			var v int
			return db.Blocking().QueryRow(context.Background(), "select 42").Scan(&v)
		},
		"a transaction": func(db *DB) error {
			return db.Blocking().BeginTxFunc(context.Background(), TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, "select 1")
				return err
			})
		},
		"a slow one": func(db *DB) error {
			r, err := Await(func(on Submitter, done func(QueryResult)) error {
				return db.Query(context.Background(), on, done, Stmt{SQL: "select 43", Slow: true})
			})
			return errors.Join(err, r.Err)
		},
		"another strand": func(db *DB) error {
			done := make(chan error, 1)
			if err := db.Query(context.Background(), new(strand), func(r QueryResult) { done <- r.Err }, Stmt{SQL: "select 44"}); err != nil {
				return err
			}
			return <-done
		},
	}
	for name, waitFor := range forms {
		for _, group := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, group %v", name, group), func(t *testing.T) {
				db := open(t, func(c *Config) {
					c.MaxQueueBytes, c.DeliveryTimeout, c.QueryTimeout = 1<<20, time.Second, 5*time.Minute
					c.StatementTimeout, c.SlowAfter, c.GroupReads = -1, -1, group
				})
				stmt := Stmt{SQL: "select repeat('x', $1)", ReadOnly: true}
				ask(t, db, stmt, 1)
				blocked, healthy := new(strand), new(strand)
				var wg sync.WaitGroup
				var first sync.Once
				var whole, dropped atomic.Int64
				for range n {
					wg.Add(2)
					if err := db.Query(context.Background(), blocked, func(r QueryResult) {
						defer wg.Done()
						first.Do(func() {
							await(t, "results past the limit", func() bool { return db.rows.over() || db.stats.dropped.Load() > 0 })
							if err := waitFor(db); err != nil {
								t.Errorf("what it waits for: %v", err)
							}
						})
						switch {
						case r.Outcome != OK:
							t.Errorf("got %v %v", r.Outcome, r.Err)
						case errors.Is(r.Err, ErrResultDropped) && r.Len() == 0:
							dropped.Add(1)
						case r.Err == nil && r.Bytes() > size:
							whole.Add(1)
						default:
							t.Errorf("got %d rows, %d bytes, %v", r.Len(), r.Bytes(), r.Err)
						}
					}, stmt, size); err != nil {
						t.Fatal(err)
					}
					if err := db.Query(context.Background(), healthy, func(r QueryResult) {
						defer wg.Done()
						if r.Err != nil || r.Bytes() < size {
							t.Errorf("of one that takes its results: got %d bytes, %v", r.Bytes(), r.Err)
						}
					}, stmt, size); err != nil {
						t.Fatal(err)
					}
				}
				wg.Wait()
				// A transaction has no rows that wait: it runs on in a pause.
				if dropped.Load() == 0 && name != "a transaction" || db.Stats().ResultsDropped != uint64(dropped.Load()) {
					t.Errorf("%d were told that their rows are gone, %d have lost them", dropped.Load(), db.Stats().ResultsDropped)
				}
				if len(db.rows.stuck) != 0 || db.rows.head != nil {
					t.Errorf("afterwards: %d stuck, a list: %v", len(db.rows.stuck), db.rows.head != nil)
				}
				t.Logf("%d with their rows, %d without", whole.Load(), dropped.Load())
			})
		}
	}
}

// TestStopEndsPausedLanes: nothing is delivered, and Stop's time is short.
func TestStopEndsPausedLanes(t *testing.T) {
	pool := &standstill{}
	db, err := New(Config{URL: server(t).URL(), MaxQueueBytes: 1 << 20, Pool: pool, DeliveryTimeout: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	var ended atomic.Int64
	const n = 100
	for i := range n {
		if err := db.Query(context.Background(), nil, func(QueryResult) { ended.Add(1) }, Stmt{SQL: "select repeat('x', 100000)", Slow: i%10 == 0}); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "a pause", func() bool { return db.Stats().LanesPaused > 0 })
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := db.Stop(ctx); err == nil {
		t.Error("Stop did not say that it cut something short")
	}
	pool.letGo()
	if ended.Load() != n || db.Stats().OutstandingBytes != 0 {
		t.Errorf("%d of %d have ended, %d bytes are outstanding", ended.Load(), n, db.Stats().OutstandingBytes)
	}
}

// TestTooLargeAResultIsRunWhole: what is too large to be told has all been done, wherever it
// ran.
func TestTooLargeAResultIsRunWhole(t *testing.T) {
	for _, strict := range []bool{false, true} {
		db := open(t, func(c *Config) { c.MaxResultRows, c.Strict = 10, strict })
		name := table(t, "n int, how text")
		admin(t, server(t).URL(), "create function "+name+"_f(n int, how text) returns int language sql as 'insert into "+name+" values (n, how) returning n'")
		const rows = 1000
		run := func(how string, r QueryResult) {
			t.Helper()
			if r.Outcome != OK || !errors.Is(r.Err, ErrResultTooLarge) || r.Len() != 0 {
				t.Errorf("%s: got %v %v, %d rows", how, r.Outcome, r.Err, r.Len())
			}
			var n int
			if err := ask(t, db, Stmt{SQL: "select count(*) from " + name + " where how = $1"}, how).Scan(&n); err != nil || n != rows {
				t.Errorf("%s: %d of %d were written, %v", how, n, rows, err)
			}
		}
		call := "select " + name + "_f(g, $1) from generate_series(1, 1000) g"
		run("lane", ask(t, db, Stmt{SQL: call}, "lane"))
		run("key", ask(t, db, Stmt{SQL: call, Key: 5}, "key"))
		run("slow", ask(t, db, Stmt{SQL: call, Slow: true}, "slow"))
		run("insert", ask(t, db, Stmt{SQL: "insert into " + name + " select g, $1 from generate_series(1, 1000) g returning n"}, "insert"))
		b := &pgx.Batch{}
		b.Queue(call, "batch")
		res, err := db.Blocking().SendBatch(context.Background(), b, TxOptions{})
		if err != nil || len(res) != 1 {
			t.Fatalf("batch: %d results, %v", len(res), err)
		}
		run("batch", res[0])
	}
}

// Who finds no room while a result is counted whose rows are then dropped goes on: the room that
// makes is told.
func TestRoomOfADroppedResultIsTold(t *testing.T) {
	db, err := New(Config{URL: "postgres://localhost/none"})
	if err != nil {
		t.Fatal(err)
	}
	u, owner := &db.rows, &standstill{}
	u.stuck[owner] = 1
	u.bytes.Store(u.limit + 1)
	waited := make(chan struct{})
	go func() {
		defer close(waited)
		u.wait(t.Context())
	}()
	await(t, "somebody to wait", func() bool { u.mu.Lock(); defer u.mu.Unlock(); return u.room != nil })
	u.list(&request{db: db, on: owner, rowBytes: 1})
	select {
	case <-waited:
	case <-time.After(time.Minute):
		t.Fatal("nobody was told that there is room")
	}
}
