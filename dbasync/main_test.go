package dbasync

import (
	"context"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"millrace/dbasync/pgembed"
)

// shared is one server for the tests that don't stop it.
var shared struct {
	once sync.Once
	srv  *pgembed.Server
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if shared.srv != nil {
		_ = shared.srv.Stop(context.Background(), pgembed.Immediate)
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// server returns the shared server, or skips.
func server(tb testing.TB) *pgembed.Server {
	tb.Helper()
	shared.once.Do(func() { shared.srv, shared.err = pgembed.Start(context.Background(), pgembed.Config{TCP: true}) })
	if shared.err != nil {
		pgembed.ForTest(tb, pgembed.Config{}) // skips, or fails in CI
		tb.Fatal(shared.err)
	}
	return shared.srv
}

// open starts a DB on the shared server and stops it at the end.
func open(tb testing.TB, change func(*Config)) *DB {
	tb.Helper()
	return openOn(tb, server(tb).URL(), change)
}

func openOn(tb testing.TB, url string, change func(*Config)) *DB {
	tb.Helper()
	cfg := Config{URL: url}
	if change != nil {
		change(&cfg)
	}
	db, err := New(cfg)
	if err != nil {
		tb.Fatal(err)
	}
	if err := db.Start(context.Background()); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		if err := db.Stop(ctx); err != nil {
			tb.Errorf("stop: %v", err)
		}
		if s := db.Stats(); s.Outstanding != 0 || s.OutstandingBytes != 0 || s.Queued != 0 {
			tb.Errorf("left after Stop: %+v", s)
		}
	})
	return db
}

// ask runs one query and waits for it.
func ask(tb testing.TB, db *DB, stmt Stmt, args ...any) QueryResult {
	tb.Helper()
	ch := make(chan QueryResult, 1)
	if err := db.Query(context.Background(), nil, func(r QueryResult) { ch <- r }, stmt, args...); err != nil {
		tb.Fatalf("%s: %v", stmt.SQL, err)
	}
	return wait(tb, ch)
}

func wait[T any](tb testing.TB, ch <-chan T) T {
	tb.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(time.Minute):
		tb.Fatal("no completion in a minute")
		panic("unreachable")
	}
}

// admin runs statements on an ordinary connection.
func admin(tb testing.TB, url string, sqls ...string) {
	tb.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		tb.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range sqls {
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			tb.Fatalf("%s: %v", sql, err)
		}
	}
}

var tableNo atomic.Int64

// table makes a table of its own for a test and returns its name.
func table(tb testing.TB, columns string) string {
	tb.Helper()
	name := fmt.Sprintf("t%d", tableNo.Add(1))
	admin(tb, server(tb).URL(), "create table "+name+" ("+columns+")")
	return name
}

func logOf(tb testing.TB, srv *pgembed.Server) string {
	tb.Helper()
	b, err := os.ReadFile(srv.LogPath())
	if err != nil {
		tb.Fatal(err)
	}
	return string(b)
}
