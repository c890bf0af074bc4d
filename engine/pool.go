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

// PoolConfig sets up a Pool. Zero means the default that the field's comment names.
type PoolConfig struct {
	Workers  int // twice the number of CPUs that this process may use
	Spare    int // most extra workers while others are blocked; 256, Off for none
	MaxQueue int // functions that wait in Submit; 8,192
	MaxTasks int // functions that wait in one Strand; 1,024
	// StrandMemory is what the functions that wait in all Strands together may hold, in
	// bytes, at about 100 for each beside what it refers to, to a 64th; 64 MiB.
	StrandMemory int

	StallAfter time.Duration // a callback on a worker that takes longer is reported; 100 ms, Off for none
	OnStall    func(Stall)   // is called for each such report, on a goroutine of its own, one at a time; may be nil
	Logger     *slog.Logger
}

// Stall is a callback that holds its goroutine up, as it was found.
type Stall struct {
	Where     string        // what the goroutine is: "worker" or "loop"
	Session   string        // its ID; of a Strand its name; "" for a function given to Pool.Submit
	Main, Sub uint16        // the packet that OnSocketRead handles; 0/0 in any other callback
	At        time.Time     // when it was reported
	For       time.Duration // by then
	Stack     string        // of the goroutine; "" if the callback ended just before it was taken
}

// Place is where in the code it stands: the innermost function of Stack that is not the
// standard library's, with its line; "" without a Stack.
func (s Stall) Place() string { return sched.StackPlace(s.Stack) }

// Pool is the worker pool: strands and submitted functions run on it. It may be shared
// by several servers.
type Pool struct {
	sched   *sched.Pool
	strands strands
}

// PoolStats is a snapshot of a Pool.
type PoolStats struct {
	Workers  int    // now, spare ones included
	Idle     int    // of them waiting for work
	Blocked  int    // of them inside one batch for more than 4 ms
	Sessions int    // strands in the run queue, of sessions and others
	Queue    int    // functions waiting
	MaxQueue int    // how many may wait
	Ran      uint64 // batches and functions run
	Refused  uint64 // ErrOverloaded
	Spawned  uint64 // spare workers ever started
	Panics   uint64 // in functions given to Pool.Submit and to Strands
	Stalls   uint64 // callbacks that took longer than StallAfter

	StrandMemory  int    // of functions that wait in Strands, in bytes
	StrandRefused uint64 // ErrTasksFull and ErrMemory of Strands
	StrandStale   uint64 // ErrClosed of Strands
}

// WithDefaults returns a copy with every zero filled in; what is Off stays Off.
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

// newPool is NewPool on a machine; nil: the operating system.
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

// Start starts the workers. A pool starts once. When ctx has ended nothing is started,
// and Start may be called again.
func (p *Pool) Start(ctx context.Context) error { return p.sched.Start(ctx) }

// Stop lets the workers finish what is queued and ends them. When ctx ends first it
// returns ctx's error, which names what the workers are stuck in; they are left behind.
// It may be called twice. Called from a callback or a function that this pool runs, or
// from its OnStall, it would wait for itself: that is ErrInCallback, and nothing happens.
func (p *Pool) Stop(ctx context.Context) error { return p.sched.Stop(ctx) }

// Running tells whether Submit is accepted.
func (p *Pool) Running() bool { return p.sched.Running() }

// Submit runs fn on a worker. It never blocks: ErrOverloaded when MaxQueue functions
// wait already, ErrNotRunning before Start, ErrClosed once Stop was called. Functions of
// different calls run in any order and at the same time; for a session's order use
// Session.Submit, for an order of one's own a Strand.
func (p *Pool) Submit(fn func()) error { return p.sched.Submit(fn) }

// Histogram is how often durations of each length were seen.
type Histogram = hist.Snapshot

// Waits is how long sessions with something to do waited for a worker: of the first ones,
// and then of a sample. What runs on the loops has not waited and is not in it.
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
