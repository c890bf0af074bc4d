package engine

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkSubmit is a function's way through a session's strand and through one of the
// pool's, 512 at a time.
func BenchmarkSubmit(b *testing.B) {
	run := func(b *testing.B, submit func(func()) error) {
		const burst = 512
		n, done := 0, make(chan struct{})
		fn := func() {
			if n++; n == burst {
				n = 0
				done <- struct{}{}
			}
		}
		b.ReportAllocs()
		i := 0
		for b.Loop() {
			if err := submit(fn); err != nil {
				b.Fatal(err)
			}
			if i++; i%burst == 0 {
				<-done
			}
		}
	}
	b.Run("session", func(b *testing.B) {
		got := make(chan *Session, 1)
		srv := serve(b, Config{Workers: 2}, &funcs{accept: func(s *Session) { got <- s }})
		dial(b, srv)
		run(b, (<-got).Submit)
	})
	b.Run("strand", func(b *testing.B) {
		run(b, runPool(b, PoolConfig{Workers: 2}).Strand().Submit)
	})
	b.Run("idle strands", func(b *testing.B) { // each finds its strand idle
		p := runPool(b, PoolConfig{Workers: 2})
		all := make([]*Strand, 512)
		for i := range all {
			all[i] = p.Strand()
		}
		var n atomic.Int32
		done := make(chan struct{})
		i := 0
		run := func() {
			if n.Add(1) == 512 {
				n.Store(0)
				done <- struct{}{}
			}
		}
		b.ReportAllocs()
		for b.Loop() {
			if err := all[i].Submit(run); err != nil {
				b.Fatal(err)
			}
			if i++; i == len(all) {
				i = 0
				<-done
			}
		}
	})
}

func ExamplePool_Strand() {
	pool, err := NewPool(PoolConfig{})
	if err == nil {
		err = pool.Start(context.Background())
	}
	if err != nil {
		fmt.Println(err)
		return
	}
	defer pool.Stop(context.Background())
	balance := 0 // only functions of the strand touch it
	account := pool.Strand()
	var payers sync.WaitGroup
	for amount := range 10 {
		payers.Go(func() { account.Submit(func() { balance += amount }) })
	}
	payers.Wait()
	told := make(chan int)
	account.Submit(func() { told <- balance })
	fmt.Println(<-told)
	// Output: 45
}
