package dbasync

import (
	"context"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
)

func TestTxOptionsReachTheServer(t *testing.T) {
	db := open(t, nil)
	b := db.Blocking()
	for _, c := range []struct {
		opts pgx.TxOptions
		want string
	}{
		{pgx.TxOptions{}, "read committed off off"},
		{pgx.TxOptions{IsoLevel: pgx.RepeatableRead}, "repeatable read off off"},
		{pgx.TxOptions{IsoLevel: pgx.Serializable, AccessMode: pgx.ReadOnly, DeferrableMode: pgx.Deferrable}, "serializable on on"},
	} {
		const sql = "select current_setting('transaction_isolation') || ' ' || current_setting('transaction_read_only') || ' ' || current_setting('transaction_deferrable')"
		var tx, batch string
		err := b.BeginTxFunc(context.Background(), TxOptions{TxOptions: c.opts}, func(ctx context.Context, t pgx.Tx) error {
			return t.QueryRow(ctx, sql).Scan(&tx)
		})
		if err != nil || tx != c.want {
			t.Errorf("transaction: got %q, %v, want %q", tx, err, c.want)
		}
		res, err := b.SendBatch(context.Background(), batchOf(sql), TxOptions{TxOptions: c.opts})
		if err != nil || res[0].Scan(&batch) != nil || batch != c.want {
			t.Errorf("batch: got %q, %v, want %q", batch, err, c.want)
		}
	}
}

// TestConflictsAreRunAgain: transactions that read a counter and write it, all at once and
// serializable. Each that is told OK counted once.
func TestConflictsAreRunAgain(t *testing.T) {
	db := open(t, func(c *Config) { c.SlowConns = 8 })
	name := table(t, "id int, n int")
	admin(t, server(t).URL(), "insert into "+name+" values (1, 0)")
	const txs = 100
	opts := TxOptions{TxOptions: pgx.TxOptions{IsoLevel: pgx.Serializable}, MaxRetries: 1000}
	var calls, wrong atomic.Int64
	var wg sync.WaitGroup
	for range txs {
		wg.Add(1)
		err := db.BeginTxFunc(context.Background(), nil, func(r QueryResult) {
			if r.Outcome != OK {
				wrong.Add(1)
				t.Errorf("got %v %v", r.Outcome, r.Err)
			}
			wg.Done()
		}, opts, func(ctx context.Context, tx pgx.Tx) error {
			calls.Add(1)
			var n int
			if err := tx.QueryRow(ctx, "select n from "+name+" where id = 1").Scan(&n); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "update "+name+" set n = $1 where id = 1", n+1)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	var n int64
	if err := ask(t, db, Stmt{SQL: "select n from " + name}).Scan(&n); err != nil || n != txs-wrong.Load() {
		t.Errorf("got %d, %v, want %d", n, err, txs-wrong.Load())
	}
	if s := db.Stats(); calls.Load() == txs || s.TxRetries != uint64(calls.Load()-txs) {
		t.Errorf("%d calls for %d transactions, TxRetries %d", calls.Load(), txs, s.TxRetries)
	}
	t.Logf("%d calls for %d transactions", calls.Load(), txs)
}

// TestOnlyConflictsAreRunAgain: a bound, and nothing after another error.
func TestOnlyConflictsAreRunAgain(t *testing.T) {
	db := open(t, nil)
	for _, c := range []struct {
		name, sql string
		calls     int
		outcome   Outcome
	}{
		{"serialization failure", "do $$ begin raise sqlstate '40001'; end $$", 4, SQLError},
		{"deadlock", "do $$ begin raise sqlstate '40P01'; end $$", 4, SQLError},
		{"duplicate key", "do $$ begin raise sqlstate '23505'; end $$", 1, SQLError},
		{"lost connection", "select pg_terminate_backend(pg_backend_pid())", 1, NotRun},
	} {
		calls := 0
		res, err := Await(func(on Submitter, done func(QueryResult)) error {
			return db.BeginTxFunc(context.Background(), on, done, TxOptions{MaxRetries: 3}, func(ctx context.Context, tx pgx.Tx) error {
				calls++
				_, err := tx.Exec(ctx, c.sql)
				if strings.HasPrefix(c.name, "lost") {
					return errors.New("lost")
				}
				return err
			})
		})
		if err != nil || calls != c.calls || res.Outcome != c.outcome {
			t.Errorf("%s: got %d calls, %v %v, %v; want %d calls, %v", c.name, calls, res.Outcome, res.Err, err, c.calls, c.outcome)
		}
	}
}

// TestDeadlockedBatchesEnd: pairs of units lock two rows in opposite orders.
func TestDeadlockedBatchesEnd(t *testing.T) {
	srv := server(t)
	db := openOn(t, srv.URL()+"&deadlock_timeout=20ms", func(c *Config) { c.SlowConns = 2 })
	name := table(t, "id int primary key, n int")
	admin(t, srv.URL(), "insert into "+name+" values (1, 0), (2, 0)")
	add := func(a, b string) *pgx.Batch {
		sql := "update " + name + " set n = n + 1 where id = "
		return batchOf(sql+a, "select pg_sleep(0.02)", sql+b)
	}
	const pairs = 5
	var wg sync.WaitGroup
	for range pairs {
		for _, b := range []*pgx.Batch{add("1", "2"), add("2", "1")} {
			wg.Add(1)
			err := db.SendBatch(context.Background(), nil, func(r BatchResult) {
				if r.Outcome != OK {
					t.Errorf("got %v %v", r.Outcome, r.Err)
				}
				wg.Done()
			}, b, TxOptions{MaxRetries: 100})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	wg.Wait()
	var sum int
	if err := ask(t, db, Stmt{SQL: "select sum(n) from " + name}).Scan(&sum); err != nil || sum != pairs*4 {
		t.Errorf("got %d, %v, want %d", sum, err, pairs*4)
	}
	if db.Stats().TxRetries == 0 {
		t.Error("nothing was run again: there was no deadlock")
	}
}
