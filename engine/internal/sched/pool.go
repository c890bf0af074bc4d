package sched

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/internal/hist"
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
	// Manual makes the pool a manual one, and is told, if it has room, when something is
	// queued; nil: the workers take what there is.
	Manual chan struct{}
}

// Pool runs tasks and functions on its workers.
//
// The run queue is one mutex, one condition variable and an intrusive list of tasks;
// each task is on it at most once, so it needs no limit of its own.
type Pool struct {
	cfg    Config
	panics *Panics
	watch  *Watch // nil: no stall is reported
	epoch  time.Time

	mu      sync.Mutex
	wake    *sync.Cond
	tasks   queue     // guarded by mu
	fns     ring      // guarded by mu
	fnTurn  bool      // guarded by mu; functions and tasks take turns
	pushes  uint      // guarded by mu
	timed   *Task     // guarded by mu; the queued task whose wait is measured; nil: none
	timedAt int64     // guarded by mu; when it was queued
	workers []*worker // guarded by mu
	idle    int       // guarded by mu; workers in wake.Wait
	retire  int       // guarded by mu; spare workers that should end
	state   state     // guarded by mu

	poke     chan struct{} // wakes the monitor; capacity 1. Config.Manual, if it is not nil
	watching atomic.Bool   // the monitor is awake
	empty    chan struct{} // closed when the last worker of a pool that stops has ended
	ended    chan struct{} // closed when the monitor has ended too

	free []*worker // guarded by mu; of a manual pool, those that wait to be given something, the oldest first
	made int       // guarded by mu; workers of a manual pool ever started

	// The monitor's own, or Look's.
	long   []Owner // turns that last long
	held   []heldUp
	needed time.Time // when spare workers of a manual pool were last needed

	stopping              atomic.Bool // state is past stateRunning; set under mu
	ran, refused, spawned atomic.Uint64
	waits                 hist.Histogram
}

type state uint8

const (
	stateNew state = iota
	stateRunning
	stateStopping
	stateStopped
)

// Stats is a snapshot of a Pool.
type Stats struct {
	Workers, Idle, Blocked int    // Blocked: inside one callback, or eight quick ones, for more than BlockedAfter
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
	p.wake = sync.NewCond(&p.mu)
	p.fns.max = cfg.MaxQueue
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
	switch p.state {
	case stateRunning:
		return errors.New("engine: the pool has been started before")
	case stateStopping, stateStopped:
		return fmt.Errorf("engine: start of the pool: %w", ErrClosed)
	}
	p.state = stateRunning
	for range p.cfg.Workers {
		p.spawn()
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
	p.stopping.Store(true)
	switch p.state {
	case stateNew:
		p.state = stateStopped
		close(p.ended)
	case stateRunning:
		p.state = stateStopping
		p.wake.Broadcast()
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
func (p *Pool) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state == stateRunning
}

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

// Submit runs fn on a worker. It never blocks: ErrOverloaded when MaxQueue functions
// wait already, ErrNotRunning before Start, ErrClosed from Stop on.
func (p *Pool) Submit(fn func()) error {
	p.mu.Lock()
	if err := p.refusal(); err != nil {
		p.mu.Unlock()
		return err
	}
	if !p.fns.push(fn) {
		p.mu.Unlock()
		p.refused.Add(1)
		return ErrOverloaded
	}
	p.signal()
	return nil
}

// Push queues a task that is not on the queue. Before Start it waits for the workers.
func (p *Pool) Push(t *Task) {
	p.mu.Lock()
	p.push(t)
	p.signal()
}

// TryPush is Push for a task that nobody stops before the pool: its errors are those of
// Submit, but for ErrOverloaded. A task that it has queued has its turn.
func (p *Pool) TryPush(t *Task) error {
	p.mu.Lock()
	if err := p.refusal(); err != nil {
		p.mu.Unlock()
		return err
	}
	p.push(t)
	p.signal()
	return nil
}

// refusal is why nothing from outside is taken; nil: it is. mu is held.
func (p *Pool) refusal() error {
	switch p.state {
	case stateRunning:
		return nil
	case stateNew:
		return ErrNotRunning
	}
	return ErrClosed
}

// Stopping tells whether Stop has been called.
func (p *Pool) Stopping() bool { return p.stopping.Load() }

// TasksBusy tells whether a task is queued or has its turn.
func (p *Pool) TasksBusy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.tasks.n > 0 || slices.ContainsFunc(p.workers, func(w *worker) bool { return w.task.Load() != nil })
}

// Panicked is called in a deferred function of a task that belongs to nobody else, with
// what recover gave: it is reported and counted as that of a function is.
func (p *Pool) Panicked(callback, name string, v any) { p.panics.Report(callback, name, 0, v) }

// How long tasks wait is measured of the first ones, and then of one in so many at most.
const (
	timedFirst = 256
	timedEvery = 32
)

// push puts a task on the queue. mu is held.
func (p *Pool) push(t *Task) {
	p.tasks.push(t)
	if p.pushes++; p.timed == nil && (p.pushes%timedEvery == 0 || p.pushes < timedFirst) {
		p.timed, p.timedAt = t, p.now()
	}
}

// pop takes the first task off the queue. mu is held.
func (p *Pool) pop() *Task {
	t := p.tasks.pop()
	if t == p.timed {
		p.waits.Observe(time.Duration(p.now() - p.timedAt))
		p.timed = nil
	}
	return t
}

// Waits is how long tasks waited on the queue, of a sample of them.
func (p *Pool) Waits() hist.Snapshot { return p.waits.Snapshot() }

// signal wakes a worker for what was just queued. It unlocks mu.
func (p *Pool) signal() {
	if p.idle > 0 {
		p.wake.Signal()
	}
	p.mu.Unlock()
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
	st := Stats{
		Workers: len(p.workers), Idle: p.idle, Tasks: p.tasks.n, Queue: p.fns.len(), MaxQueue: p.cfg.MaxQueue,
		Ran: p.ran.Load(), Refused: p.refused.Load(), Spawned: p.spawned.Load(),
		Panics: p.panics.Total(), Stalls: p.watch.Stalls(),
	}
	for _, w := range p.workers {
		if since := w.since.Load(); since != 0 && now-since > int64(BlockedAfter) {
			st.Blocked++
		}
	}
	return st
}
