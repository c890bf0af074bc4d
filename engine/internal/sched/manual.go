package sched

import (
	"cmp"
	"slices"
	"time"
)

// A manual pool is one whose workers take nothing by themselves: somebody else, who says in
// which order things happen, gives each of them one turn or function at a time, and looks
// after them in the monitor's place. All else is as in any pool. It is what a simulation
// runs on.
//
//	hand := make(chan struct{}, 1)
//	p := New(Config{Manual: hand, ...})
//	for range hand { // something has been queued
//		for p.Waiting() > 0 && p.Give(pick(p.Waiting())) {
//		}
//	}

// order is what a worker of a manual pool is given.
type order struct {
	t  *Task
	fn func()
}

// newWorker makes a worker, which can be given something if the pool is manual. mu is held.
func (p *Pool) newWorker() *worker {
	w := new(worker)
	if p.cfg.Manual != nil {
		p.made++
		w.give, w.number = make(chan order, 1), p.made
	}
	return w
}

// given waits for what Give hands to a worker; both nil end it.
func (p *Pool) given(w *worker) (*Task, func()) {
	p.mu.Lock()
	if p.over() {
		p.mu.Unlock()
		return nil, nil
	}
	i, _ := slices.BinarySearchFunc(p.free, w, func(a, b *worker) int { return cmp.Compare(a.number, b.number) })
	p.free = slices.Insert(p.free, i, w)
	p.mu.Unlock()
	o := <-w.give
	return o.t, o.fn
}

// over tells whether a pool that stops has nothing left to do. mu is held.
func (p *Pool) over() bool {
	if p.state.Load() == stateRunning {
		return false
	}
	s := p.shards[0]
	s.mu.Lock() // who found it running has queued what he has by then
	defer s.mu.Unlock()
	return s.choices() == 0
}

// Waiting is how many there are that Give can choose from: functions come one by one.
func (p *Pool) Waiting() int {
	s := p.shards[0]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.choices()
}

// Free is how many workers of a manual pool have nothing to do.
func (p *Pool) Free() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.free)
}

// Give has a worker of a manual pool, which it wakes, run the i-th task that waits; the
// first function counts as the one behind the last task. False: there is no such, or no
// worker is free.
func (p *Pool) Give(i int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.shards[0] // there is no other
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(p.free) == 0 || i < 0 || i >= s.choices() {
		return false
	}
	var o order
	if i < s.tasks.n {
		o.t = s.takeNth(i, p)
	} else {
		o.fn = s.popFn()
	}
	p.wakeFree(o)
	return true
}

// choices is how many there are that Give can choose from. mu is held.
func (s *shard) choices() int { return s.tasks.n + min(s.fns.len(), 1) }

// takeNth takes the i-th task off the queue. mu is held.
func (s *shard) takeNth(i int, p *Pool) *Task {
	for range i { // those in front go behind, and then to where they were
		s.tasks.push(s.tasks.pop())
	}
	t := s.pop(p)
	for range s.tasks.n - i {
		s.tasks.push(s.tasks.pop())
	}
	return t
}

// wakeFree gives the first free worker an order; an empty one ends it. mu is held.
func (p *Pool) wakeFree(o order) {
	w := p.free[0]
	p.free = slices.Delete(p.free, 0, 1)
	w.task.Store(o.t)
	w.give <- o
}

// Look is what the monitor of another pool does every millisecond or so while there is work:
// it looks for workers that are blocked, starts spare ones and ends those that are not
// needed. It tells whether it ended any.
func (p *Pool) Look() (ended bool) {
	if p.look(0) {
		p.needed = time.Now()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	spare := len(p.workers) - p.cfg.Workers
	for len(p.free) > 0 && (p.over() || spare > 0 && time.Since(p.needed) > spareIdle) {
		p.wakeFree(order{})
		spare--
		ended = true
	}
	return ended
}

// Busy is how many workers have been given something and are not done with it, or are to be
// ended by Look.
func (p *Pool) Busy() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.over() {
		return len(p.workers)
	}
	return len(p.workers) - len(p.free)
}

// await does for a manual pool what is left of the monitor when the last worker has ended.
func (p *Pool) await() {
	<-p.empty
	p.watch.Close()
	close(p.ended)
}
