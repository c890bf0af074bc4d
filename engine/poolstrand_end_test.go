package engine

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// A strand follows its pool's life, and has one of its own.
func TestStrandOutsideOfItsLife(t *testing.T) {
	p, err := NewPool(PoolConfig{Workers: 1, Logger: quiet})
	if err != nil {
		t.Fatal(err)
	}
	s, busy := p.Strand(), p.Strand()
	if err := s.Submit(func() { t.Error("ran") }); !errors.Is(err, ErrNotRunning) || errors.Is(err, ErrClosed) {
		t.Errorf("before Start: %v", err)
	}
	if err := p.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	var whys []Reason
	c := p.StrandWith(StrandConfig{OnClose: func(why Reason) { whys = append(whys, why) }})
	if why, closed := c.Closed(); why != 0 || closed || c.Pool() != p {
		t.Errorf("a new one: %v, %v", why, closed)
	}
	if err := c.CloseFor(ReasonStopped); err != nil {
		t.Error(err)
	}
	if err := c.Close(); !errors.Is(err, ErrClosed) || c.CloseIfIdle() {
		t.Errorf("closed twice: %v", err)
	}
	inside, gate := make(chan struct{}), make(chan struct{})
	submit(t, busy, func() { close(inside); <-gate })
	<-inside
	stopped := make(chan error, 1)
	go func() { stopped <- p.Stop(within(t, time.Minute)) }()
	waitFor(t, "Stop", func() bool { return !p.Running() })
	for name, s := range map[string]*Strand{"idle": s, "busy": busy} {
		if err := s.Submit(func() { t.Error("ran") }); !errors.Is(err, ErrClosed) {
			t.Errorf("%s, after Stop: %v", name, err)
		}
	}
	close(gate)
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if len(whys) != 1 || whys[0] != ReasonStopped {
		t.Errorf("OnClose: %v", whys)
	}
}

// What was accepted has run when Stop returns, to the last function, whoever submits
// meanwhile; and nothing runs after it.
func TestPoolStopRunsWhatStrandsHaveAccepted(t *testing.T) {
	for round := range 70 {
		p, err := NewPool(PoolConfig{Workers: 2, Logger: quiet})
		if err == nil {
			err = p.Start(context.Background())
		}
		if err != nil {
			t.Fatal(err)
		}
		var accepted, ran atomic.Int64
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for {
					err := p.Strand().Submit(func() { ran.Add(1) }) // an idle one each time
					if errors.Is(err, ErrClosed) {
						return
					}
					if err == nil {
						accepted.Add(1)
					}
				}
			})
		}
		for range round % 7 {
			runtime.Gosched()
		}
		if err := p.Stop(within(t, time.Minute)); err != nil {
			t.Fatal(err)
		}
		n := ran.Load()
		wg.Wait()
		if ran.Load() != n || n != accepted.Load() {
			t.Fatalf("round %d: %d accepted, %d had run when Stop returned, %d now", round, accepted.Load(), n, ran.Load())
		}
	}
}

