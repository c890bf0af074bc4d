package dbasync

import (
	"context"
	"math/rand/v2"
	"sync"
	"testing"
)

// strand is a Submitter that runs what it gets in order.
type strand struct {
	mu      sync.Mutex
	queue   []func()
	running bool
}

func (s *strand) Submit(fn func()) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue = append(s.queue, fn)
	if !s.running {
		s.running = true
		go s.run()
	}
	return nil
}

func (s *strand) run() {
	for {
		s.mu.Lock()
		if len(s.queue) == 0 {
			s.running = false
			s.mu.Unlock()
			return
		}
		fn := s.queue[0]
		s.queue = s.queue[1:]
		s.mu.Unlock()
		fn()
	}
}

// TestOneKeyKeepsOrder mixes keys, failures (at once and in the commit), new texts and
// procedures, and checks the order of completions and of effects.
func TestOneKeyKeepsOrder(t *testing.T) {
	for _, form := range []string{"chain", "strict", "rare", "detours"} {
		t.Run(form, func(t *testing.T) { keyOrder(t, form) })
	}
}

func keyOrder(t *testing.T, form string) {
	// Rare failures cut no burst short before the next one is on its way.
	lanes, odds, each := 4, 12, 100
	if form == "rare" {
		lanes, odds, each = 1, 100, 300
	}
	db := open(t, func(c *Config) { c.Strict = form == "strict"; c.MaxShapes = 16; c.Lanes = lanes })
	name := table(t, "seq serial, key int, n int, p int")
	admin(t, server(t).URL(), "create table "+name+"_p(id int primary key)", "insert into "+name+"_p values (1)",
		"alter table "+name+" add foreign key (p) references "+name+"_p deferrable initially deferred",
		"create procedure "+name+"_proc(k int, n int) language sql as $$ insert into "+name+"(key, n, p) values (k, n, 1) $$")
	const keys = 20
	got := make([][]int, keys)
	strands := make([]strand, keys)
	var wg sync.WaitGroup
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range each {
		for k := range keys {
			// The rows make the server flush in mid-burst, so that bursts overlap.
			stmt := Stmt{SQL: "insert into " + name + "(key, n, p) values ($1, $2, $3) returning repeat('x', 1500)", Key: uint64(k + 1)}
			args := []any{k, n, 1}
			switch rng.IntN(odds) {
			case 0:
				args[2] = 99 // fails in its commit
			case 1:
				stmt.SQL = "insert into " + name + "(key, n, p) values ($1, $2/0, $3)"
			case 2:
				stmt.SQL, args = "call "+name+"_proc($1, $2)", args[:2]
			case 3, 4:
				stmt.SQL += ", " + []string{"seq", "key", "n", "1", "2", "3", "4", "5", "6", "7"}[rng.IntN(10)] + " as r" + []string{"a", "b", "c"}[rng.IntN(3)]
			}
			if form == "detours" && rng.IntN(8) == 0 {
				// It comes back by itself when it has been quick a few times.
				db.slow.learn(db.shapes.get(stmt.SQL))
			}
			wg.Add(1)
			err := db.Exec(context.Background(), &strands[k], func(QueryResult) {
				got[k] = append(got[k], n)
				wg.Done()
			}, stmt, args...)
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	wg.Wait()
	for k := range got {
		for n := range got[k] {
			if got[k][n] != n {
				t.Fatalf("key %d: completion %d is of query %d", k, n, got[k][n])
			}
		}
	}
	res := ask(t, db, Stmt{SQL: "select count(*) from (select n, lag(n) over (partition by key order by seq) as before from " + name + ") x where n <= before"})
	var wrong int
	if err := res.Scan(&wrong); err != nil || wrong != 0 {
		t.Errorf("%d rows out of order, %v", wrong, err)
	}
	if s := db.Stats(); form == "detours" && s.Slow < 20 {
		t.Errorf("%d ran on slow connections, want more", s.Slow)
	}
	noDetours(t, db)
	if s := db.Stats(); s.Shapes > 16 {
		t.Errorf("%d shapes are known, the limit is 16", s.Shapes)
	}
}

// TestACancelledDetourLetsItsKeyGoOn: the slow statement of a key is cancelled while it waits
// for a connection.
func TestACancelledDetourLetsItsKeyGoOn(t *testing.T) {
	db := open(t, func(c *Config) { c.SlowConns = 1 })
	slow, quick := Stmt{SQL: "select pg_sleep($1), 'detour'", Key: 3}, Stmt{SQL: "select 'behind it'", Key: 3}
	ask(t, db, slow, 0.0)
	ask(t, db, quick)
	db.slow.learn(db.shapes.get(slow.SQL))
	ctx, cancel := context.WithCancel(context.Background())
	held, ended := make(chan QueryResult, 1), make(chan QueryResult, 2)
	hold, end := context.WithCancel(context.Background())
	defer end()
	if err := db.Query(hold, nil, func(r QueryResult) { held <- r }, Stmt{SQL: "select pg_sleep(600)", Slow: true}); err != nil {
		t.Fatal(err)
	}
	await(t, "the connection to be taken", func() bool { return db.Stats().SlowRunning == 1 })
	for range 2 {
		if err := db.Query(ctx, nil, func(r QueryResult) { ended <- r }, slow, 0.0); err != nil {
			t.Fatal(err)
		}
	}
	behind := make(chan QueryResult, 1)
	if err := db.Query(context.Background(), nil, func(r QueryResult) { behind <- r }, quick); err != nil {
		t.Fatal(err)
	}
	await(t, "the detour", func() bool { return db.Stats().SlowQueued == 1 })
	cancel()
	for range 2 {
		if r := wait(t, ended); r.Outcome != NotRun {
			t.Errorf("cancelled: got %v %v", r.Outcome, r.Err)
		}
	}
	if r := wait(t, behind); r.Outcome != OK {
		t.Errorf("behind them: got %v %v", r.Outcome, r.Err)
	}
	end()
	wait(t, held)
	noDetours(t, db)
}

// noDetours waits until no key is off the lanes.
func noDetours(t *testing.T, db *DB) {
	t.Helper()
	await(t, "all keys to be back on the lanes", func() bool {
		db.q.lock()
		defer db.q.unlock()
		return len(db.q.detours) == 0
	})
}
