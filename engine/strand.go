package engine

import (
	"fmt"
	"sync/atomic"

	"millrace/engine/internal/budget"
	"millrace/engine/internal/sched"
	"millrace/engine/internal/strand"
)

// Strand runs functions one at a time and in order on a Pool, as a session's strand does: for state
// that sessions share, such as a room, an order book or a device, which then needs no lock. It is a
// Submitter, so results of timers, queries, locks and delay events are delivered to it.
//
//	book := pool.Strand()
//	err := book.Submit(func() { orders = append(orders, o) })
//
// Functions submitted by one goroutine run in that order. Different strands run concurrently, and a
// function that blocks delays only its own strand. A panic is recovered, reported and counted, and
// closes the strand, as its state may be inconsistent.
//
// A strand uses about 150 bytes, and nothing else while no function waits: no goroutine, no list
// entry. Without references it is garbage collected; Close is not necessary. Its methods may be
// called from any goroutine, including its own functions.
type Strand struct {
	pool    *Pool
	in      strand.Strand
	task    sched.Task
	step    atomic.Uint32 // progress of a worker's turn
	why     atomic.Uint32 // the Reason of its close; set under the lock of in
	most    int32
	name    string
	onClose func(Reason)           // called by the turn that ends it
	handle  func(msg any)          // StrandConfig.OnMessage
	next    atomic.Pointer[Strand] // starts when this one has ended; over when it has
	beside  *Strand                // another one that starts together with this one; set before it is stored in next
}

// StrandConfig configures a Strand. Zero means the default that the field's comment names.
type StrandConfig struct {
	Name     string // for reports of panics and stalls; none
	MaxTasks int    // most functions and messages waiting; the PoolConfig's MaxTasks
	// OnMessage handles the argument of Post, in the strand's order; if nil, Post returns an error.
	OnMessage func(msg any)
	// OnClose is the last function that runs on the strand, once, after it was closed and
	// everything accepted before has run: with ReasonServerClosed after Close, ReasonIdle after
	// CloseIfIdle, ReasonPanic, or the reason given to CloseFor. It may be nil.
	OnClose func(why Reason)
}

// strands is what the Strands of a pool share.
type strands struct {
	most           int            // PoolConfig.MaxTasks
	budget         *budget.Budget // of PoolConfig.StrandMemory
	parts          []*budget.Budget
	refused, stale atomic.Uint64
}

func (st *strands) init(cfg PoolConfig, shards int) {
	st.most, st.budget = cfg.MaxTasks, budget.New(cfg.StrandMemory, nil)
	for range shards {
		st.parts = append(st.parts, st.budget.Part())
	}
}

// budget returns the part of the strands' budget in which this one's functions are counted.
func (s *Strand) budget() *budget.Budget {
	parts := s.pool.strands.parts
	return parts[s.task.Home()%uint(len(parts))]
}

// over marks a strand that has ended, so that a next one can start at once.
var over = new(Strand)

// Strand creates a strand. It starts nothing.
func (p *Pool) Strand() *Strand { return p.StrandWith(StrandConfig{}) }

// StrandWith creates a strand with settings.
func (p *Pool) StrandWith(cfg StrandConfig) *Strand {
	if cfg.MaxTasks <= 0 {
		cfg.MaxTasks = p.strands.most
	}
	s := &Strand{pool: p, name: cfg.Name, most: int32(min(cfg.MaxTasks, 1<<30)), onClose: cfg.OnClose, handle: cfg.OnMessage}
	s.task.Init((*strandTurn)(s))
	return s
}

// Next creates a strand of the same pool that accepts functions at once, and starts running them
// when s has ended, including its OnClose: never concurrently with anything of s. Several created
// from one strand then start together; for an order, create each from the previous one. Its
// functions never run if s has not been closed when the pool stops.
func (s *Strand) Next(cfg StrandConfig) *Strand {
	n := s.pool.StrandWith(cfg)
	n.in.Park()
	for {
		first := s.next.Load()
		if first == over {
			n.release()
			return n
		}
		n.beside = first
		if s.next.CompareAndSwap(first, n) {
			return n
		}
	}
}

// release starts a strand that was created by Next. It is called by a worker, or before any
// function has been submitted.
func (s *Strand) release() {
	if s.in.Unhold(s.closed) {
		s.pool.sched.Push(&s.task, s.task.Home())
	}
}

// Pool returns the strand's pool.
func (s *Strand) Pool() *Pool { return s.pool }

// Submit runs fn in the strand's order, on a worker. It never blocks: it returns ErrTasksFull when
// MaxTasks functions are waiting, and ErrMemory when those of all the pool's strands hold
// StrandMemory (both are ErrBusy); ErrNotRunning before the pool's Start; ErrClosed after the
// strand was closed or the pool's Stop was called. An accepted function runs exactly once, before
// OnClose, even if an earlier one has panicked; the pool's Stop waits for it.
func (s *Strand) Submit(fn func()) error { return s.submit(fn, nil) }

// Post calls OnMessage with msg, in the same way as Submit calls a function. It does not allocate,
// unlike a closure that captures msg.
func (s *Strand) Post(msg any) error {
	if s.handle == nil {
		return fmt.Errorf("%w: Post to a strand without OnMessage", ErrUnsupported)
	}
	return s.submit(nil, msg)
}

