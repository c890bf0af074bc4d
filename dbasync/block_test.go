package dbasync

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"millrace/internal/faultproxy"
)

// through returns the URL of the shared server by way of a proxy.
func through(t *testing.T, direct string) (*faultproxy.Proxy, string) {
	t.Helper()
	u, err := url.Parse(direct)
	if err != nil {
		t.Fatal(err)
	}
	p := faultproxy.New(t, u.Host)
	u.Host = p.Addr()
	return p, u.String()
}

// await polls until ok holds.
func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within a minute: %s", what)
		}
	}
}

// writerSleeps: lane 0 is up, owes nothing and its writer waits, so that a caller may
// write in its place.
func writerSleeps(db *DB) bool {
	l := db.lanes[0]
	db.q.lock()
	defer db.q.unlock()
	return l.open && l.waiting && !l.woken && l.inflight == 0
}

// TestQueryNeverBlocksItsCaller: the server reads nothing, and the statement has to be prepared
// first, or its description fills the buffers.
func TestQueryNeverBlocksItsCaller(t *testing.T) {
	long := "select 1 /* " + strings.Repeat("x", 12<<20) + " */"
	const stall = 20 * time.Second // the write would block until the lane is dropped
	start := func(t *testing.T) (*faultproxy.Proxy, *DB) {
		p, u := through(t, server(t).URL())
		db := openOn(t, u, func(c *Config) {
			c.Lanes, c.StallTimeout = 1, stall
			c.MinBackoff, c.MaxBackoff = time.Millisecond, 20*time.Millisecond
		})
		ask(t, db, Stmt{SQL: "select 1"})
		return p, db
	}
	query := func(t *testing.T, db *DB, sql string) {
		t.Helper()
		ended := make(chan QueryResult, 1)
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		begun := time.Now()
		if err := db.Query(ctx, nil, func(r QueryResult) { ended <- r }, Stmt{SQL: sql}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took > stall/4 {
			t.Errorf("Query held its caller for %v", took)
		}
		if r := wait(t, ended); r.Outcome == OK {
			t.Errorf("got %v through a stalled proxy", r.Outcome)
		}
	}
	t.Run("text after a reconnect", func(t *testing.T) {
		p, db := start(t)
		await(t, "the text to be known", func() bool { return ask(t, db, Stmt{SQL: long}).Outcome == OK })
		connects := db.Stats().Connects
		p.Cut()
		p.Heal()
		await(t, "a new connection", func() bool { return db.Stats().Connects > connects && writerSleeps(db) })
		p.Stall(faultproxy.Up)
		query(t, db, long)
		p.Cut()
		p.Heal()
	})
	t.Run("behind a description", func(t *testing.T) {
		p, db := start(t)
		p.Stall(faultproxy.Up)
		first := make(chan QueryResult, 1)
		// Just what the buffers take: its writer gets through and sleeps.
		sql := "select 2 /* " + strings.Repeat("x", 64<<10) + " */"
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		if err := db.Query(ctx, nil, func(r QueryResult) { first <- r }, Stmt{SQL: sql}); err != nil {
			t.Fatal(err)
		}
		wait(t, first) // its timeout; the description is still owed
		l := db.lanes[0]
		await(t, "the writer to sleep", func() bool { return writerSleeps(db) })
		db.q.lock()
		known := db.shapes.get("select 1")
		r := &request{shape: known}
		lent := l.canLend(r)
		db.q.unlock()
		if lent {
			t.Error("a lane that owes a description is lent to a caller")
		}
		query(t, db, "select 1")
		p.Cut()
		p.Heal()
	})
}
