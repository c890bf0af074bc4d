package sched

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"millrace/internal/hist"
	"millrace/internal/tally"
)

// shard is a part of the run queue with workers of its own. There is one for each processor,
// none of them without a worker. A worker takes from its own shard, and from another's what
// waits there when its own has nothing, or when it has not looked around for a while: so
// nothing waits for long behind workers that are blocked.
type shard struct {
	mu    tally.Mutex
	wake  sync.Cond
	tasks queue // guarded by mu
	fns   ring  // guarded by mu

	fnTurn  bool  // guarded by mu; functions and tasks take turns
	pushes  uint  // guarded by mu
	timed   *Task // guarded by mu; the queued task whose wait is measured; nil: none
	timedAt int64 // guarded by mu; when it was queued
	idle    int   // guarded by mu; workers in wake.Wait that nobody has woken
	woken   bool  // guarded by mu; one that was woken has not looked yet what there is
	retire  int   // guarded by mu; spare workers that should end
	base    int   // guarded by Pool.mu; workers that are no spare ones
	workers int   // guarded by Pool.mu
	ending  int   // guarded by Pool.mu; of those, the ones that were told to end as they are not needed

	index   int
	waiting atomic.Int32  // tasks and functions; stored under mu
	ofFns   atomic.Uint64 // functions that wait, and above that how many were ever taken, modulo 1<<32; stored under mu
	waits   hist.Histogram

	_ [64]byte // what follows in memory is another's
}

// maxShards is how many shards there are at most: as many as idlers has bits.
const maxShards = 64

// lookAround is after how many turns a worker looks at the other shards first. Where it finds
// one with far more than its own, every other turn is for that, as long as it is so: what
// comes from a busy loop waits about as long as what comes from others.
const lookAround = 16

// newShards makes n of them, or one for a manual pool.
func newShards(cfg Config, n int) []*shard {
	if cfg.Manual != nil {
		n = 1
	}
	shards := make([]*shard, n)
	for i := range shards {
		s := &shard{index: i}
		s.wake.L = &s.mu
		s.fns.max = cfg.MaxQueue / n
		if i < cfg.MaxQueue%n {
			s.fns.max++
		}
		shards[i] = s
	}
	return shards
}

// How long tasks wait is measured of the first ones, and then of one in so many at most.
const (
	timedFirst = 256
	timedEvery = 32
)

// push puts a task on the queue. mu is held.
func (s *shard) push(t *Task, p *Pool) {
	s.tasks.push(t)
	if s.pushes++; s.timed == nil && (s.pushes%timedEvery == 0 || s.pushes < timedFirst) {
		s.timed, s.timedAt = t, p.now()
	}
	s.count()
}

// pop takes the first task off the queue. mu is held.
func (s *shard) pop(p *Pool) *Task {
	t := s.tasks.pop()
	if t == s.timed {
		s.waits.Observe(time.Duration(p.now() - s.timedAt))
		s.timed = nil
	}
	s.count()
	return t
}

// count says for others how many there are. mu is held.
func (s *shard) count() { s.waiting.Store(int32(s.tasks.n + s.fns.len())) }

// pushFn is fns.push, and popFn fns.pop. mu is held.
func (s *shard) pushFn(fn func()) bool {
	if !s.fns.push(fn) {
		return false
	}
	s.ofFns.Add(1)
	s.count()
	return true
}

func (s *shard) popFn() func() {
	fn := s.fns.pop()
	if fn != nil {
		s.ofFns.Add(1<<32 - 1)
		s.count()
	}
	return fn
}

// isFull tells, without a lock, whether it takes no more functions.
func (s *shard) isFull() bool { return int(uint32(s.ofFns.Load())) >= s.fns.max }

// fnsTaken changes whenever a function is taken off any shard.
func (p *Pool) fnsTaken() (n uint32) {
	for _, s := range p.shards {
		n += uint32(s.ofFns.Load() >> 32)
	}
	return n
}

// take takes a task or a function off the shard for a worker, which need not be its own; both
// nil: there is none.
func (s *shard) take(w *worker, p *Pool) (*Task, func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.tasks.n > 0 && (!s.fnTurn || s.fns.len() == 0) {
		s.fnTurn = true
		t := s.pop(p)
		w.task.Store(t) // under mu, so that TasksBusy misses none
		return t, nil
	}
	s.fnTurn = false
	return nil, s.popFn()
}

