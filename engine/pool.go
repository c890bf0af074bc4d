package engine

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"time"

	"millrace/engine/internal/machine"
	"millrace/engine/internal/sched"
	"millrace/internal/hist"
)

// PoolConfig configures a Pool. Zero means the default that the field's comment names.
type PoolConfig struct {
	Workers  int // twice the number of CPUs that this process may use
	Spare    int // most additional workers while others are blocked; 256, Off for none
	MaxQueue int // functions waiting in Submit; 8,192
	MaxTasks int // functions waiting in one Strand; 1,024
	// StrandMemory is how much memory the functions waiting in all Strands together may hold, in
	// bytes, counting about 100 for each in addition to what it refers to, with a precision of
	// 1/64; 64 MiB.
	StrandMemory int

	StallAfter time.Duration // a callback on a worker that takes longer is reported, see Config.StallAfter; 100 ms, Off for none
	OnStall    func(Stall)   // called for each such report, on a separate goroutine, one call at a time; may be nil
	Logger     *slog.Logger
}

// Stall is a report of a callback that blocks its goroutine.
type Stall struct {
	Where     string        // kind of goroutine: "worker" or "loop"
	Session   string        // ID of the session, or name of the Strand; "" for a function given to Pool.Submit
	Main, Sub uint16        // handle of the packet in OnSocketRead; 0/0 in any other callback
	At        time.Time     // when it was reported
	For       time.Duration // duration until then
	Stack     string        // of the goroutine; "" if the callback ended just before it was taken
}

// Place returns the place in the code: the innermost function of Stack outside the standard
// library, with its line; "" without a Stack.
func (s Stall) Place() string { return sched.StackPlace(s.Stack) }

// Pool is the worker pool, which runs strands and submitted functions. Several servers may share
// it.
type Pool struct {
	sched   *sched.Pool
	strands strands
}

// PoolStats is a snapshot of a Pool.
type PoolStats struct {
	Workers  int    // number of workers, spare ones included
	Idle     int    // idle workers
	Blocked  int    // workers inside one batch for more than 4 ms
	Sessions int    // strands in the run queue, of sessions and others
	Queue    int    // functions waiting
	MaxQueue int    // limit of Queue
	Ran      uint64 // batches and functions run
	Refused  uint64 // ErrOverloaded
	Spawned  uint64 // spare workers started
	Panics   uint64 // in functions given to Pool.Submit and to Strands
	Stalls   uint64 // callbacks that took longer than StallAfter

	StrandMemory  int    // of functions waiting in Strands, in bytes
	StrandRefused uint64 // ErrTasksFull and ErrMemory of Strands
	StrandStale   uint64 // ErrClosed of Strands
}

// WithDefaults returns a copy with defaults for all zero fields; Off stays Off.
func (c PoolConfig) WithDefaults() PoolConfig {
	or(&c.Workers, 2*runtime.GOMAXPROCS(0))
	or(&c.Spare, 256)
	or(&c.MaxQueue, 8192)
	or(&c.MaxTasks, 1024)
	or(&c.StrandMemory, 64<<20)
	or(&c.StallAfter, stallAfter)
	or(&c.Logger, slog.Default())
	return c
}

// NewPool checks the settings; Start starts the workers.
func NewPool(cfg PoolConfig) (*Pool, error) { return newPool(nil, cfg) }

// newPool is NewPool in the environment on; nil for the operating system.
func newPool(on machine.Machine, cfg PoolConfig) (*Pool, error) {
	cfg = cfg.WithDefaults()
	swap(&cfg.Spare, Off, 0)
	swap(&cfg.StallAfter, Off, 0)
	if cfg.Workers < 1 || cfg.Spare < 0 || cfg.MaxQueue < 1 || cfg.StallAfter < 0 {
		return nil, fmt.Errorf("engine: pool of %d workers, %d spare, queue %d, stall after %v: workers and queue must be at least 1, the others at least 0",
			cfg.Workers, cfg.Spare, cfg.MaxQueue, cfg.StallAfter)
	}
	if cfg.MaxTasks < 1 || cfg.StrandMemory < 1 {
		return nil, fmt.Errorf("engine: pool with MaxTasks %d, StrandMemory %d: both must be at least 1; 0 is the default", cfg.MaxTasks, cfg.StrandMemory)
	}
	c := sched.Config{
		Workers: cfg.Workers, Spare: cfg.Spare, MaxQueue: cfg.MaxQueue, StallAfter: cfg.StallAfter, OnStall: onStall(cfg.OnStall), Logger: cfg.Logger,
	}
	if on != nil {
		c.Manual = on.Hand()
	}
	p := &Pool{sched: sched.New(c)}
	if on != nil {
		on.Workers(p.sched)
	}
	p.strands.init(cfg, p.sched.Shards())
	return p, nil
}

func onStall(hook func(Stall)) func(sched.Stall) {
	if hook == nil {
		return nil
	}
	return func(s sched.Stall) { hook(Stall(s)) }
}

// Start starts the workers. A pool can be started only once. If ctx has ended, nothing is started,
// and Start may be called again.
func (p *Pool) Start(ctx context.Context) error { return p.sched.Start(ctx) }

// Stop lets the workers finish queued work and ends them. If ctx ends first, it returns an error
// that wraps ctx's and names what the workers are blocked in; they are abandoned. It may be called
// twice. In a callback or a function that this pool runs, or in its OnStall, it would wait for
// itself: then it returns ErrInCallback and does nothing.
func (p *Pool) Stop(ctx context.Context) error { return p.sched.Stop(ctx) }

// Running reports whether Submit accepts functions.
func (p *Pool) Running() bool { return p.sched.Running() }

// Submit runs fn on a worker. It never blocks: it returns ErrOverloaded when MaxQueue functions are
// waiting, ErrNotRunning before Start, ErrClosed after Stop was called. Functions of different
// calls run concurrently, in no order; for a session's order use Session.Submit, for an order of
// your own a Strand.
func (p *Pool) Submit(fn func()) error { return p.sched.Submit(fn) }

// Histogram counts durations by length.
type Histogram = hist.Snapshot

// Waits returns how long runnable sessions waited for a worker: for the first ones, and then for a
// sample. What runs on the loops is not included.
func (p *Pool) Waits() Histogram { return p.sched.Waits() }

// Stats returns a snapshot.
func (p *Pool) Stats() PoolStats {
	st := p.sched.Stats()
	return PoolStats{
		Workers: st.Workers, Idle: st.Idle, Blocked: st.Blocked, Sessions: st.Tasks, Queue: st.Queue, MaxQueue: st.MaxQueue,
		Ran: st.Ran, Refused: st.Refused, Spawned: st.Spawned, Panics: st.Panics, Stalls: st.Stalls,
		StrandMemory: p.strands.budget.Used(), StrandRefused: p.strands.refused.Load(), StrandStale: p.strands.stale.Load(),
	}
}
