package dbasync

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"
)

// TestTurnsAreFair checks turns against what they promise, with random work of a few
// submitters: none has more than its limit running, each one's order is kept, whoever may
// run does run, and nobody is served twice while another waits that may be served.
func TestTurnsAreFair(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(1, 3).Draw(t, "limit")
		db := &DB{}
		owners := make([]Submitter, 4) // the first is nil
		for i := 1; i < len(owners); i++ {
			owners[i] = new(strand)
		}
		var tn turns
		tn.init(limit, 1000)
		waits := make(map[any][]*request)
		running := make(map[any][]*request)
		passed := make(map[any]map[any]int) // per one that waits and may run: who was served meanwhile
		var seq uint64
		mayRun := func(o any) bool {
			return len(waits[o]) > 0 && (o == nil || len(running[o]) < limit)
		}
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			on := owners[rapid.IntRange(0, len(owners)-1).Draw(t, "who")]
			o := db.ownerOf(on)
			switch rapid.IntRange(0, 4).Draw(t, "what") {
			case 0, 1:
				seq++
				r := &request{db: db, on: on, seq: seq}
				tn.enrol(r, true)
				tn.put(r, rapid.Bool().Draw(t, "back"))
				waits[o] = append(waits[o], r)
			case 2:
				r := tn.take(false)
				if r == nil {
					for w := range waits {
						if mayRun(w) {
							t.Fatalf("nothing is taken, and %v waits", w)
						}
					}
					continue
				}
				got := db.ownerOf(r.on)
				if !mayRun(got) || waits[got][0] != r {
					t.Fatalf("request %d of %v is taken out of its turn", r.seq, got)
				}
				waits[got] = waits[got][1:]
				running[got] = append(running[got], r)
				delete(passed, got)
				for w := range waits {
					if !mayRun(w) || w == got {
						delete(passed, w)
						continue
					}
					if passed[w] == nil {
						passed[w] = make(map[any]int)
					}
					if passed[w][got]++; passed[w][got] > 1 {
						t.Fatalf("%v was served %d times while %v waited", got, passed[w][got], w)
					}
				}
			case 3:
				if rs := running[o]; len(rs) > 0 {
					running[o] = rs[1:]
					rs[0].share.settled()
					rs[0].share.ran()
				}
			case 4:
				if rs := waits[o]; len(rs) > 0 {
					i := rapid.IntRange(0, len(rs)-1).Draw(t, "which")
					tn.drop(rs[i])
					rs[i].share.settled()
					if waits[o] = append(rs[:i:i], rs[i+1:]...); len(waits[o]) == 0 {
						delete(passed, o)
					}
				}
			}
			n := 0
			for _, rs := range waits {
				n += len(rs)
			}
			if n != tn.n {
				t.Fatalf("%d wait, it says %d", n, tn.n)
			}
		}
		for o, rs := range waits {
			for _, r := range rs {
				tn.drop(r)
				r.share.settled()
			}
			for _, r := range running[o] {
				r.share.ran()
				r.share.settled()
			}
			waits[o], running[o] = nil, nil
		}
		for _, rs := range running {
			for _, r := range rs {
				r.share.ran()
				r.share.settled()
			}
		}
		if len(tn.shares) != 0 || len(tn.ring) != 0 {
			t.Fatalf("%d shares, %d in the ring when all is over", len(tn.shares), len(tn.ring))
		}
	})
}

// TestFloodOfSlowQueriesHoldsUpNobody: a submitter with hundreds of slow statements, and one
// with hundreds of transactions; another's come in between.
func TestFloodOfSlowQueriesHoldsUpNobody(t *testing.T) {
	db := open(t, func(c *Config) { c.SlowConns, c.TxConns = 2, 2 })
	slow := Stmt{SQL: "select pg_sleep($1), 'flood'", Slow: true}
	ask(t, db, slow, 0.0)
	tx := func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "select pg_sleep(0.005)")
		return err
	}
	for name, submit := range map[string]func(on Submitter, done func(QueryResult)) error{
		"statements": func(on Submitter, done func(QueryResult)) error {
			return db.Query(context.Background(), on, done, slow, 0.005)
		},
		"transactions": func(on Submitter, done func(QueryResult)) error {
			return db.Tx(context.Background(), on, done, tx)
		},
	} {
		greedy, modest := new(strand), new(strand)
		var ended atomic.Int64
		var wg sync.WaitGroup
		const flood = 120
		for range flood {
			wg.Add(1)
			if err := submit(greedy, func(QueryResult) { ended.Add(1); wg.Done() }); err != nil {
				t.Fatal(err)
			}
		}
		before := ended.Load()
		const few = 5
		for range few {
			done := make(chan QueryResult, 1)
			if err := submit(modest, func(r QueryResult) { done <- r }); err != nil {
				t.Fatal(err)
			}
			if r := wait(t, done); r.Outcome != OK {
				t.Errorf("%s: got %v %v", name, r.Outcome, r.Err)
			}
		}
		if n := ended.Load() - before; n > flood/2 {
			t.Errorf("%s: %d of the greedy one's ended before %d of the other's", name, n, few)
		}
		wg.Wait()
	}
	await(t, "all shares to go", func() bool {
		s := db.Stats()
		return s.SlowSubmitters == 0 && s.SlowRunning == 0 && s.SlowQueued == 0
	})
}

