package sched

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// startShards is start with that many shards, whatever the machine has.
func startShards(t testing.TB, cfg Config, shards int) *Pool {
	t.Helper()
	cfg.Logger = slog.New(slog.DiscardHandler)
	if cfg.MaxQueue == 0 {
		cfg.MaxQueue = 8192
	}
	p := New(cfg)
	p.shards = newShards(p.cfg, shards)
	if err := p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p
}

// Whatever is pushed onto a shard whose workers are busy is run at once where another has
// one that is idle: no time goes by.
func TestIdleWorkersOfOtherShardsHelp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := startShards(t, Config{Workers: 8}, 4)
		gate := make(chan bool)
		var inside atomic.Int32
		began := time.Now()
		for n := int32(1); n <= 8; n++ {
			j := newJob(func(*job) { inside.Add(1); <-gate })
			p.Push(&j.Task, 2) // which has two of the eight
			synctest.Wait()
			if got := inside.Load(); got != n || time.Now() != began {
				t.Fatalf("%d of %d tasks run, after %v", got, n, time.Since(began))
			}
		}
		close(gate)
		stop(t, p)
	})
}

// What waits on a shard whose workers are all blocked is run by those of the others, also
// while these have enough to do themselves.
func TestBlockedShardIsNotForgotten(t *testing.T) {
	p := startShards(t, Config{Workers: 4}, 2)
	gate := make(chan bool)
	var inside atomic.Int32
	var over atomic.Bool
	for range 2 {
		j := newJob(func(*job) { inside.Add(1); <-gate })
		p.Push(&j.Task, 0)
	}
	for range 8 {
		j := newJob(nil)
		j.run = func(j *job) {
			if !over.Load() {
				p.Push(&j.Task, 1)
			}
		}
		p.Push(&j.Task, 1)
	}
	for deadline := time.Now().Add(30 * time.Second); inside.Load() < 2; runtime.Gosched() {
		if time.Now().After(deadline) {
			t.Fatal("the blocking tasks did not begin")
		}
	}
	for range 20 {
		ran := make(chan bool)
		j := newJob(func(*job) { close(ran) })
		p.Push(&j.Task, 0)
		select {
		case <-ran:
		case <-time.After(30 * time.Second):
			over.Store(true)
			close(gate)
			t.Fatal("it was not run in 30 s")
		}
	}
	over.Store(true)
	close(gate)
	stop(t, p)
}

// MaxQueue is for all shards together, to the last one.
func TestMaxQueueIsForAllShards(t *testing.T) {
	for _, most := range []int{1, 3, 100} {
		synctest.Test(t, func(t *testing.T) {
			p := startShards(t, Config{Workers: 8, MaxQueue: most}, 8)
			gate := make(chan bool)
			for range 8 {
				submit(t, p, func() { <-gate })
				synctest.Wait()
			}
			accepted := 0
			for range 2 * most {
				switch err := p.Submit(func() {}); {
				case err == nil:
					accepted++
				case !errors.Is(err, ErrOverloaded):
					t.Error(err)
				}
			}
			if st := p.Stats(); accepted != most || st.Queue != most || st.Refused != uint64(most) {
				t.Errorf("%d accepted, %d wait, %d refused of %d", accepted, st.Queue, st.Refused, most)
			}
			close(gate)
			stop(t, p)
		})
	}
}

// line is a strand in miniature: what is put in is taken out in order, by one worker at a time.
type line struct {
	Task
	p       *Pool
	home    uint
	mu      sync.Mutex
	in      []int // guarded by mu
	queued  bool  // guarded by mu; on the run queue, or running
	next    int   // the turn's own
	running atomic.Int32
	bad     atomic.Int32
	blocks  bool
	done    *atomic.Int64
}

func (l *line) put(n int) {
	l.mu.Lock()
	l.in = append(l.in, n)
	push := !l.queued
	l.queued = true
	l.mu.Unlock()
	if push {
		l.p.Push(&l.Task, l.home)
	}
}

