package sched

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"millrace/internal/hist"
	"millrace/internal/tally"
)

var (
	// ErrClosed: the pool stops or has stopped. It is net.ErrClosed.
	ErrClosed = fmt.Errorf("engine: closed: %w", net.ErrClosed)
	// ErrNotRunning: the pool hasn't been started yet. It is not ErrClosed.
	ErrNotRunning = errors.New("engine: the pool is not running: start it first")
	// ErrOverloaded: MaxQueue functions wait already.
	ErrOverloaded = errors.New("engine: overloaded")
	// ErrInCallback: Stop was called by what it would wait for.
	ErrInCallback = errors.New("engine: Stop called from a callback would wait for itself: call it on a goroutine of its own")
)

// Config sets up a Pool. Every field counts as it stands.
type Config struct {
	Workers    int // at least 1
	Spare      int // most extra workers while others are blocked
	MaxQueue   int // functions that wait; at least 1
	StallAfter time.Duration
	OnStall    func(Stall) // may be nil
	Logger     *slog.Logger
	// Manual, if not nil, makes the pool a manual one (see manual.go). When something is queued a
	// value is sent to it, unless it is full.
	Manual chan struct{}
}

// Pool runs tasks and functions on its workers.
//
// What waits stands in shards, each with a lock and workers of its own, so that who pushes
// and who takes share a lock with few others, however many processors there are: see shard.
// A task is on one of them at most once, so they need no limit for tasks.
type Pool struct {
	cfg    Config
	panics *Panics
	watch  *Watch // nil: no stall is reported
	epoch  time.Time
	shards []*shard

	poke  chan struct{} // wakes the monitor; capacity 1. Config.Manual, if it is not nil
	empty chan struct{} // closed when the last worker of a pool that stops has ended
	ended chan struct{} // closed when the monitor has ended too

	_        [64]byte
	watching atomic.Bool  // the monitor is awake
	state    atomic.Int32 // a state; stored under mu
	idlers   idlers
	_        [64]byte

	mu       tally.Mutex // taken before a shard's
	workers  []*worker   // guarded by mu
	retiring int         // guarded by mu; spare workers that were told to end and have not yet
	before   uint64      // guarded by mu; what workers that have ended had run

	free []*worker // guarded by mu; of a manual pool, those that wait to be given something, the oldest first
	made int       // guarded by mu; workers of a manual pool ever started

	// The monitor's own, or Look's.
	long   []Owner // turns that last long
	held   []heldUp
	needed time.Time // when spare workers of a manual pool were last needed

	refused, spawned atomic.Uint64
}

type state = int32

const (
	stateNew state = iota
	stateRunning
	stateStopping
	stateStopped
)

// Stats is a snapshot of a Pool.
type Stats struct {
	Workers, Idle, Blocked int    // Blocked: with one turn or function for longer than BlockedAfter
	Tasks, Queue           int    // tasks and functions that wait
	MaxQueue               int    // how many functions may
	Ran                    uint64 // turns and functions run
	Refused                uint64 // ErrOverloaded
	Spawned                uint64 // spare workers ever started
	Panics                 uint64 // in functions given to Submit, and of Panicked
	Stalls                 uint64 // callbacks longer than StallAfter
}

// New makes a pool; Start starts it.
func New(cfg Config) *Pool {
	p := &Pool{
		cfg: cfg, panics: NewPanics(cfg.Logger), epoch: time.Now(),
		poke: make(chan struct{}, 1), empty: make(chan struct{}), ended: make(chan struct{}),
	}
	p.watch = NewWatch(cfg.StallAfter, cfg.Logger, cfg.OnStall, p.panics)
	if cfg.Manual != nil {
		p.poke = cfg.Manual
	}
	p.shards = newShards(cfg, min(cfg.Workers, runtime.GOMAXPROCS(0), maxShards))
	return p
}

// now is nanoseconds since the pool was made, at least 1.
func (p *Pool) now() int64 { return int64(time.Since(p.epoch)) + 1 }

