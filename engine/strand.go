package engine

import (
	"fmt"
	"sync/atomic"

	"millrace/engine/internal/budget"
	"millrace/engine/internal/sched"
	"millrace/engine/internal/strand"
)

// Strand runs functions one at a time and in order on a Pool, as a session's strand does:
// for what sessions share, a room, an order book, a device, which so needs no lock. It is a
// Submitter, so timers, queries, locks and delayed events come back to it.
//
//	book := pool.Strand()
//	err := book.Submit(func() { orders = append(orders, o) })
//
// Functions given to it by one goroutine run in that order. Different strands run at the
// same time, and a function that blocks holds back its own strand only. A panic is
// contained, reported and counted, and closes the strand, as what it guards may be broken.
//
// A strand is about 150 bytes, and nothing else while nothing waits: no goroutine, no entry
// in any list. One that is no longer referred to needs no Close to be collected. Its
// methods may be called from any goroutine, also from its own functions.
type Strand struct {
	pool    *Pool
	in      strand.Strand
	task    sched.Task
	step    atomic.Uint32 // how far a worker's turn is
	why     atomic.Uint32 // the Reason that it was closed for; set under the lock of in
	most    int32
	name    string
	onClose func(Reason)           // of the turn that ends it
	handle  func(msg any)          // StrandConfig.OnMessage
	next    atomic.Pointer[Strand] // begins when this one has ended; over: it has
	beside  *Strand                // another one that begins with this one; set before that is in next
}

// StrandConfig sets up a Strand. Zero means the default that the field's comment names.
type StrandConfig struct {
	Name     string // for people, in reports of panics and stalls; none
	MaxTasks int    // functions and messages that wait; the PoolConfig's MaxTasks
	// OnMessage runs what Post is given, in the strand's order; nil: Post is an error.
	OnMessage func(msg any)
	// OnClose is the last that runs on the strand, once, after it was closed and what had
	// been accepted before has run: ReasonServerClosed by Close, ReasonIdle by CloseIfIdle,
	// ReasonPanic, or what CloseFor was given. It may be nil.
	OnClose func(why Reason)
}

// strands are what the Strands of a pool share.
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

// budget is the part of the strands' budget that this one's functions count in.
func (s *Strand) budget() *budget.Budget {
	parts := s.pool.strands.parts
	return parts[s.task.Home()%uint(len(parts))]
}

// over stands for one that follows where none need wait: the strand has ended.
var over = new(Strand)

// Strand makes a strand. It starts nothing.
func (p *Pool) Strand() *Strand { return p.StrandWith(StrandConfig{}) }

// StrandWith makes a strand with settings of its own.
func (p *Pool) StrandWith(cfg StrandConfig) *Strand {
	if cfg.MaxTasks <= 0 {
		cfg.MaxTasks = p.strands.most
	}
	s := &Strand{pool: p, name: cfg.Name, most: int32(min(cfg.MaxTasks, 1<<30)), onClose: cfg.OnClose, handle: cfg.OnMessage}
	s.task.Init((*strandTurn)(s))
	return s
}

// Next makes a strand of the same pool that takes functions at once, and begins to run them
// when s has ended, its OnClose included: never at the same time as anything of s. Several
// made of one strand begin together then; for an order, make each the Next of the one before.
// What it has taken never runs if s has not been closed when the pool stops.
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

// release lets a strand run that was made by Next. It is called by a worker, or before any
// function has been given to it.
func (s *Strand) release() {
	if s.in.Unhold(s.closed) {
		s.pool.sched.Push(&s.task, s.task.Home())
	}
}

// Pool is what the strand runs on.
func (s *Strand) Pool() *Pool { return s.pool }

// Submit runs fn in the strand's order, on a worker. It never blocks: ErrTasksFull when
// MaxTasks functions wait and ErrMemory when those of all the pool's strands hold
// StrandMemory, both ErrBusy; ErrNotRunning before the pool's Start; ErrClosed once the
// strand has closed or the pool's Stop was called. A function that was accepted runs exactly
// once, before OnClose, also if one before it has panicked; the pool's Stop waits for it.
func (s *Strand) Submit(fn func()) error { return s.submit(fn, nil) }

// Post has OnMessage called with msg, as Submit has a function called. It allocates nothing,
// where a function would have to be made that knows msg.
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

// closed tells whether the strand was closed.
func (s *Strand) closed() bool { return s.why.Load() != 0 }

// shut tells whether it takes nothing more.
func (s *Strand) shut() bool { return s.closed() || s.pool.sched.Stopping() }

// Closed tells whether the strand was closed, and for what. What had been accepted before
// may still run.
func (s *Strand) Closed() (why Reason, closed bool) {
	why = Reason(s.why.Load())
	return why, why != 0
}

// Len is how many functions wait. The one that runs is not among them.
func (s *Strand) Len() int { return s.in.Tasks() }

// Close refuses functions from now on; those accepted before run, then OnClose. It returns
// at once; ErrClosed when the strand was closed before. A strand that is closed when its
// pool has stopped does not run again: there is no OnClose.
func (s *Strand) Close() error { return s.CloseFor(ReasonServerClosed) }

// CloseFor is Close for another reason, which OnClose is told.
func (s *Strand) CloseFor(why Reason) error {
	if !s.end(false, why) {
		return ErrClosed
	}
	return nil
}

// CloseIfIdle is Close, with ReasonIdle, if no function waits: none was accepted that has not
// begun. Called by a function of the strand's own that decides so, it is the end of the
// strand right behind that function.
func (s *Strand) CloseIfIdle() bool { return s.end(true, ReasonIdle) }

func (s *Strand) end(alone bool, why Reason) bool {
	if why == reasonNone {
		why = ReasonServerClosed
	}
	return s.in.End(alone, s.push, s.closed, func() { s.why.Store(uint32(why)) })
}

// push schedules the strand's turn; false: the pool does not run.
func (s *Strand) push() bool { return s.pool.sched.TryPush(&s.task, s.task.Home()) == nil }

func (s *Strand) String() string {
	if s.name == "" {
		return "a strand"
	}
	return "strand " + s.name
}

// strandTurn is a Strand as the pool sees it.
type strandTurn Strand

// Run is a worker's turn with the strand.
func (t *strandTurn) Run() {
	s := (*Strand)(t)
	s.in.Begin()
	s.step.Store(0)
	clean := false
	defer func() {
		if !clean { // runtime.Goexit in a function: this goroutine ends, the strand must not hang
			s.in.Leave(true)
			s.pool.sched.Push(&s.task, s.task.Home())
		}
	}()
	s.run()
	clean = true
}

// run runs what waits, until nothing does or the budget is used up. The strand is given up
// when it returns.
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

// one runs the next function; false: there is none.
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

// finish is the strand's end: what was accepted runs, then OnClose, and those that follow may
// begin.
func (s *Strand) finish() {
	for s.one() {
	}
	if fn := s.onClose; fn != nil {
		s.onClose = nil // a runtime.Goexit in it must not bring it about again
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

// Step tells how far the turn is.
func (t *strandTurn) Step() uint32 { return t.step.Load() }

// Long has nothing to do: each function is a step already, and nothing is held back.
func (t *strandTurn) Long() {}

// Running names the strand.
func (t *strandTurn) Running() (session string, main, sub uint16) { return t.name, 0, 0 }

func (t *strandTurn) String() string { return (*Strand)(t).String() }
