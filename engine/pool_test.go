package engine

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// Whatever is accepted runs exactly once; whatever is refused is refused at once.
func TestPoolRunsWhatItAcceptsOnce(t *testing.T) {
	p := runPool(t, PoolConfig{Workers: 1, Spare: Off, MaxQueue: 100})
	gate := make(chan bool)
	p.Submit(func() { <-gate })
	waitFor(t, "the worker to be busy", func() bool { return p.Stats().Idle == 0 && p.Stats().Queue == 0 })
	var ran, accepted, refused atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range 10 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for range 100 {
				switch err := p.Submit(func() { ran.Add(1) }); {
				case err == nil:
					accepted.Add(1)
				case errors.Is(err, ErrOverloaded):
					refused.Add(1)
				default:
					t.Error(err)
				}
			}
		}()
	}
	wg.Wait()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("1,000 Submits took %v with the worker blocked", took)
	}
	if accepted.Load() != 100 || refused.Load() != 900 || p.Stats().Refused != 900 {
		t.Errorf("%d accepted, %d refused, counted %d", accepted.Load(), refused.Load(), p.Stats().Refused)
	}
	close(gate)
	waitFor(t, "the queue to run", func() bool { return ran.Load() == 100 })
}

// Blocked workers are replaced as long as there are spare ones, and these go again.
func TestSpareWorkersTakeTheBlockedOnesPlace(t *testing.T) {
	p := runPool(t, PoolConfig{Workers: 2, Spare: 20})
	gate := make(chan bool)
	var inside atomic.Int32
	for range 22 {
		p.Submit(func() { inside.Add(1); <-gate })
	}
	waitFor(t, "all 22 to run at once", func() bool { return inside.Load() == 22 })
	if st := p.Stats(); st.Workers != 22 || st.Spawned != 20 {
		t.Errorf("%d workers, %d spawned", st.Workers, st.Spawned)
	}
	done := make(chan bool)
	p.Submit(func() { close(done) })
	select {
	case <-done:
		t.Error("a 23rd worker ran")
	case <-time.After(50 * time.Millisecond):
	}
	if st := p.Stats(); st.Blocked != 22 || st.Queue != 1 {
		t.Errorf("%d blocked, %d queued, want 22 and 1", st.Blocked, st.Queue)
	}
	close(gate)
	<-done
	waitFor(t, "the spare workers to go", func() bool { return p.Stats().Workers == 2 })
}

// However often spare workers are retired, the base workers stay.
func TestBaseWorkersAreNeverRetired(t *testing.T) {
	p := runPool(t, PoolConfig{Workers: 2, Spare: 8})
	for range 300 {
		p.mu.Lock()
		for range 6 {
			p.spawn()
		}
		p.mu.Unlock()
		for p.Stats().Workers > 2 {
			p.retireSpare()
			runtime.Gosched() // where there is one processor the workers get no other chance for 10 ms
		}
		p.retireSpare()
		runtime.Gosched()
		if n := p.Stats().Workers; n != 2 {
			t.Fatalf("%d workers left, want 2", n)
		}
	}
}

// A function that ends its goroutine takes no worker with it, also while the pool stops.
func TestGoexitTakesNoWorker(t *testing.T) {
	var log strings.Builder
	p := runPool(t, PoolConfig{Workers: 2, Spare: Off, Logger: textLog(&log)})
	for range 20 {
		p.Submit(runtime.Goexit)
		p.Submit(func() { panic("on purpose") })
	}
	waitFor(t, "all to run", func() bool { return p.Stats().Panics == 40 })
	waitFor(t, "the workers to be back", func() bool { st := p.Stats(); return st.Workers == 2 && st.Idle == 2 })

	gate := make(chan bool)
	var ran atomic.Int32
	for range 2 {
		p.Submit(func() { <-gate })
	}
	for range 10 {
		p.Submit(runtime.Goexit)
		p.Submit(func() { ran.Add(1) })
	}
	stopped := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		stopped <- p.Stop(ctx)
	}()
	waitFor(t, "the stop to begin", func() bool { return !p.Running() })
	if err := p.Submit(func() {}); !errors.Is(err, ErrClosed) {
		t.Errorf("Submit while stopping: %v", err)
	}
	close(gate)
	if err := <-stopped; err != nil || ran.Load() != 10 {
		t.Errorf("stop: %v, %d of 10 functions ran", err, ran.Load())
	}
}

// Stop gives up on stuck workers when its context ends; it may be called again.
func TestPoolStopDoesNotHang(t *testing.T) {
	p := runPool(t, PoolConfig{Workers: 1})
	gate := make(chan bool)
	p.Submit(func() { <-gate })
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := p.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	close(gate)
	if err := p.Stop(context.Background()); err != nil {
		t.Error(err)
	}
	if err := p.Start(context.Background()); err == nil {
		t.Error("started twice")
	}
	if q, err := NewPool(PoolConfig{Workers: -3}); err == nil {
		t.Errorf("got %v", q)
	}
}

// The ring keeps its order across growth and wrapping.
func TestRing(t *testing.T) {
	r := ring{max: 200}
	next, want := 0, 0
	var got []int
	for step := range 2000 {
		if step%7 < 4 {
			n := next
			if r.push(func() { got = append(got, n) }) {
				next++
			} else if r.len() != 200 {
				t.Fatalf("refused at %d", r.len())
			}
		} else if fn := r.pop(); fn != nil {
			fn()
			if got[len(got)-1] != want {
				t.Fatalf("got %d, want %d", got[len(got)-1], want)
			}
			want++
		}
	}
	if want < 500 || next < 600 {
		t.Errorf("%d in, %d out", next, want)
	}
}
