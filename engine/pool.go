package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// PoolConfig sets up a Pool. Zero means the default that the field's comment names.
type PoolConfig struct {
	Workers  int // twice the number of CPUs
	Spare    int // most extra workers while others are blocked; 256, Off for none
	MaxQueue int // functions that wait in Submit; 8,192
	Logger   *slog.Logger
}

// Pool is the worker pool: strands and submitted functions run on it. It may be shared
// by several servers.
//
// The run queue is one mutex, one condition variable and an intrusive list of
// sessions; each session is on it at most once, so it needs no limit of its own.
type Pool struct {
	cfg    PoolConfig
	panics *panicLog
	epoch  time.Time

	mu         sync.Mutex
	wake       *sync.Cond
	head, tail *Session // guarded by mu; linked by Session.in.next
	sessions   int      // guarded by mu; how many
	fns        ring     // guarded by mu
	fnTurn     bool     // guarded by mu; functions and sessions take turns
	workers    []*worker
	idle       int // guarded by mu; workers in wake.Wait
	retire     int // guarded by mu; spare workers that should end
	state      poolState

	done     sync.WaitGroup
	monitor  chan struct{} // wakes the monitor; capacity 1
	watching atomic.Bool   // the monitor is awake
	quit     chan struct{}

	ran, refused, spawned atomic.Uint64
}

type poolState uint8

const (
	poolNew poolState = iota
	poolRunning
	poolStopping
	poolStopped
)

type worker struct {
	since   atomic.Int64            // when its batch began, on the pool's clock; 0: waiting
	session atomic.Pointer[Session] // whose strand it runs

	seen int64  // the since of the monitor's last look; the monitor's own, as are these
	step uint32 // the session's step then
	at   int64  // when that step was first seen, or its batch began
}

// PoolStats is a snapshot of a Pool.
type PoolStats struct {
	Workers  int    // now, spare ones included
	Idle     int    // of them waiting for work
	Blocked  int    // of them inside one batch for more than 4 ms
	Sessions int    // strands in the run queue
	Queue    int    // functions waiting
	Ran      uint64 // batches and functions run
	Refused  uint64 // ErrOverloaded
	Spawned  uint64 // spare workers ever started
	Panics   uint64 // in functions given to Pool.Submit
}

// NewPool checks the settings; Start starts the workers.
func NewPool(cfg PoolConfig) (*Pool, error) {
	or(&cfg.Workers, 2*runtime.NumCPU())
	or(&cfg.Spare, 256)
	or(&cfg.MaxQueue, 8192)
	or(&cfg.Logger, slog.Default())
	off(&cfg.Spare)
	if cfg.Workers < 1 || cfg.Spare < 0 || cfg.MaxQueue < 1 {
		return nil, fmt.Errorf("engine: pool of %d workers, %d spare, queue %d: workers and queue must be at least 1, spare at least 0",
			cfg.Workers, cfg.Spare, cfg.MaxQueue)
	}
	p := &Pool{cfg: cfg, panics: newPanicLog(cfg.Logger), epoch: time.Now(), monitor: make(chan struct{}, 1), quit: make(chan struct{})}
	p.wake = sync.NewCond(&p.mu)
	p.fns.max = cfg.MaxQueue
	return p, nil
}

// now is nanoseconds since the pool was made, at least 1.
func (p *Pool) now() int64 { return int64(time.Since(p.epoch)) + 1 }

// Start starts the workers. A pool starts once.
func (p *Pool) Start(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != poolNew {
		return errors.New("engine: the pool has been started before")
	}
	p.state = poolRunning
	for range p.cfg.Workers {
		p.spawn()
	}
	p.done.Add(1)
	go p.watch()
	return nil
}

// Stop lets the workers finish what is queued and ends them. When ctx ends first it
// returns ctx's error; workers stuck in a handler are left behind. It may be called twice.
func (p *Pool) Stop(ctx context.Context) error {
	p.mu.Lock()
	if p.state == poolRunning {
		p.state = poolStopping
		close(p.quit)
	} else if p.state == poolNew {
		p.state = poolStopped
	}
	p.wake.Broadcast()
	p.mu.Unlock()
	ended := make(chan struct{})
	go func() {
		p.done.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		p.mu.Lock()
		p.state = poolStopped
		p.mu.Unlock()
		return nil
	case <-ctx.Done():
		return fmt.Errorf("engine: pool: workers still busy: %w", ctx.Err())
	}
}

