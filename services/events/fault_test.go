package events_test

import (
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"millrace/dbasync"
	"millrace/dbasync/pgembed"
	"millrace/services"
	"millrace/services/events"
)

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not so after a while: %s", what)
		}
	}
}

// ask runs a statement and returns its first column as text.
func ask(t *testing.T, db *dbasync.DB, sql string) string {
	t.Helper()
	got := make(chan dbasync.QueryResult, 1)
	must(t, db.Query(background, nil, func(r dbasync.QueryResult) { got <- r }, dbasync.Stmt{SQL: sql}))
	r := <-got
	must(t, r.Err)
	var s string
	if r.Len() > 0 {
		must(t, r.Scan(&s))
	}
	return s
}

func TestDurableEventsUnderFaults(t *testing.T) {
	pg := pgembed.ForTest(t, pgembed.Config{})
	start := func(t *testing.T, change func(*events.Config), handle func(*services.Context, *event) error) *durableRig {
		t.Helper()
		r, err := startDurable(pg.URL(), change, services.Stages[event, services.None]{
			Handle: func(ctx *services.Context, req *event, _ *services.None) error { return handle(ctx, req) },
		})
		must(t, err)
		t.Cleanup(r.stop)
		return r
	}
	t.Run("one copy while the lease is renewed", func(t *testing.T) {
		short := func(c *events.Config) { c.Lease, c.Poll = 2*time.Second, 50*time.Millisecond }
		var running, most, begun atomic.Int64
		handle := func(*services.Context, *event) error {
			begun.Add(1)
			n := running.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			time.Sleep(5 * time.Second) // two and a half leases
			running.Add(-1)
			return nil
		}
		a, b := start(t, short, handle), start(t, short, handle)
		if stored, err := a.store("long", 0, 1); !stored || err != nil {
			t.Fatal(stored, err)
		}
		eventually(t, "it has run", func() bool { return a.d.Stats().Ran+b.d.Stats().Ran == 1 })
		eventually(t, "its row has gone", func() bool { return ask(t, a.db, "select count(*)::text from millrace_events") == "0" })
		if most.Load() != 1 || begun.Load() != 1 || a.d.Stats().Lost+b.d.Stats().Lost != 0 {
			t.Errorf("%d copies at once, %d in all, %+v, %+v", most.Load(), begun.Load(), a.d.Stats(), b.d.Stats())
		}
	})
	t.Run("the last attempt that hangs is given up, and its key is free", func(t *testing.T) {
		release := make(chan struct{})
		var second atomic.Bool
		r := start(t, func(c *events.Config) {
			c.Lease, c.MaxRun, c.MaxAttempts, c.Poll = 300*time.Millisecond, 200*time.Millisecond, 1, 50*time.Millisecond
		}, func(_ *services.Context, req *event) error {
			if req.ID == 1 {
				<-release
			} else {
				second.Store(true)
			}
			return nil
		})
		_, err := r.store("hangs", 0, 1)
		must(t, err)
		eventually(t, "it is given up", func() bool { return r.d.Stats().GivenUp == 1 })
		if s := ask(t, r.db, "select reason from millrace_events_given_up where key = 'hangs'"); s == "" {
			t.Error("no row of it is left")
		}
		// The hung one, when it ends at last, does not touch its successor's row.
		if stored, err := r.store("hangs", 1000, 2); !stored || err != nil {
			t.Errorf("a successor: %v, %v", stored, err)
		}
		close(release)
		eventually(t, "the hung one has ended", func() bool { return r.d.Stats().Running == 0 })
		ask(t, r.db, "update millrace_events set due = now() where key = 'hangs' returning key")
		eventually(t, "the successor has run", second.Load)
		if s := r.d.Stats(); s.Overdue != 1 {
			t.Errorf("got %+v", s)
		}
	})
	t.Run("bad rows stop nobody", func(t *testing.T) {
		var ran atomic.Int64
		r := start(t, func(c *events.Config) { c.Retry = time.Millisecond }, func(*services.Context, *event) error {
			ran.Add(1)
			return nil
		})
		row := func(key, handle, due, attempts, body string) {
			ask(t, r.db, fmt.Sprintf("insert into millrace_events (key, handle, due, attempts, body) values ('%s', %s, '%s', %s, %s) returning key", key, handle, due, attempts, body))
		}
		push, good := fmt.Sprint(hPush), `'{"id":1,"late_ms":0}'`
		row("minus infinity", push, "-infinity", "0", good)
		row("infinity", push, "infinity", "0", good)
		row("4714 BC", push, "4714-11-24 00:00:00+00 BC", "0", good)
		row("negative attempts", push, "now", "-5", good)
		row("negative handle", "-1", "now", "0", good)
		row("large handle", "1099511627776", "now", "0", good)
		row("no such handle", "5", "now", "0", good)
		row("too long", push, "now", "0", "decode(repeat('61', 5000000), 'hex')")
		row("long", push, "now", "0", `convert_to('{"id":1,"late_ms":0,"x":"' || repeat('a', 100000) || '"}', 'UTF8')`)
		row("no JSON", push, "now", "0", "'x'")
		_, err := r.store("good", 0, 1)
		must(t, err)
		t.Cleanup(func() {
			if t.Failed() {
				t.Log(ran.Load(), r.d.Stats(), ask(t, r.db, "select coalesce(string_agg(key || ' ' || attempts, ', '), '') from millrace_events"), ask(t, r.db, "select coalesce(string_agg(key || ': ' || reason, '; '), '') from millrace_events_given_up"))
			}
		})
		eventually(t, "five ran", func() bool { return ran.Load() == 5 })
		eventually(t, "five are given up", func() bool { return r.d.Stats().GivenUp == 5 })
		eventually(t, "one is left", func() bool { return ask(t, r.db, "select string_agg(key, ',') from millrace_events") == "infinity" })
	})
}

func TestManagerStartsWithoutItsDatabase(t *testing.T) {
	pg := pgembed.ForTest(t, pgembed.Config{TCP: true})
	must(t, pg.Halt(background, pgembed.Immediate))
	m, err := services.New(services.Config{Logger: quiet, DB: events.Database(dbasync.Config{URL: pg.URL(), Lanes: 1}, events.Config{Poll: 50 * time.Millisecond})})
	must(t, err)
	t.Cleanup(func() { _ = m.Stop(background) })
	ran := newRuns()
	must(t, services.Register(m.Controller(), hPush, ran.stages()))
	must(t, m.Start(background))
	if m.Healthy() == nil {
		t.Error("healthy without its database")
	}
	must(t, pg.Start(background))
	eventually(t, "all is well", func() bool { return m.Healthy() == nil })
	_, err = services.After(m.Controller().Context(nil), 0, hPush, event{ID: 1}, services.Durable("k", nil))
	must(t, err)
	ran.wait(t, 1)
}
