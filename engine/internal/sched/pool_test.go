package sched

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// logText is a logger, and what it has written.
type logText struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *logText) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(b)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (l *logText) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

// start makes a pool that runs until the test ends.
func start(t testing.TB, cfg Config) *Pool {
	t.Helper()
	if cfg.MaxQueue == 0 {
		cfg.MaxQueue = 8192
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := New(cfg)
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// stop stops a pool that has nothing that blocks.
func stop(t testing.TB, p *Pool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := p.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func submit(t testing.TB, p *Pool, fn func()) {
	t.Helper()
	if err := p.Submit(fn); err != nil {
		t.Fatal(err)
	}
}

// job is a task that runs one function a turn.
type job struct {
	Task
	run  func(*job)
	step atomic.Uint32
	long atomic.Int32 // calls of Long
	sub  atomic.Uint32
}

func newJob(run func(*job)) *job {
	j := &job{run: run}
	j.Init(j)
	return j
}

func (j *job) Run()         { j.step.Store(0); j.run(j) }
func (j *job) Step() uint32 { return j.step.Load() }
func (j *job) Long()        { j.long.Add(1) }
func (j *job) Running() (string, uint16, uint16) {
	return "7.1", 1, uint16(j.sub.Load())
}

// Whatever is accepted runs exactly once; whatever is refused is refused at once.
func TestPoolRunsWhatItAcceptsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Config{Workers: 1, MaxQueue: 100})
		gate := make(chan bool)
		submit(t, p, func() { <-gate })
		synctest.Wait()
		var ran, accepted, refused atomic.Int64
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
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
			})
		}
		wg.Wait()
		if accepted.Load() != 100 || refused.Load() != 900 || p.Stats().Refused != 900 {
			t.Errorf("%d accepted, %d refused, counted %d", accepted.Load(), refused.Load(), p.Stats().Refused)
		}
		close(gate)
		stop(t, p)
		if ran.Load() != 100 {
			t.Errorf("%d ran, want 100", ran.Load())
		}
	})
}

// Tasks and functions take turns, each kind in its order; a task may be pushed again
// from its own turn.
func TestTasksAndFunctionsTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Config{Workers: 1})
		gate := make(chan bool)
		submit(t, p, func() { <-gate })
		synctest.Wait()
		var got strings.Builder
		for _, name := range []string{"a", "b"} {
			again := true
			j := newJob(func(j *job) {
				got.WriteString(name)
				if again {
					again = false
					p.Push(&j.Task, j.Task.Home())
				}
			})
			p.Push(&j.Task, j.Task.Home())
			submit(t, p, func() { got.WriteString(strings.ToUpper(name)) })
		}
		if st := p.Stats(); st.Tasks != 2 || st.Queue != 2 {
			t.Errorf("%d tasks, %d functions wait, want 2 and 2", st.Tasks, st.Queue)
		}
		close(gate)
		stop(t, p)
		if got.String() != "aAbBab" {
			t.Errorf("got %s", got.String())
		}
	})
}

// Blocked workers are replaced as long as there are spare ones, and these go again.
func TestSpareWorkersTakeTheBlockedOnesPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := start(t, Config{Workers: 2, Spare: 20})
		gate := make(chan bool)
		var inside atomic.Int32
		for range 22 {
			submit(t, p, func() { inside.Add(1); <-gate })
		}
		time.Sleep(100 * time.Millisecond)
		if st := p.Stats(); st.Workers != 22 || st.Spawned != 20 || inside.Load() != 22 {
			t.Errorf("%d workers, %d spawned, %d run at once, want 22, 20, 22", st.Workers, st.Spawned, inside.Load())
		}
		done := false
		submit(t, p, func() { done = true })
		time.Sleep(100 * time.Millisecond)
		if st := p.Stats(); st.Blocked != 22 || st.Queue != 1 {
			t.Errorf("%d blocked, %d queued, want 22 and 1", st.Blocked, st.Queue)
		}
		close(gate)
		time.Sleep(5 * spareIdle)
		if st := p.Stats(); st.Workers != 2 || !done {
			t.Errorf("%d workers left, want 2; the last function ran: %v", st.Workers, done)
		}
		stop(t, p)
	})
}

// However often spare workers are retired, the base workers stay.
func TestBaseWorkersAreNeverRetired(t *testing.T) {
	p := start(t, Config{Workers: 2, Spare: 8})
	defer stop(t, p)
	for range 300 {
		p.mu.Lock()
		for i := range 6 {
			p.spawn(p.shards[i%len(p.shards)])
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

// A callback that panics or ends its goroutine does not end a worker, also while the
// pool stops; the stack is logged once for each place.
func TestGoexitTakesNoWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log logText
		p := start(t, Config{Workers: 2, Logger: log.logger()})
		for range 20 {
			submit(t, p, runtime.Goexit)
			submit(t, p, func() { panic("on purpose") })
		}
		synctest.Wait()
		if st := p.Stats(); st.Panics != 40 || st.Workers != 2 || st.Idle != 2 {
			t.Errorf("%d panics, %d workers, %d idle, want 40, 2, 2", st.Panics, st.Workers, st.Idle)
		}
		if n := strings.Count(log.String(), "on purpose"); n == 0 || strings.Count(log.String(), "callback=Pool.Submit") != 2 {
			t.Errorf("want two places logged, got %s", log.String())
		}
		gate := make(chan bool)
		var ran atomic.Int32
		for range 2 {
			submit(t, p, func() { <-gate })
		}
		for range 10 {
			submit(t, p, runtime.Goexit)
			submit(t, p, func() { ran.Add(1) })
		}
		synctest.Wait()
		go func() { time.Sleep(time.Millisecond); close(gate) }()
		stop(t, p)
		if ran.Load() != 10 {
			t.Errorf("%d of 10 functions ran", ran.Load())
		}
	})
}

// Submit distinguishes a pool that isn't running yet from one that has stopped.
func TestSubmitOutsideOfALife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := New(Config{Workers: 1, MaxQueue: 1, Logger: slog.New(slog.DiscardHandler)})
		if err := p.Submit(func() {}); !errors.Is(err, ErrNotRunning) || errors.Is(err, ErrClosed) || errors.Is(err, net.ErrClosed) {
			t.Errorf("before Start: %v", err)
		}
		var ran bool
		j := newJob(func(*job) { ran = true })
		p.Push(&j.Task, j.Task.Home())
		p.Start(t.Context())
		synctest.Wait()
		if !ran {
			t.Error("a task pushed before Start did not run")
		}
		stop(t, p)
		if err := p.Submit(func() {}); !errors.Is(err, ErrClosed) || !errors.Is(err, net.ErrClosed) || errors.Is(err, ErrNotRunning) {
			t.Errorf("after Stop: %v", err)
		}
	})
}

// Push and Submit allocate nothing.
func TestPoolAllocatesNothing(t *testing.T) {
	p := start(t, Config{Workers: 1})
	defer stop(t, p)
	done := make(chan bool)
	j := newJob(func(*job) { done <- true })
	fn := func() { done <- true }
	if n := testing.AllocsPerRun(200, func() {
		p.Push(&j.Task, j.Task.Home())
		<-done
		p.Submit(fn)
		<-done
	}); n >= 1 {
		t.Errorf("%v allocations", n)
	}
}