// Running tells whether Submit is accepted.
func (p *Pool) Running() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state == poolRunning
}

// Submit runs fn on a worker. It never blocks: ErrOverloaded when MaxQueue functions
// wait already, ErrClosed when the pool isn't running. Functions of different calls run
// in any order and at the same time; for a session's order use Session.Submit.
func (p *Pool) Submit(fn func()) error {
	p.mu.Lock()
	if p.state != poolRunning {
		p.mu.Unlock()
		return ErrClosed
	}
	if !p.fns.push(fn) {
		p.mu.Unlock()
		p.refused.Add(1)
		return ErrOverloaded
	}
	p.signal()
	return nil
}

// signal wakes a worker for what was just queued. It unlocks mu.
func (p *Pool) signal() {
	idle := p.idle > 0
	if idle {
		p.wake.Signal()
	}
	p.mu.Unlock()
	if !p.watching.Load() {
		select {
		case p.monitor <- struct{}{}:
		default:
		}
	}
}

// spawn starts a worker. mu is held.
func (p *Pool) spawn() {
	w := new(worker)
	p.workers = append(p.workers, w)
	p.done.Add(1)
	go p.work(w)
}

// work is a worker's goroutine.
func (p *Pool) work(w *worker) {
	clean := false
	defer func() {
		p.mu.Lock()
		p.forget(w)
		if !clean && (p.state == poolRunning || p.head != nil || p.fns.len() > 0) {
			p.spawn() // a callback ended this goroutine with runtime.Goexit
		}
		p.mu.Unlock()
		p.done.Done()
	}()
	for {
		s, fn := p.next(w)
		if s == nil && fn == nil {
			clean = true
			return
		}
		w.since.Store(p.now())
		if s != nil {
			w.session.Store(s)
			s.run()
			w.session.Store(nil)
		} else {
			p.call(fn)
		}
		w.since.Store(0)
		p.ran.Add(1)
	}
}

// forget takes a worker that ends off the list. mu is held.
func (p *Pool) forget(w *worker) {
	for i, x := range p.workers {
		if x == w {
			p.workers = append(p.workers[:i], p.workers[i+1:]...)
			return
		}
	}
}

// next waits for work; both nil end the worker.
func (p *Pool) next(w *worker) (*Session, func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if p.head != nil && (!p.fnTurn || p.fns.len() == 0) {
			s := p.head
			p.head = s.in.next
			if p.head == nil {
				p.tail = nil
			}
			s.in.next = nil
			p.sessions--
			p.fnTurn = true
			return s, nil
		}
		p.fnTurn = false
		if fn := p.fns.pop(); fn != nil {
			return nil, fn
		}
		if p.head != nil {
			continue
		}
		if p.state != poolRunning {
			return nil, nil
		}
		if p.retire > 0 && len(p.workers) > p.cfg.Workers {
			p.retire--
			p.forget(w) // now, or retireSpare would count it once more
			return nil, nil
		}
		p.idle++
		p.wake.Wait()
		p.idle--
	}
}

func (p *Pool) call(fn func()) {
	ok := false
	defer func() {
		if !ok {
			p.panics.report("Pool.Submit", 0, 0, recover())
		}
	}()
	fn()
	ok = true
}

// Stats returns a snapshot.
func (p *Pool) Stats() PoolStats {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	st := PoolStats{
		Workers: len(p.workers), Idle: p.idle, Sessions: p.sessions, Queue: p.fns.len(),
		Ran: p.ran.Load(), Refused: p.refused.Load(), Spawned: p.spawned.Load(), Panics: p.panics.total.Load(),
	}
	for _, w := range p.workers {
		if since := w.since.Load(); since != 0 && now-since > int64(blockedAfter) {
			st.Blocked++
		}
	}
	return st
}
