package dbasync

import (
	"context"
	"testing"
)

// TestQueryAllocations: a query without hooks, NamedArgs and custom types allocates nothing for
// them. One query at a time; the result's bytes and its tag are included.
func TestQueryAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	db := open(t, nil)
	ctx, stmt := context.Background(), Stmt{SQL: "select $1::int4"}
	ask(t, db, stmt, 1)
	done := make(chan struct{}, 1)
	end := func(QueryResult) { done <- struct{}{} }
	n := 0
	got := 3.0
	for range 3 { // other lanes may still be connecting
		got = min(got, testing.AllocsPerRun(2000, func() {
			n++
			if err := db.Query(ctx, nil, end, stmt, n); err != nil {
				t.Error(err)
			}
			<-done
		}))
	}
	if got > 2 {
		t.Errorf("got %v allocations a query, want at most 2", got)
	}
}
