package sched

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func within(t testing.TB, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	t.Cleanup(cancel)
	return ctx
}

// A pool starts once, not with a context that has ended, and not after Stop. Stop may
// come before Start and twice. No goroutine is left: the bubble would not end.
func TestStartAndStopInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended, cancel := context.WithCancel(t.Context())
		cancel()
		p := New(Config{Workers: 3, MaxQueue: 1, Logger: slog.New(slog.DiscardHandler)})
		if err := p.Start(ended); !errors.Is(err, context.Canceled) || p.Running() || p.Stats().Workers != 0 {
			t.Errorf("with an ended context: %v, %d workers", err, p.Stats().Workers)
		}
		if err := p.Start(t.Context()); err != nil || !p.Running() {
			t.Errorf("then: %v", err)
		}
		if p.Start(t.Context()) == nil {
			t.Error("started twice")
		}
		for range 2 {
			if err := p.Stop(within(t, time.Second)); err != nil || p.Running() {
				t.Error(err)
			}
		}
		if err := p.Stop(ended); err != nil {
			t.Errorf("Stop of a stopped pool with an ended context: %v", err)
		}
		if p.Start(t.Context()) == nil {
			t.Error("started after Stop")
		}
		q := New(Config{Workers: 3, MaxQueue: 1, Logger: slog.New(slog.DiscardHandler)})
		if err := q.Stop(t.Context()); err != nil {
			t.Errorf("Stop before Start: %v", err)
		}
		if err := q.Start(t.Context()); !errors.Is(err, ErrClosed) {
			t.Errorf("Start after that: %v", err)
		}
	})
}

// Stop gives up on what is stuck when its context ends, and says how many and in what.
func TestStopNamesWhatIsStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Config{Workers: 3})
		gate := make(chan bool)
		submit(t, p, func() { waitInAFunction(gate) })
		j := newJob(func(j *job) { j.sub.Store(42); <-gate })
		p.Push(&j.Task, j.Task.Home())
		synctest.Wait()
		began := time.Now()
		err := p.Stop(within(t, 20*time.Millisecond))
		if took := time.Since(began); took != 20*time.Millisecond {
			t.Errorf("Stop took %v, want 20 ms", took)
		}
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		for _, want := range []string{"2 still busy", "session 7.1, 1/42", "TestStopNamesWhatIsStuck"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q does not say %q", err, want)
			}
		}
		close(gate)
		stop(t, p)
	})
}

func waitInAFunction(gate chan bool) { <-gate }

// Several Stops at once all wait for the end, each as long as its own context allows.
func TestStopsAtOnceWaitForTheSameEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Config{Workers: 2})
		var ran atomic.Int32
		for range 10 {
			submit(t, p, func() { time.Sleep(10 * time.Millisecond); ran.Add(1) })
		}
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if err := p.Stop(within(t, time.Second)); err != nil || ran.Load() != 10 {
					t.Errorf("%v, %d of 10 ran", err, ran.Load())
				}
			})
			wg.Go(func() {
				if err := p.Stop(within(t, time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("with too little time: %v", err)
				}
			})
		}
		wg.Wait()
	})
}

// What is queued behind a worker that is stuck is run by a spare one, also in Stop.
func TestStopRunsWhatWaitsBehindABlockedWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Config{Workers: 1, Spare: 1})
		gate := make(chan bool)
		ran := false
		submit(t, p, func() { <-gate })
		submit(t, p, func() { ran = true })
		err := p.Stop(within(t, 50*time.Millisecond))
		if !ran || err == nil || !strings.Contains(err.Error(), "1 still busy") {
			t.Errorf("the second function ran: %v; %v", ran, err)
		}
		close(gate)
		stop(t, p)
	})
}

// Stop from what runs on the pool would wait for itself: it is refused, and the pool
// goes on. From a goroutine that such a callback has started it is not.
func TestStopFromInsideIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p *Pool
		answers := make(chan error, 8)
		ask := func() { answers <- p.Stop(context.Background()) }
		p = start(t, Config{Workers: 1, StallAfter: 100 * time.Millisecond, OnStall: func(Stall) { ask() }})
		submit(t, p, ask)
		j := newJob(func(*job) { ask() })
		p.Push(&j.Task, j.Task.Home())
		synctest.Wait()
		submit(t, p, func() { time.Sleep(time.Second) }) // the hook asks
		time.Sleep(2 * time.Second)
		if len(answers) != 3 {
			t.Fatalf("%d answers, want 3", len(answers))
		}
		for range 3 {
			if err := <-answers; !errors.Is(err, ErrInCallback) {
				t.Errorf("got %v", err)
			}
		}
		if !p.Running() {
			t.Fatal("the pool has stopped")
		}
		other := start(t, Config{Workers: 1})
		submit(t, other, func() {
			if err := p.Stop(context.Background()); err != nil {
				t.Errorf("from another pool: %v", err)
			}
		})
		time.Sleep(time.Second)
		if p.Running() {
			t.Error("still running")
		}
		ended := make(chan error)
		submit(t, other, func() { go func() { ended <- other.Stop(context.Background()) }() })
		if err := <-ended; err != nil {
			t.Errorf("from a goroutine of its own: %v", err)
		}
	})
}
