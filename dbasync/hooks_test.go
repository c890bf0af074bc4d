package dbasync

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
)

type traceKey struct{}

// spans is a tracer that gives every query a number in its context.
type spans struct {
	mu     sync.Mutex
	n      int                 // guarded by mu
	sql    map[int]string      // guarded by mu
	parent map[int]any         // guarded by mu
	args   map[int]int         // guarded by mu
	ended  map[int]QueryResult // guarded by mu
	twice  bool                // guarded by mu
}

func (s *spans) TraceQueryStart(ctx context.Context, data pgx.TraceQueryStartData) context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n++
	s.sql[s.n], s.parent[s.n], s.args[s.n] = data.SQL, ctx.Value(traceKey{}), len(data.Args)
	return context.WithValue(ctx, traceKey{}, s.n)
}

func (s *spans) TraceQueryEnd(ctx context.Context, res QueryResult) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := ctx.Value(traceKey{}).(int)
	_, again := s.ended[n]
	s.twice = s.twice || again
	s.ended[n] = res
}

func TestTracerSeesEveryQuery(t *testing.T) {
	tr := &spans{sql: map[int]string{}, parent: map[int]any{}, args: map[int]int{}, ended: map[int]QueryResult{}}
	db := open(t, func(c *Config) { c.Tracer = tr })
	ctx := context.WithValue(context.Background(), traceKey{}, "parent")
	b := db.Blocking()
	var n int
	if err := b.QueryRow(ctx, "select $1::int", 5).Scan(&n); err != nil || n != 5 {
		t.Errorf("got %d, %v", n, err)
	}
	_, _ = b.Exec(ctx, "select 1/0")
	_, _ = b.Exec(ctx, "commit") // refused
	_, _ = b.SendBatch(ctx, batchOf("select 11", "select 12"), TxOptions{})
	err := b.BeginTxFunc(ctx, TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		if got := ctx.Value(traceKey{}); got != 5 {
			t.Errorf("in a transaction: got value %v, want that of the fifth start", got)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	tr.mu.Lock()
	defer tr.mu.Unlock()
	want := []struct {
		sql  string
		o    Outcome
		args int
	}{{"select $1::int", OK, 1}, {"select 1/0", SQLError, 0}, {"commit", NotRun, 0}, {"select 11", OK, 0}, {"", OK, 0}}
	for i, w := range want {
		r, ok := tr.ended[i+1]
		if !ok || r.Outcome != w.o || r.SQL != w.sql || tr.sql[i+1] != w.sql || tr.parent[i+1] != "parent" || tr.args[i+1] != w.args {
			t.Errorf("query %d: got %q of %v, end %v %v %q; want %+v", i+1, tr.sql[i+1], tr.parent[i+1], ok, r.Outcome, r.SQL, w)
		}
	}
	if tr.n != len(want) || len(tr.ended) != tr.n || tr.twice {
		t.Errorf("%d starts, %d ends, twice %v", tr.n, len(tr.ended), tr.twice)
	}
}

func TestNoticesReachTheirQuery(t *testing.T) {
	type got struct {
		n   Notice
		val any
	}
	ch := make(chan got, 1000)
	db := open(t, func(c *Config) {
		c.OnNotice = func(ctx context.Context, n Notice) { ch <- got{n, ctx.Value(traceKey{})} }
	})
	admin(t, server(t).URL(), "create or replace function say(n int) returns int language plpgsql as $$ begin raise notice 'n %', n; return n; end $$")
	for i := range 50 {
		ctx := context.WithValue(context.Background(), traceKey{}, i)
		if err := db.Query(ctx, nil, nil, Stmt{SQL: "select say($1)"}, i); err != nil {
			t.Fatal(err)
		}
	}
	for range 50 {
		g := wait(t, ch)
		if g.n.Message != fmt.Sprintf("n %d", g.val) || g.n.SQL != "select say($1)" || g.n.Conn < 0 || g.n.Severity != "NOTICE" {
			t.Errorf("got %q of query %v, %q, connection %d", g.n.Message, g.val, g.n.SQL, g.n.Conn)
		}
	}
	ctx := context.WithValue(context.Background(), traceKey{}, 99)
	if err := db.Query(ctx, nil, nil, Stmt{SQL: "select say($1)", Slow: true}, 99); err != nil {
		t.Fatal(err)
	}
	if g := wait(t, ch); g.n.Message != "n 99" || g.val != 99 || g.n.Conn != -1 {
		t.Errorf("slow: got %q of %v, connection %d", g.n.Message, g.val, g.n.Conn)
	}
}

// TestNoticesAreBounded: a flood of them while the pool is held up.
func TestNoticesAreBounded(t *testing.T) {
	block := make(chan struct{})
	var once sync.Once
	held := make(chan struct{})
	db := open(t, func(c *Config) {
		c.OnNotice = func(context.Context, Notice) { once.Do(func() { close(held); <-block }) }
	})
	sql := "do $$ begin for i in 1..3000 loop raise notice 'flood'; end loop; end $$"
	if r := ask(t, db, Stmt{SQL: sql}); r.Outcome != OK {
		t.Fatalf("got %v %v", r.Outcome, r.Err)
	}
	wait(t, held)
	db.events.mu.Lock()
	n := db.events.notices
	db.events.mu.Unlock()
	if lost := db.Stats().EventsLost; n > maxNotices || int(lost)+n < 2900 {
		t.Errorf("%d wait, %d lost of 3000, want at most %d waiting", n, lost, maxNotices)
	}
	close(block)
}

type inventory struct {
	Name string
	Qty  int32
	Tags []string
	Mood string
}

// registerTypes is what a pgx user has as AfterConnect.
func registerTypes(ctx context.Context, c *pgx.Conn) error {
	for _, name := range []string{"mood", "_mood", "inventory", "_inventory"} {
		typ, err := c.LoadType(ctx, name)
		if err != nil {
			return err
		}
		c.TypeMap().RegisterType(typ)
	}
	return nil
}

func TestOwnTypesOnLanes(t *testing.T) {
	admin(t, server(t).URL(), "create type mood as enum ('sad', 'glad')", "create type inventory as (name text, qty int4, tags text[], mood mood)")
	db := open(t, func(c *Config) { c.AfterConnect = registerTypes })
	name := table(t, "id int, one inventory, many inventory[], moods mood[]")
	in := inventory{"sword", 3, []string{"a", "b"}, "glad"}
	b, ctx := db.Blocking(), context.Background()
	var wg sync.WaitGroup
	for i := range 64 { // many maps at once
		wg.Go(func() {
			_, err := b.Exec(ctx, "insert into "+name+" values ($1, $2, $3, $4)", i, in, []inventory{in, in}, []string{"sad", "glad"})
			if err != nil {
				t.Error(err)
				return
			}
			var one inventory
			var many []inventory
			var moods []string
			if err := b.QueryRow(ctx, "select one, many, moods from "+name+" where id = $1", i).Scan(&one, &many, &moods); err != nil {
				t.Error(err)
				return
			}
			if fmt.Sprint(one, many, moods) != fmt.Sprint(in, []inventory{in, in}, []string{"sad", "glad"}) {
				t.Errorf("got %v %v %v", one, many, moods)
			}
		})
	}
	wg.Wait()
	if r := ask(t, db, Stmt{SQL: "select one from " + name}); r.Fields()[0].Format != pgtype.BinaryFormatCode || r.Conn < 0 {
		t.Errorf("a composite came in format %d on connection %d", r.Fields()[0].Format, r.Conn)
	}
	err := b.BeginTxFunc(ctx, TxOptions{}, func(ctx context.Context, tx pgx.Tx) error { // slow connections too
		var one inventory
		return tx.QueryRow(ctx, "select one from "+name).Scan(&one)
	})
	if err != nil {
		t.Error(err)
	}
	var qty int
	if err := ask(t, db, Stmt{SQL: "select ($1::inventory).qty", Slow: true}, in).Scan(&qty); err != nil || qty != 3 {
		t.Errorf("slow: got %d, %v", qty, err)
	}
}

// TestAfterConnectFailsTheAttempt: with its error, and the lane comes up when it is gone.
func TestAfterConnectFailsTheAttempt(t *testing.T) {
	own := errors.New("not today")
	obs := newWatcher()
	var mu sync.Mutex
	fails := 2
	db := open(t, func(c *Config) {
		c.Lanes, c.Observer = 1, obs
		c.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			mu.Lock()
			defer mu.Unlock()
			if fails--; fails >= 0 {
				return own
			}
			_, err := conn.Exec(ctx, "set search_path = pg_catalog")
			return err
		}
	})
	if ev := wait(t, obs.conns); !errors.Is(ev.err, own) {
		t.Errorf("got %v, want the error of AfterConnect", ev.err)
	}
	var path string
	if err := ask(t, db, Stmt{SQL: "show search_path"}).Scan(&path); err != nil || path != "pg_catalog" {
		t.Errorf("got %q, %v", path, err)
	}
	var names string
	if err := ask(t, db, Stmt{SQL: "select coalesce(string_agg(name, ' '), '') from pg_prepared_statements where name like 'stmtcache%'"}).Scan(&names); err != nil || names != "" {
		t.Errorf("statements %q are left on the lane, %v", names, err)
	}
}

// TestSilentHostIsPassedOver: the first of two hosts takes connections and says nothing.
func TestSilentHostIsPassedOver(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	u := server(t).URL()
	at := strings.Index(u, "@") + 1
	db := openOn(t, u[:at]+ln.Addr().String()+","+u[at:], func(c *Config) { c.ConnectTimeout = 500 * time.Millisecond })
	if r := ask(t, db, Stmt{SQL: "select 1"}); r.Outcome != OK {
		t.Errorf("got %v %v", r.Outcome, r.Err)
	}
	if err := db.Blocking().BeginTxFunc(context.Background(), TxOptions{}, func(context.Context, pgx.Tx) error { return nil }); err != nil {
		t.Errorf("slow: %v", err)
	}
}

// What AfterConnect has set stands in every transaction, whatever the one before has done.
func TestAfterConnectsSettingsOutliveTransactions(t *testing.T) {
	db := open(t, func(c *Config) {
		c.SlowConns = 1
		c.AfterConnect = func(ctx context.Context, c *pgx.Conn) error {
			_, err := c.Exec(ctx, `set search_path = public, "it's \here"; set work_mem = '5MB'`)
			return err
		}
	})
	b := db.Blocking()
	settings := func() (path, mem string) {
		err := b.BeginTxFunc(context.Background(), TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
			if err := tx.QueryRow(ctx, "select current_setting('search_path'), current_setting('work_mem')").Scan(&path, &mem); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "set search_path = nowhere; set work_mem = '1MB'; set statement_timeout = 77")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return path, mem
	}
	for range 3 {
		if path, mem := settings(); path != `public, "it's \here"` || mem != "5MB" {
			t.Errorf("search_path %s, work_mem %s", path, mem)
		}
	}
}
