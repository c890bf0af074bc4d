package dbasync

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
)

// counted is a context that tells how many registrations it has.
type counted struct {
	context.Context
	now *int
	mu  *sync.Mutex
}

// Value hides what context would register with in its place.
func (c counted) Value(any) any { return nil }

// AfterFunc is what context.AfterFunc asks for first.
func (c counted) AfterFunc(f func()) func() bool {
	stop := context.AfterFunc(c.Context, f)
	c.add(1)
	return func() bool {
		c.add(-1)
		return stop()
	}
}

func (c counted) add(n int) {
	c.mu.Lock()
	*c.now += n
	c.mu.Unlock()
}

// TestContextsAreKeptRegistered: one registration serves all queries of a context, those of
// the last contexts stay, no more than so many, and none when the DB has stopped.
func TestContextsAreKeptRegistered(t *testing.T) {
	db := open(t, func(c *Config) { c.Lanes = 1 })
	var mu sync.Mutex
	registered := func(n *int) int {
		mu.Lock()
		defer mu.Unlock()
		return *n
	}
	all := 0
	var cancels []context.CancelFunc
	for i := range maxIdleWatches + 100 {
		ctx, cancel := context.WithCancel(context.Background())
		cancels = append(cancels, cancel)
		var wg sync.WaitGroup
		for range 1 + i%3 {
			wg.Add(1)
			if err := db.Query(counted{ctx, &all, &mu}, nil, func(QueryResult) { wg.Done() }, Stmt{SQL: "select 1"}); err != nil {
				t.Fatal(err)
			}
		}
		wg.Wait()
		if i == 4 && registered(&all) != 5 {
			t.Fatalf("after 5 contexts and 9 queries: %d registrations, want 5", registered(&all))
		}
	}
	if n := registered(&all); n != maxIdleWatches {
		t.Errorf("%d registrations stay, want %d", n, maxIdleWatches)
	}
	for _, c := range cancels[len(cancels)-10:] {
		c()
	}
	await(t, "those that have ended to go", func() bool {
		db.watches.mu.Lock()
		defer db.watches.mu.Unlock()
		return len(db.watches.byCtx) == maxIdleWatches-10 && db.watches.nIdle == maxIdleWatches-10
	})
	if err := db.Stop(context.Background()); err != nil {
		t.Fatal(err)
	}
	if n := registered(&all); n != 10 { // ended ones are not stopped
		t.Errorf("%d registrations after Stop, want the 10 that ran", n)
	}
	for _, c := range cancels {
		c()
	}
}

// asking is a context whose registration, and its end, ask the database themselves.
type asking struct {
	context.Context
	ask func()
}

func (c asking) Value(any) any { return nil }

func (c asking) AfterFunc(f func()) func() bool {
	c.ask()
	stop := context.AfterFunc(c.Context, f)
	return func() bool {
		c.ask()
		return stop()
	}
}

// TestContextsAreCalledWithoutALock: a context's own methods may use the DB.
func TestContextsAreCalledWithoutALock(t *testing.T) {
	db := open(t, func(c *Config) { c.Lanes = 1 })
	plain, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan QueryResult, 3*maxIdleWatches)
	query := func(ctx context.Context) {
		if err := db.Query(ctx, nil, func(r QueryResult) { ended <- r }, Stmt{SQL: "select 1"}); err != nil && !errors.Is(err, net.ErrClosed) { // Stop ends the registrations that are left
			t.Error(err)
		}
	}
	const contexts = maxIdleWatches + 2 // so that two registrations end too
	for range contexts {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		query(asking{ctx, func() { query(plain) }})
		for range 2 {
			if r := wait(t, ended); r.Outcome != OK {
				t.Fatal(r.Outcome, r.Err)
			}
		}
	}
}

// TestAQueryOfAKnownContextAllocatesNoMore than one without a context that may end.
func TestAQueryOfAKnownContextAllocatesNoMore(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	db := open(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stmt := Stmt{SQL: "select $1::int4"}
	ask(t, db, stmt, 1)
	done := make(chan struct{}, 1)
	end := func(QueryResult) { done <- struct{}{} }
	got := 3.0
	for range 3 {
		got = min(got, testing.AllocsPerRun(2000, func() {
			if err := db.Query(ctx, nil, end, stmt, 1); err != nil {
				t.Error(err)
			}
			<-done
		}))
	}
	if got > 2 {
		t.Errorf("got %v allocations a query, want at most 2", got)
	}
}