func (l *line) Run() {
	if l.running.Add(1) != 1 {
		l.bad.Add(1)
	}
	l.mu.Lock()
	n := l.in[0]
	l.in = l.in[1:]
	l.mu.Unlock()
	if n != l.next {
		l.bad.Add(1)
	}
	l.next++
	if l.blocks && n%50 == 0 {
		time.Sleep(6 * time.Millisecond) // longer than BlockedAfter
	}
	l.running.Add(-1)
	l.mu.Lock()
	more := len(l.in) > 0
	l.queued = more
	l.mu.Unlock()
	l.done.Add(1)
	if n%97 == 5 { // a worker ends in it
		if more {
			l.p.Push(&l.Task, l.home)
		}
		runtime.Goexit()
	}
	if more {
		l.p.Push(&l.Task, l.home)
	}
}

func (*line) Step() uint32                                { return 0 }
func (*line) Long()                                       {}
func (*line) Running() (session string, main, sub uint16) { return "", 0, 0 }

// Tasks with homes of their own, pushed from many goroutines while some block and workers
// die: each runs what it has in order, by one worker at a time, and nothing is left.
func TestOrderHoldsAcrossShards(t *testing.T) {
	for _, shards := range []int{1, 2, 8, 64} {
		p := startShards(t, Config{Workers: 2 * shards, Spare: 8}, shards)
		var done, fns atomic.Int64
		lines := make([]*line, 100)
		for i := range lines {
			lines[i] = &line{p: p, home: uint(i % 7), blocks: i%10 == 0, done: &done}
			lines[i].Init(lines[i])
		}
		const pushers, each = 10, 200
		var wg sync.WaitGroup
		for k := range pushers {
			wg.Go(func() {
				mine := lines[k*len(lines)/pushers:][:len(lines)/pushers]
				for n := range each {
					for _, i := range rand.Perm(len(mine)) {
						mine[i].put(n)
					}
					if n%8 == 0 {
						submit(t, p, func() { fns.Add(1) })
					}
				}
			})
		}
		wg.Wait()
		if shards == 1 { // Stop runs what waits
			stop(t, p)
		}
		want := int64(len(lines) * each)
		for deadline := time.Now().Add(60 * time.Second); done.Load() < want || fns.Load() < pushers*each/8; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("%d shards: %d of %d turns, %d of %d functions; %+v", shards, done.Load(), want, fns.Load(), pushers*each/8, p.Stats())
			}
		}
		for i, l := range lines {
			if l.bad.Load() != 0 {
				t.Errorf("%d shards: line %d ran out of order, or twice at once", shards, i)
			}
		}
		stop(t, p)
		if st := p.Stats(); st.Workers != 0 || st.Tasks != 0 || st.Queue != 0 {
			t.Errorf("%d shards: left behind: %+v", shards, st)
		}
	}
}

// A worker that is about to sleep is not missed by who pushes for another shard's just then.
func TestWorkerThatFallsAsleepIsNotMissed(t *testing.T) {
	p := startShards(t, Config{Workers: 2}, 2)
	defer stop(t, p)
	gate, holds := make(chan bool), make(chan bool)
	j := newJob(func(*job) { holds <- true; <-gate })
	p.Push(&j.Task, 0)
	<-holds
	defer close(gate)
	ran := make(chan bool, 1)
	first := newJob(func(*job) { ran <- true })
	second := newJob(func(*job) { ran <- true })
	timeout := time.NewTimer(30 * time.Second)
	for n := range 100_000 {
		for home, j := range []*job{second, first} { // behind each its worker goes to sleep
			p.Push(&j.Task, uint(home))
			select {
			case <-ran:
			case <-timeout.C:
				t.Fatalf("nobody runs what was pushed, in round %d: %+v", n, p.Stats())
			}
		}
	}
}