// Start starts the workers and the monitor, once. When ctx has ended nothing happens,
// and Start may be called again.
func (p *Pool) Start(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("engine: start of the pool: %w", err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	switch p.state.Load() {
	case stateRunning:
		return errors.New("engine: the pool has been started before")
	case stateStopping, stateStopped:
		return fmt.Errorf("engine: start of the pool: %w", ErrClosed)
	}
	p.state.Store(stateRunning)
	for i := range p.cfg.Workers {
		s := p.shards[i%len(p.shards)]
		s.base++
		p.spawn(s)
	}
	if p.cfg.Manual != nil {
		go p.await()
	} else {
		go p.monitor()
	}
	return nil
}

// Stop refuses further functions, lets the workers finish what is queued and ends them.
// When ctx ends first it returns ctx's error with what the workers are stuck in; they go
// on, and Stop may be called again. From a callback of this pool it is ErrInCallback,
// and nothing happens.
func (p *Pool) Stop(ctx context.Context) error {
	if _, on := p.Current(); on {
		return ErrInCallback
	}
	p.mu.Lock()
	switch p.state.Load() {
	case stateNew:
		p.state.Store(stateStopped)
		close(p.ended)
	case stateRunning:
		p.state.Store(stateStopping)
		for _, s := range p.shards {
			p.wakeAll(s)
		}
	}
	p.mu.Unlock()
	if p.cfg.Manual != nil {
		p.hint()
	}
	select {
	case <-p.ended:
		return nil
	default:
	}
	select {
	case <-p.ended:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("engine: stop of the pool: %s: %w", p.stuck(), ctx.Err())
	}
}

// Running tells whether Submit is accepted.
func (p *Pool) Running() bool { return p.state.Load() == stateRunning }

// Current tells whether the calling goroutine runs a callback of the pool, and whose: nil
// for a function or a hook. It takes about a microsecond.
func (p *Pool) Current() (o Owner, on bool) {
	id := GoroutineID()
	if p.watch.OnReporter(id) {
		return nil, true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, w := range p.workers {
		if w.id.Load() == id {
			if t := w.task.Load(); t != nil {
				return t.owner, true
			}
			return nil, true
		}
	}
	return nil, false
}

// Submit queues fn to be run on a worker. It never blocks. It returns ErrOverloaded when MaxQueue
// functions wait, ErrNotRunning before Start, and ErrClosed after Stop was called. Any goroutine.
func (p *Pool) Submit(fn func()) error {
	at := uint(0)
	if len(p.shards) > 1 {
		at = uint(rand.Uint32())
	}
	for {
		taken := p.fnsTaken()
		for i := range uint(len(p.shards)) {
			s := p.shardOf(at%uint(len(p.shards)) + i)
			if s.isFull() {
				continue
			}
			s.mu.Lock()
			if err := p.refusal(); err != nil {
				s.mu.Unlock()
				return err
			}
			if s.pushFn(fn) {
				p.signal(s)
				return nil
			}
			s.mu.Unlock()
		}
		if err := p.refusal(); err != nil {
			return err
		}
		if p.fnsTaken() == taken { // or one that was full has had room since
			p.refused.Add(1)
			return ErrOverloaded
		}
	}
}

// Push queues a task that is not on the queue. Before Start it waits for the workers. home
// says whose workers run it if they can: it is best the same for tasks that come from one
// goroutine; see Task.Home.
func (p *Pool) Push(t *Task, home uint) {
	s := p.shardOf(home)
	s.mu.Lock()
	s.push(t, p)
	p.signal(s)
}

// TryPush is Push for a task whose owner may outlive the pool. It returns ErrNotRunning before Start,
// and ErrClosed after Stop was called. A task that it has queued is run, also if Stop is called then.
func (p *Pool) TryPush(t *Task, home uint) error {
	s := p.shardOf(home)
	s.mu.Lock()
	if err := p.refusal(); err != nil {
		s.mu.Unlock()
		return err
	}
	s.push(t, p)
	p.signal(s)
	return nil
}

func (p *Pool) shardOf(home uint) *shard { return p.shards[home%uint(len(p.shards))] }

// refusal returns why Submit and TryPush refuse; nil if they accept. A caller that holds a shard's lock
// may queue on it after nil: the shard's workers do not end before that.
func (p *Pool) refusal() error {
	switch p.state.Load() {
	case stateRunning:
		return nil
	case stateNew:
		return ErrNotRunning
	}
	return ErrClosed
}

// Shards is how many parts the run queue has.
func (p *Pool) Shards() int { return len(p.shards) }

// Stopping tells whether Stop has been called.
func (p *Pool) Stopping() bool { return p.state.Load() > stateRunning }

// TasksBusy tells whether a task is queued or has its turn.
func (p *Pool) TasksBusy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.shards { // all at once: a task may go from one to another
		s.mu.Lock()
		defer s.mu.Unlock()
	}
	return slices.ContainsFunc(p.shards, func(s *shard) bool { return s.tasks.n > 0 }) ||
		slices.ContainsFunc(p.workers, func(w *worker) bool { return w.task.Load() != nil })
}

// Panicked is called in a deferred function of a task that belongs to nobody else, with
// what recover gave: it is reported and counted as that of a function is.
func (p *Pool) Panicked(callback, name string, v any) { p.panics.Report(callback, name, 0, v) }

// Waits is how long tasks waited on the queue, of a sample of them.
func (p *Pool) Waits() (all hist.Snapshot) {
	for _, s := range p.shards {
		one := s.waits.Snapshot()
		all.Merge(&one)
	}
	return all
}

// signal wakes a worker for what has just been queued on a shard, whose lock it gives up.
func (p *Pool) signal(s *shard) {
	p.wakeFor(s)
	if !p.watching.Load() {
		p.hint()
	}
}

// hint wakes the monitor, or who has the pool in hand.
func (p *Pool) hint() {
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

// Stats returns a snapshot.
func (p *Pool) Stats() Stats {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	tasks, fns, idle := p.totals()
	st := Stats{
		Workers: len(p.workers), Idle: idle, Tasks: tasks, Queue: fns, MaxQueue: p.cfg.MaxQueue,
		Ran: p.before, Refused: p.refused.Load(), Spawned: p.spawned.Load(),
		Panics: p.panics.Total(), Stalls: p.watch.Stalls(),
	}
	for _, w := range p.workers {
		st.Ran += w.ran.Load()
		if since := w.since.Load(); since != 0 && now-since > int64(BlockedAfter) {
			st.Blocked++
		}
	}
	return st
}