func (s *Strand) submit(fn func(), msg any) error {
	p := s.pool
	if p.strands.budget.About() >= p.strands.budget.Limit() && !s.shut() {
		p.strands.refused.Add(1)
		return ErrMemory
	}
	var err error
	push := func() bool {
		err = p.sched.TryPush(&s.task, s.task.Home())
		return err == nil
	}
	switch s.in.SubmitTo(push, fn, msg, int(s.most), s.shut, s.budget()) {
	case strand.Gone:
		if err == nil {
			err = ErrClosed
		}
		if err != ErrNotRunning {
			p.strands.stale.Add(1)
		}
		return err
	case strand.Full:
		p.strands.refused.Add(1)
		return ErrTasksFull
	}
	return nil
}

// closed reports whether the strand was closed.
func (s *Strand) closed() bool { return s.why.Load() != 0 }

// shut reports whether it accepts nothing more.
func (s *Strand) shut() bool { return s.closed() || s.pool.sched.Stopping() }

// Closed reports whether the strand was closed, and the reason. Functions accepted before may still
// run.
func (s *Strand) Closed() (why Reason, closed bool) {
	why = Reason(s.why.Load())
	return why, why != 0
}

// Len returns how many functions wait, not counting the running one.
func (s *Strand) Len() int { return s.in.Tasks() }

// Close refuses functions from now on; those already accepted run, then OnClose. It returns at
// once; ErrClosed if the strand was already closed. If the pool has stopped, the strand does not
// run again: OnClose is not called.
func (s *Strand) Close() error { return s.CloseFor(ReasonServerClosed) }

// CloseFor is Close with another reason for OnClose.
func (s *Strand) CloseFor(why Reason) error {
	if !s.end(false, why) {
		return ErrClosed
	}
	return nil
}

// CloseIfIdle is Close with ReasonIdle, if no function is waiting: every accepted one has started.
// Called by one of the strand's own functions, it ends the strand directly after that function.
func (s *Strand) CloseIfIdle() bool { return s.end(true, ReasonIdle) }

func (s *Strand) end(alone bool, why Reason) bool {
	if why == reasonNone {
		why = ReasonServerClosed
	}
	return s.in.End(alone, s.push, s.closed, func() { s.why.Store(uint32(why)) })
}

// push schedules the strand's turn; false if the pool is not running.
func (s *Strand) push() bool { return s.pool.sched.TryPush(&s.task, s.task.Home()) == nil }

func (s *Strand) String() string {
	if s.name == "" {
		return "a strand"
	}
	return "strand " + s.name
}

// strandTurn is a Strand as seen by the pool.
type strandTurn Strand

// Run is a worker's turn with the strand.
func (t *strandTurn) Run() {
	s := (*Strand)(t)
	s.in.Begin()
	s.step.Store(0)
	clean := false
	defer func() {
		if !clean { // runtime.Goexit in a function ends this goroutine, but the strand must continue
			s.in.Leave(true)
			s.pool.sched.Push(&s.task, s.task.Home())
		}
	}()
	s.run()
	clean = true
}

// run runs waiting functions until there are none or the budget is used up. It has released the
// strand when it returns.
func (s *Strand) run() {
	for budget := strandBudget; ; budget-- {
		if s.closed() {
			s.finish()
			return
		}
		if budget == 0 {
			s.in.Leave(true)
			s.pool.sched.Push(&s.task, s.task.Home())
			return
		}
		if !s.one() && s.in.Rest(s.closed) {
			return
		}
	}
}

// one runs the next function; false if there is none.
func (s *Strand) one() bool {
	it := s.in.Next(s.budget())
	if it == nil {
		return false
	}
	fn, msg := it.Fn, it.Arg
	it.Free()
	if fn != nil {
		s.guard("Strand.Submit", fn)
	} else {
		s.guard("OnMessage", func() { s.handle(msg) })
	}
	s.step.Add(1)
	return true
}

// finish is the end of the strand: accepted functions run, then OnClose, and the next strands may
// start.
func (s *Strand) finish() {
	for s.one() {
	}
	if fn := s.onClose; fn != nil {
		s.onClose = nil // it must not be called again after runtime.Goexit
		why, _ := s.Closed()
		s.guard("OnClose", func() { fn(why) })
	}
	s.in.Finish()
	n := s.next.Swap(over)
	for n != nil {
		beside := n.beside
		n.beside = nil
		n.release()
		n = beside
	}
}

// guard runs a function; a panic closes the strand.
func (s *Strand) guard(callback string, fn func()) {
	ok := false
	defer func() {
		if !ok {
			v := recover()
			s.end(false, ReasonPanic)
			s.pool.sched.Panicked(callback, s.name, v)
		}
	}()
	fn()
	ok = true
}

// Step returns the progress of the turn.
func (t *strandTurn) Step() uint32 { return t.step.Load() }

// Long does nothing: each function is a step already, and nothing is staged.
func (t *strandTurn) Long() {}

// Running returns the strand's name.
func (t *strandTurn) Running() (session string, main, sub uint16) { return t.name, 0, 0 }

func (t *strandTurn) String() string { return (*Strand)(t).String() }
