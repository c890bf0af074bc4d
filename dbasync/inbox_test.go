package dbasync

import (
	"errors"
	"fmt"
	"testing"
	"time"
)

// idleDB is a DB that was not started, whose first lane sleeps.
func idleDB(t *testing.T) (*DB, *shape) {
	t.Helper()
	db, err := New(Config{URL: "postgres://localhost/none"})
	if err != nil {
		t.Fatal(err)
	}
	l := db.lanes[0]
	l.open, l.waiting, l.maxBurst = true, true, db.cfg.MaxBurst
	for i := range db.q.parts {
		db.q.parts[i].owner = 0
	}
	_, _ = db.quota.take(0), db.quota.take(0) // no caller is alone
	sh := &shape{sql: "select 1"}
	sh.desc.Store(&description{})
	return db, sh
}

func (db *DB) requestOf(sh *shape, key uint64) *request {
	r := db.newRequest()
	r.shape, r.desc, r.stmt.Key, r.deadline = sh, sh.desc.Load(), key, time.Hour
	return r
}

// TestInboxBeforeQueue: what is not described goes to the queue at once, but not past what
// its key has in an inbox.
func TestInboxBeforeQueue(t *testing.T) {
	db, sh := idleDB(t)
	q := &db.q
	var want []*request
	for i := range 20 {
		of := sh
		if i%3 == 2 {
			of = &shape{sql: "select 2"}
		}
		r := db.requestOf(of, 7)
		want = append(want, r)
		if _, err := q.push(r, of); err != nil {
			t.Fatal(err)
		}
	}
	q.lock()
	defer q.unlock()
	q.collect()
	i := 0
	for r := q.partOf(7).head; r != nil; r = r.next {
		if r != want[i] {
			t.Fatalf("place %d is not the %dth call's", i, i)
		}
		i++
	}
	if i != len(want) {
		t.Errorf("%d wait, want %d", i, len(want))
	}
}

// TestInboxWakesNobodyTwice: the first query wakes the lane, those behind it only leave
// themselves in an inbox, until there is more than a share and another lane sleeps.
func TestInboxWakesNobodyTwice(t *testing.T) {
	db, sh := idleDB(t)
	q := &db.q
	push := func(n int) (locks uint64) {
		before := q.locked
		for range n {
			if _, err := q.push(db.requestOf(sh, 0), sh); err != nil {
				t.Fatal(err)
			}
		}
		return q.locked - before
	}
	q.lock()
	q.unlock()
	if got := push(1); got != 1 || !db.lanes[0].woken {
		t.Errorf("first query: %d locks, lane woken: %v", got, db.lanes[0].woken)
	}
	if got := push(1000); got != 0 {
		t.Errorf("1000 queries for a lane that is on its way: %d locks of the queue", got)
	}
	q.lock()
	db.lanes[1].open, db.lanes[1].waiting = true, true
	q.unlock()
	if got := push(len(q.inboxes) * (minShare + 1)); got == 0 || !db.lanes[1].woken {
		t.Errorf("more than a share in an inbox: %d locks, second lane woken: %v", got, db.lanes[1].woken)
	}
}

// TestInboxAsLaneFallsAsleep: a query that came when the lane was still awake, and so woke
// nobody, is found when the lane says that it sleeps.
func TestInboxAsLaneFallsAsleep(t *testing.T) {
	db, sh := idleDB(t)
	q, l := &db.q, db.lanes[0]
	l.waiting = false
	q.lock()
	q.unlock()
	if _, err := q.push(db.requestOf(sh, 0), sh); err != nil || l.woken {
		t.Fatalf("got %v, woken %v", err, l.woken)
	}
	q.lock()
	l.waiting = true
	q.unlock()
	if !l.woken || q.shared.n != 1 {
		t.Errorf("lane woken: %v, %d wait", l.woken, q.shared.n)
	}
}

// TestInboxTimeoutAndStop: both see what no lane has collected.
func TestInboxTimeoutAndStop(t *testing.T) {
	db, sh := idleDB(t)
	q := &db.q
	db.lanes[0].waiting = false
	r := db.requestOf(sh, 0)
	r.deadline = 1
	if _, err := q.push(r, sh); err != nil {
		t.Fatal(err)
	}
	if got := q.expired(2, nil); len(got) != 1 || got[0] != r {
		t.Errorf("expired: %v", got)
	}
	if _, err := q.push(db.requestOf(sh, 5), sh); err != nil {
		t.Fatal(err)
	}
	if got := db.Stats(); got.Queued != 2 || got.Accepted != 2 {
		t.Errorf("Queued %d, Accepted %d, want 2, 2", got.Queued, got.Accepted)
	}
	if _, err := q.push(db.requestOf(sh, 6), sh); err != nil {
		t.Fatal(err)
	}
	if got := len(q.drain()); got != 3 {
		t.Errorf("Stop finds %d, want 3", got)
	}
	if _, err := q.push(db.requestOf(sh, 0), sh); !errors.Is(err, ErrClosed) {
		t.Errorf("after Stop: got %v", err)
	}
}

// TestShapeWithoutLock: a statement in use is found though somebody holds the cache's lock,
// and one that was evicted is not found any more.
func TestShapeWithoutLock(t *testing.T) {
	c := newShapes(8, nil)
	var last *shape
	for range 100 { // it takes a few uses
		for i := range 8 {
			last = c.get(fmt.Sprint("select ", i))
		}
	}
	c.mu.Lock()
	found := make(chan *shape, 1)
	go func() { found <- c.get(last.sql) }()
	select {
	case s := <-found:
		if s != last {
			t.Error("another shape is found")
		}
		c.mu.Unlock()
	case <-time.After(time.Minute):
		c.mu.Unlock()
		t.Error("it waits for the lock")
	}
	c.forget(last)
	if c.get(last.sql) == last {
		t.Error("an evicted shape is found")
	}
}

// TestInboxOfKey: all of one key go into one inbox, wherever they are called.
func TestInboxOfKey(t *testing.T) {
	db, sh := idleDB(t)
	q := &db.q
	db.lanes[0].waiting = false
	for key := uint64(1); key < 40; key++ {
		b := &q.inboxes[q.partIndex(key)]
		before := b.n.Load()
		if _, err := q.push(db.requestOf(sh, key), sh); err != nil || b.n.Load() != before+1 {
			t.Fatalf("key %d: got %v, not in its inbox", key, err)
		}
	}
}
