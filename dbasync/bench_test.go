package dbasync

import (
	"context"
	"sync"
	"testing"
)

// BenchmarkQuery counts what one query allocates, its callback's Scan included.
func BenchmarkQuery(b *testing.B) {
	db := open(b, nil)
	stmt := Stmt{SQL: "select $1::int4"}
	ask(b, db, stmt, 1)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 256)
	done := func(r QueryResult) {
		<-slots
		wg.Done()
	}
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		i++
		slots <- struct{}{}
		wg.Add(1)
		if err := db.Query(context.Background(), nil, done, stmt, i); err != nil {
			b.Fatal(err)
		}
	}
	wg.Wait()
}