// TestOneSubmitterLeavesAConnectionToOthers: its statements run for as long as they may.
func TestOneSubmitterLeavesAConnectionToOthers(t *testing.T) {
	db := open(t, func(c *Config) { c.SlowConns, c.MaxSlowQueue = 3, 10 })
	slow := Stmt{SQL: "select pg_sleep($1), 'held'", Slow: true}
	ask(t, db, slow, 0.0)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	greedy, modest := new(strand), new(strand)
	var wg sync.WaitGroup
	var running, refused int
	for range 30 {
		wg.Add(1)
		err := db.Query(ctx, greedy, func(QueryResult) { wg.Done() }, slow, 600.0)
		switch {
		case err == nil:
			running++
		case errors.Is(err, ErrQueueFull):
			refused++
			wg.Done()
		default:
			t.Fatal(err)
		}
	}
	if running != 10 || refused != 20 || db.Stats().SlowRefused != 20 {
		t.Errorf("%d accepted, %d refused (%d by the count), want 10 and 20", running, refused, db.Stats().SlowRefused)
	}
	await(t, "two of them to run", func() bool { s := db.Stats(); return s.SlowRunning == 2 && s.SlowQueued == 8 })
	done := make(chan QueryResult, 1)
	if err := db.Query(context.Background(), modest, func(r QueryResult) { done <- r }, slow, 0.0); err != nil {
		t.Fatal(err)
	}
	if r := wait(t, done); r.Outcome != OK {
		t.Errorf("another's: got %v %v", r.Outcome, r.Err)
	}
	await(t, "the greedy one's two to be all that run", func() bool { return db.Stats().SlowRunning == 2 })
	cancel()
	wg.Wait()
}

// TestSlowStatementsLeaveTransactionsAlone: all of SlowConns is taken, also by what was
// moved off the lanes unasked.
func TestSlowStatementsLeaveTransactionsAlone(t *testing.T) {
	db := open(t, func(c *Config) { c.SlowConns, c.StatementTimeout = 2, -1 })
	stmt := Stmt{SQL: "select pg_sleep($1), 'learned and long'"}
	ask(t, db, stmt, 0.0)
	db.slow.learn(db.shapes.get(stmt.SQL))
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for range 20 {
		wg.Add(1)
		if err := db.Query(ctx, nil, func(QueryResult) { wg.Done() }, stmt, 600.0); err != nil {
			t.Fatal(err)
		}
	}
	await(t, "all slow connections to be taken", func() bool { return db.Stats().SlowRunning == 2 })
	b := db.Blocking()
	tctx, end := context.WithTimeout(context.Background(), 20*time.Second)
	defer end()
	if err := b.BeginTxFunc(tctx, TxOptions{}, func(context.Context, pgx.Tx) error { return nil }); err != nil {
		t.Errorf("a transaction beside: %v", err)
	}
	if _, err := b.SendBatch(tctx, batchOf("select 1"), TxOptions{}); err != nil {
		t.Errorf("a batch beside: %v", err)
	}
	cancel()
	wg.Wait()
}

// TestSlowStatementsOfAKeyHoldUpNoOtherKey: once they are known for it they run beside the
// lanes, one after another.
func TestSlowStatementsOfAKeyHoldUpNoOtherKey(t *testing.T) {
	db := open(t, func(c *Config) { c.Lanes = 2 })
	slow, quick := Stmt{SQL: "select pg_sleep($1), 'keyed'", Key: 1}, Stmt{SQL: "select 'keyed and quick'"}
	ask(t, db, slow, 0.0)
	ask(t, db, quick)
	db.slow.learn(db.shapes.get(slow.SQL))
	var wg sync.WaitGroup
	var order []int // on one strand
	on := new(strand)
	const flood = 20
	for i := range flood {
		wg.Add(1)
		s, secs := slow, []any{0.1}
		if i%10 == 9 { // others of the key wait for them
			s.SQL, secs = quick.SQL, nil
		}
		if err := db.Query(context.Background(), on, func(r QueryResult) {
			defer wg.Done()
			order = append(order, i)
			if r.Outcome != OK || (s == slow) != (r.Conn == -1) {
				t.Errorf("%s: got %v %v on %d", s.SQL, r.Outcome, r.Err, r.Conn)
			}
		}, s, secs...); err != nil {
			t.Fatal(err)
		}
	}
	for key := range uint64(20) {
		quick.Key = key + 2
		if r := ask(t, db, quick); r.Outcome != OK || r.Conn < 0 {
			t.Errorf("key %d: got %v %v on %d", key, r.Outcome, r.Err, r.Conn)
		}
	}
	if n := db.stats.slow.Load(); n > flood/2 {
		t.Errorf("%d of the slow ones had begun when the others were through", n)
	}
	wg.Wait()
	for i := range order {
		if order[i] != i {
			t.Fatalf("completion %d is of query %d", i, order[i])
		}
	}
}

// byValue is a Submitter that can't be compared.
type byValue struct{ run []func() }

func (byValue) Submit(fn func()) error { go fn(); return nil }

func TestAnySubmitterMayHaveSlowWork(t *testing.T) {
	db := open(t, nil)
	for _, on := range []Submitter{nil, db.pool, byValue{make([]func(), 1)}, &byValue{}, make(waiter, 1)} {
		t.Run(fmt.Sprintf("%T", on), func(t *testing.T) {
			done := make(chan QueryResult, 1)
			if err := db.Query(context.Background(), on, func(r QueryResult) { done <- r }, Stmt{SQL: "select repeat('x', 100000)", Slow: true}); err != nil {
				t.Fatal(err)
			}
			if w, ok := on.(waiter); ok {
				(<-w)()
			}
			if r := wait(t, done); r.Outcome != OK || r.Len() != 1 {
				t.Errorf("got %v %v", r.Outcome, r.Err)
			}
		})
	}
}
