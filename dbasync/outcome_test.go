package dbasync

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/dbasync/internal/pgfault"
)

// behindProxy opens a DB of one lane and one slow connection behind a fault proxy. The lane
// has said all that it says at its beginning.
func behindProxy(t *testing.T, change func(*Config)) (*DB, *pgfault.Proxy) {
	t.Helper()
	at := newPost(t, server(t).URL())
	db := openOn(t, at.url, func(c *Config) {
		c.Lanes, c.SlowConns = 1, 1
		c.MinBackoff, c.MaxBackoff = time.Millisecond, 5*time.Millisecond
		if change != nil {
			change(c)
		}
	})
	t.Cleanup(at.proxy.Heal)
	ask(t, db, Stmt{SQL: "select 'the lane is up'"})
	return db, at.proxy
}

// indexOf returns which message of its direction since Arm is the last of the type whose
// text begins with text.
func indexOf(t *testing.T, p *pgfault.Proxy, d pgfault.Direction, typ, text string) int {
	t.Helper()
	ms := p.Messages(d)
	for i, m := range slices.Backward(ms) {
		if m.Type == typ && strings.HasPrefix(m.Text, text) {
			return i
		}
	}
	t.Fatalf("no %s %q among %v", typ, text, ms)
	return 0
}

// TestRetriedQueryStaysUnsure: its first run did its work and was lost; that the next one
// fails, or never comes, does not undo it.
func TestRetriedQueryStaysUnsure(t *testing.T) {
	for _, slow := range []bool{false, true} {
		for _, next := range []string{"fails", "never comes"} {
			t.Run(fmt.Sprintf("slow=%v/%s", slow, next), func(t *testing.T) {
				name := table(t, "id int primary key")
				db, p := behindProxy(t, func(c *Config) { c.QueryTimeout, c.SlowTimeout = time.Minute, time.Minute })
				stmt := Stmt{SQL: "insert into " + name + " values ($1)", Slow: slow, Retry: true}
				for i := range 3 { // the last of them in the form that the lost one has
					p.Arm(pgfault.Fault{})
					if r := ask(t, db, stmt, i); r.Outcome != OK {
						t.Fatalf("got %v %v", r.Outcome, r.Err)
					}
				}
				p.Arm(pgfault.Fault{Dir: pgfault.Down, Index: indexOf(t, p, pgfault.Down, "CommandComplete", "INSERT"), Act: pgfault.Reset})
				ctx, cancel := context.WithCancel(context.Background())
				defer cancel()
				ended := make(chan QueryResult, 1)
				if err := db.Query(ctx, nil, func(r QueryResult) { ended <- r }, stmt, 7); err != nil {
					t.Fatal(err)
				}
				if next == "never comes" {
					for _, hit := p.Found(); !hit; _, hit = p.Found() {
						time.Sleep(100 * time.Microsecond)
					}
					p.Close()
					time.AfterFunc(2*time.Second, cancel) // its time, in which it is tried again
				}
				r := wait(t, ended)
				if _, hit := p.Found(); !hit {
					t.Fatal("it was not cut")
				}
				if r.Outcome != MayHaveRun || r.Err == nil {
					t.Errorf("got %v %v, want that it may have run", r.Outcome, r.Err)
				}
				conn, err := pgx.Connect(context.Background(), server(t).URL())
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close(context.Background())
				var n int
				if err := conn.QueryRow(context.Background(), "select count(*) from "+name+" where id = 7").Scan(&n); err != nil || n != 1 {
					t.Errorf("got %d rows, %v: this was to test a first run that worked", n, err)
				}
			})
		}
	}
}

// TestSilentServerHoldsNoSlowConnectionAtItsRollback: the rollback is waited for as long as
// a connection would be, not for ever.
func TestSilentServerHoldsNoSlowConnectionAtItsRollback(t *testing.T) {
	name := table(t, "id int primary key")
	for _, form := range []string{"tx", "batch"} {
		t.Run(form, func(t *testing.T) {
			db, p := behindProxy(t, func(c *Config) { c.ConnectTimeout = 500 * time.Millisecond })
			send := func(f pgfault.Fault) chan QueryResult {
				p.Arm(f)
				ended := make(chan QueryResult, 1)
				var err error
				if form == "tx" {
					err = db.Tx(context.Background(), nil, func(r QueryResult) { ended <- r }, func(ctx context.Context, tx pgx.Tx) error {
						_, err := tx.Exec(ctx, "insert into "+name+" values (1), (1)")
						return err
					})
				} else {
					b := &pgx.Batch{}
					b.Queue("insert into " + name + " values (1), (1)")
					err = db.SendBatch(context.Background(), nil, func(r BatchResult) { ended <- r.QueryResult }, b, TxOptions{})
				}
				if err != nil {
					t.Fatal(err)
				}
				return ended
			}
			for range 2 {
				if r := wait(t, send(pgfault.Fault{})); r.Outcome != SQLError {
					t.Fatalf("got %v %v", r.Outcome, r.Err)
				}
				awaitClean(t, p)
			}
			at := indexOf(t, p, pgfault.Up, "Query", "rollback")
			ended := send(pgfault.Fault{Dir: pgfault.Up, Index: at, Act: pgfault.Stall})
			if r := wait(t, ended); r.Outcome != SQLError && r.Outcome != NotRun {
				t.Errorf("got %v %v, want an outcome of what is undone", r.Outcome, r.Err)
			}
			if m, hit := p.Found(); !hit || m.Text != "rollback" {
				t.Errorf("stalled at %v", m)
			}
			p.Heal()
		})
	}
}

// awaitClean returns when what a job had set is taken back on its connection.
func awaitClean(t *testing.T, p *pgfault.Proxy) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(time.Millisecond) {
		resets, last := 0, ""
		for _, m := range p.Messages(pgfault.Down) {
			if m.Text == "RESET" {
				resets++
			}
			last = m.Type
		}
		if resets == 2 && last == "ReadyForQuery" {
			return
		}
	}
	t.Fatal("no RESET in a minute")
}

// TestEndsTx: which texts may end a transaction.
func TestEndsTx(t *testing.T) {
	for sql, want := range map[string]bool{
		"commit": true, "COMMIT AND CHAIN": true, " /* c */ end": true, "abort work": true, "rollback": true,
		"rollback and chain": true, "prepare transaction 'x'": true, "insert into t values (1); commit": true,
		"rollback to savepoint a": false, "rollback work to a": false, "ROLLBACK TRANSACTION TO SAVEPOINT a": false,
		"select 1": false, "prepare p as select 1": false, "release savepoint a": false, "savepoint a; select 2": false, "": false,
		"do $$ begin raise 'x'; end $$": false, "do $a$ begin null; end $a$; commit": true,
		"select '; commit'": false, `select E'\'; commit'`: false, `select E'\''; commit`: true, `select 1 as "; end"`: false,
		"select ''';'; end": true, "select $1; end": true, "select $1, $2; select 2": false, "select a$b$c; commit": true,
		"-- ; commit\nselect 1": false, "/* ; commit */ select 1": false, "select 1 -- x\n; abort": true,
	} {
		if got := endsTx(sql); got != want {
			t.Errorf("%q: got %v, want %v", sql, got, want)
		}
	}
}