// steal takes from another shard, each time from the one behind the last; both nil: nothing
// waits there.
func (p *Pool) steal(w *worker) (*Task, func()) {
	for range p.shards {
		if w.victim++; w.victim >= len(p.shards) {
			w.victim = 0
		}
		s := p.shards[w.victim]
		if s == w.shard || s.waiting.Load() == 0 {
			continue
		}
		if t, fn := s.takeAbroad(w, p); t != nil || fn != nil {
			return t, fn
		}
	}
	return nil, nil
}

// takeAbroad is take by a worker of another shard, who notes whether it needs help.
func (s *shard) takeAbroad(w *worker, p *Pool) (*Task, func()) {
	tally.Note("steals")
	t, fn := s.take(w, p)
	if s.waiting.Load() > 2*w.shard.waiting.Load()+lookAround {
		w.helps = s
	} else if w.helps == s {
		w.helps = nil
	}
	return t, fn
}

// sleep waits until there may be work; false ends the worker.
func (p *Pool) sleep(w *worker) bool {
	s := w.shard
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retire > 0 && s.waiting.Load() == 0 && p.state.Load() == stateRunning {
		s.retire--
		w.retired = true
		return false
	}
	s.idle++
	p.idlers.add(s)
	// No wake-up is lost: a pusher first counts its task in waiting and then looks for idle
	// workers; a worker first marks itself idle and then looks at waiting.
	over := p.state.Load() != stateRunning
	if some := p.someWaiting(); some || over {
		s.idle--
		return some
	}
	s.wake.Wait() // the waker has subtracted it from idle
	s.woken = false
	w.fresh = true
	return true
}

// someWaiting tells whether any shard has something to do.
func (p *Pool) someWaiting() bool {
	for _, s := range p.shards {
		if s.waiting.Load() > 0 {
			return true
		}
	}
	return false
}

// wakeOne wakes an idle worker of a shard, of which there is one. Its mu is held.
func (p *Pool) wakeOne(s *shard) {
	s.idle--
	s.woken = true
	s.wake.Signal()
}

// wakeFor wakes an idle worker for what waits on a shard: one of the shard's own, or else another's.
// If one has been woken and has not looked for work yet, no other is woken: after it has taken
// something it calls wakeMore. So a few quick tasks do not wake as many workers. s.mu is held, and
// unlocked on return.
func (p *Pool) wakeFor(s *shard) {
	if s.woken || s.idle > 0 {
		if !s.woken {
			p.wakeOne(s)
		}
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	for left := p.idlers.bits.Load(); left != 0; {
		i := (bits.TrailingZeros64(bits.RotateLeft64(left, -s.index)) + s.index) % maxShards
		left &^= 1 << i
		o := p.shards[i]
		o.mu.Lock()
		if o.idle > 0 && !o.woken {
			p.wakeOne(o)
		} else if !o.woken {
			p.idlers.remove(o)
			o.mu.Unlock()
			continue
		}
		o.mu.Unlock()
		return
	}
}

// wakeMore is called by a worker that was woken and has found something: there may be more,
// for which nobody was woken.
func (p *Pool) wakeMore(w *worker) {
	w.fresh = false
	if p.someWaiting() {
		w.shard.mu.Lock()
		p.wakeFor(w.shard)
	}
}

// wakeAll wakes all idle workers of a shard.
func (p *Pool) wakeAll(s *shard) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle, s.woken = 0, false
	s.wake.Broadcast()
}

// totals is what there is of everything. mu is held.
func (p *Pool) totals() (tasks, fns, idle int) {
	for _, s := range p.shards {
		s.mu.Lock()
		tasks, fns, idle = tasks+s.tasks.n, fns+s.fns.len(), idle+s.idle
		s.mu.Unlock()
	}
	return tasks, fns, idle + len(p.free)
}

// idlers has a bit for each shard that has idle workers, or had some: it is set before one
// sleeps, and only who finds none there takes it away. So it is seldom written, although
// workers sleep and wake up all the time.
type idlers struct{ bits atomic.Uint64 }

// add notes that a shard has idle workers. Its mu is held.
func (x *idlers) add(s *shard) {
	if x.bits.Load()&(1<<s.index) == 0 {
		tally.Note("idlers")
		x.bits.Or(1 << s.index)
	}
}

// remove notes that it has none. Its mu is held.
func (x *idlers) remove(s *shard) {
	tally.Note("idlers")
	x.bits.And(^(uint64(1) << s.index))
}