// A server's own pool has strands too: its Stop waits for them, as for sessions, and counts
// what they lose.
func TestServerStopWaitsForItsStrands(t *testing.T) {
	begin := func(t *testing.T) (srv *Server, gate chan struct{}, ran *atomic.Int32) {
		srv = serve(t, Config{Workers: 1, SpareWorkers: Off}, &funcs{})
		gate, ran = make(chan struct{}), new(atomic.Int32)
		inside := make(chan struct{})
		s := srv.Pool().StrandWith(StrandConfig{Name: "ledger"})
		submit(t, s, func() { close(inside); <-gate })
		<-inside
		for range 100 {
			submit(t, s, func() { ran.Add(1) })
		}
		return srv, gate, ran
	}
	t.Run("in time", func(t *testing.T) {
		srv, gate, ran := begin(t)
		stopped := make(chan error, 1)
		go func() { stopped <- srv.Stop(within(t, time.Minute)) }()
		waitFor(t, "the pool's Stop", func() bool { return !srv.Pool().Running() })
		time.AfterFunc(stopGrace+200*time.Millisecond, func() { close(gate) })
		if err := <-stopped; err != nil || ran.Load() != 100 {
			t.Errorf("%v; %d of 100 ran", err, ran.Load())
		}
	})
	t.Run("too late", func(t *testing.T) {
		srv, gate, _ := begin(t)
		defer close(gate)
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		defer cancel()
		var loss *LossError
		if err := srv.Stop(ctx); !errors.As(err, &loss) || loss.Functions != 100 || !strings.Contains(err.Error(), "100 functions not run") || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

// Stop from a strand's function would wait for itself.
func TestStopFromAStrandIsRefused(t *testing.T) {
	srv := serve(t, Config{Workers: 1}, &funcs{})
	got := make(chan error, 2)
	submit(t, srv.Pool().Strand(), func() {
		got <- srv.Pool().Stop(context.Background())
		got <- srv.Stop(context.Background())
	})
	for range 2 {
		if err := <-got; !errors.Is(err, ErrInCallback) {
			t.Errorf("got %v", err)
		}
	}
}

// CloseIfIdle is exact: where it succeeds nothing that was accepted is left, and nothing is
// accepted any more; where it doesn't, the strand goes on.
func TestCloseIfIdleLosesNothing(t *testing.T) {
	p := runPool(t, PoolConfig{Workers: 2})
	closed, kept := 0, 0
	for round := range 2000 {
		s := p.Strand()
		var won, behind, deciding atomic.Bool
		decided, sent := make(chan struct{}), make(chan struct{})
		submit(t, s, func() {
			deciding.Store(true)
			for range round % 40 * 500 {
				won.Load() // a little later each time
			}
			won.Store(s.CloseIfIdle())
			close(decided)
		})
		ran := make(chan struct{})
		var err error
		go func() {
			for !deciding.Load() {
				runtime.Gosched()
			}
			err = s.Submit(func() { behind.Store(won.Load()); close(ran) })
			close(sent)
		}()
		<-decided
		<-sent
		switch {
		case err == nil:
			awaited(t, "what was accepted", ran)
			if behind.Load() {
				t.Fatal("a function was accepted, and the strand closed as idle in front of it")
			}
			if !won.Load() {
				kept++
			}
		case !errors.Is(err, ErrClosed) || !won.Load():
			t.Fatalf("closed %v: %v", won.Load(), err)
		default:
			closed++
		}
	}
	t.Logf("closed %d times, kept %d times", closed, kept)
}

// A strand made by Next takes functions at once and runs them when the one before it has
// ended, OnClose included, in whatever state that is then; so do several of one.
func TestNextBeginsWhenTheLastHasEnded(t *testing.T) {
	p := runPool(t, PoolConfig{Workers: 4})
	for round := range 300 {
		var inside atomic.Int32
		var order []int // without a lock
		const chain = 4
		done := make(chan struct{})
		step := func(n int) func() {
			return func() {
				if inside.Add(1) != 1 {
					t.Error("two strands of a chain at once")
				}
				order = append(order, n)
				runtime.Gosched()
				inside.Add(-1)
			}
		}
		var all [chain]*Strand
		var wg sync.WaitGroup
		for i := range all {
			cfg := StrandConfig{OnClose: func(Reason) {
				step(i)()
				if i == chain-1 {
					close(done)
				}
			}}
			if i == 0 {
				all[i] = p.StrandWith(cfg)
			} else {
				all[i] = all[i-1].Next(cfg)
			}
			submit(t, all[i], step(i))
			submit(t, all[i], step(i))
			wg.Go(func() { all[i].Close() })
		}
		wg.Wait()
		awaited(t, "the chain", done)
		if len(order) != 3*chain || !slices.IsSorted(order) {
			t.Fatalf("round %d: ran in the order %v", round, order)
		}
	}
	first := p.Strand()
	var ended atomic.Bool
	var wg sync.WaitGroup
	for i := range 8 {
		if i == 4 {
			submit(t, first, func() { time.Sleep(time.Millisecond); ended.Store(true) })
			first.Close()
		}
		wg.Add(1)
		submit(t, first.Next(StrandConfig{}), func() {
			if !ended.Load() {
				t.Error("it has begun before the one in front of it has ended")
			}
			wg.Done()
		})
	}
	wg.Wait()
}

// An idle strand is no goroutine, stands in no list, and is little more than its fields.
func TestIdleStrandsCostLittle(t *testing.T) {
	p := runPool(t, PoolConfig{Workers: 2, Spare: Off})
	const n = 50_000
	all := make([]*Strand, n)
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	goroutines, before := runtime.NumGoroutine(), heap()
	var left sync.WaitGroup
	left.Add(n)
	for i := range all {
		all[i] = p.Strand()
		submit(t, all[i], left.Done)
	}
	left.Wait()
	waitFor(t, "idle workers", func() bool { return p.Stats().Idle >= 2 })
	each := float64(heap()-before) / n
	t.Logf("%.0f bytes a strand", each)
	if each > 160 {
		t.Errorf("an idle strand takes %.0f bytes, want at most 160", each)
	}
	if now := runtime.NumGoroutine(); now > goroutines+2 {
		t.Errorf("%d goroutines, there were %d", now, goroutines)
	}
	if st := p.Stats(); st.Sessions != 0 {
		t.Errorf("%d in the run queue", st.Sessions)
	}
	collected := make(chan struct{})
	runtime.AddCleanup(all[0], func(int) { close(collected) }, 0)
	clear(all)
	for end := time.Now().Add(time.Minute); ; {
		runtime.GC()
		select {
		case <-collected:
			return
		case <-time.After(time.Millisecond):
		}
		if time.Now().After(end) {
			t.Fatal("a strand that nobody refers to is not collected")
		}
	}
}

// No goroutine is left of a pool with strands in every state: the bubble would not end.
func TestStrandsLeaveNoGoroutine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, err := NewPool(PoolConfig{Workers: 2, Logger: quiet})
		if err == nil {
			err = p.Start(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
		s := p.Strand()
		s.Submit(func() { time.Sleep(time.Second) })
		s.Submit(func() { panic("of the test") })
		p.Strand().Submit(func() {})
		c := p.Strand()
		c.Next(StrandConfig{}).Submit(func() {})
		c.Close()
		if err := p.Stop(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
