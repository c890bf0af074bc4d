package timerwheel

import (
	"errors"
	"net"
)

// retryMost is how many refused Submits are tried again on each tick. Accepted ones don't count, so
// the cost of a tick does not depend on how many are refused.
const retryMost = 256

// A sender submits batches, those of one group one after another. No lock is held while it calls
// Submit, so a Submit that blocks delays its own group only. Guarded by driver.driving unless
// stated otherwise.
type sender struct {
	c      *common
	w      *worker
	pool   *batchPool
	panics *panicLog
	close  func(*group) int // closes it, returns how many timers that killed; driving is not held

	filling []*group   // with a batch that is being filled
	ready   groupQueue // with batches to submit
	refused groupQueue // whose submitter refused, the one to try next first

	retryAt    int64 // tick at which refused ones may be tried again
	retryUntil int64 // when to stop doing so, ns
	tries      int   // how many of them still
	submitting int   // goroutines in Submit
}

// batchFor returns the group's batch that is being filled, with room for one.
func (s *sender) batchFor(g *group) *batch {
	if b := g.filling; b != nil {
		switch n := len(b.items); {
		case n == smallBatch && g.own:
			g.filling = s.pool.grow(b)
			return g.filling
		case n < bigBatch:
			return b
		}
		s.push(g, b)
	} else {
		s.filling = append(s.filling, g)
	}
	g.filling = s.pool.get(g)
	return g.filling
}

// sealAll makes the batches that are being filled ready.
func (s *sender) sealAll() {
	for i, g := range s.filling {
		s.push(g, g.filling)
		g.filling = nil
		s.filling[i] = nil
	}
	if s.filling = s.filling[:0]; cap(s.filling) > 4096 {
		s.filling = nil
	}
}

// push puts b at the end of its group's queue.
func (s *sender) push(g *group, b *batch) {
	b.seal()
	g.queue.push(b)
	s.queued(g)
}

// pushFront puts b, which is sealed, at its front.
func (s *sender) pushFront(g *group, b *batch) {
	g.queue.pushFront(b)
	s.queued(g)
}

// queued counts one more batch of the group.
func (s *sender) queued(g *group) {
	switch g.status {
	case empty:
		s.ready.push(g)
		g.status = ready
	case refused:
		s.c.count.waiting.Add(1)
	}
}

// retry lets refused groups be tried again, once a tick.
func (s *sender) retry(now int64) {
	tick := now / s.c.tick
	if s.refused.n == 0 || tick < s.retryAt {
		return
	}
	s.retryAt = tick + 1
	s.retryUntil = now + s.c.tick/4
	s.tries = min(s.refused.n, retryMost)
}

// next returns a batch to submit, or nil. The caller does so, then calls conclude.
func (s *sender) next() *batch {
	g := s.ready.pop()
	if g == nil {
		if s.tries == 0 || s.refused.n == 0 {
			return nil
		}
		s.tries--
		g = s.refused.pop()
		s.c.count.waiting.Add(-int64(g.queue.n))
	}
	g.status = submitting
	s.submitting++
	b := g.queue.pop()
	b.users.Store(2) // the worker, and the driver until conclude
	return b
}

// more reports whether there is more to do than what is being submitted.
func (s *sender) more() bool { return s.ready.n > 0 || s.refused.n > 0 || len(s.filling) > 0 }

// undo undoes next.
func (s *sender) undo(b *batch) {
	s.submitting--
	b.users.Store(1)
	b.group.status = ready
	b.group.queue.pushFront(b)
	s.ready.pushFront(b.group)
}

// A submitResult is the result of a Submit.
type submitResult int

const (
	accepted submitResult = iota
	refusedNow
	gone     // for good: the group has been closed
	panicked // or its goroutine is ending: fn may have run, or may do so later
)

// submit calls Submit. driving is not held.
func (s *sender) submit(b *batch) (v submitResult) {
	g := b.group
	if !s.c.live.Load() || g.closed.Load() {
		return gone
	}
	v = panicked
	defer func() {
		if v == panicked {
			p := recover()
			s.c.count.panics.Add(1)
			s.panics.note(p)
		}
	}()
	err := g.sub.Submit(b.run)
	switch {
	case err == nil:
		v = accepted
	case errors.Is(err, net.ErrClosed) && !g.own:
		v = gone
		s.c.count.dropped.Add(uint64(s.close(g)))
	default:
		v = refusedNow
	}
	return v
}

// conclude processes the result for b. If it returns true, b is with its worker and the driver
// still uses it.
func (s *sender) conclude(b *batch, v submitResult) (out bool) {
	g := b.group
	s.submitting--
	if v == panicked { // b may run yet: what it has not begun goes into another
		v = accepted
		if rest := b.cut(); len(rest) > 0 {
			v = refusedNow
			old := b
			b = s.pool.copyOf(g, rest)
			s.pool.done(old)
		}
	}
	switch v {
	case accepted:
		s.requeue(g)
		if s.tries > 0 {
			s.tries++
		}
		return true
	case refusedNow:
		b.users.Store(1)
		s.c.count.refused.Add(1)
		g.queue.pushFront(b)
		g.status = refused
		s.refused.push(g)
		s.c.count.waiting.Add(int64(g.queue.n))
		if s.tries > 0 && s.c.now() > s.retryUntil {
			s.tries = 0
		}
	default:
		for ; b != nil; b = g.queue.pop() {
			s.discard(b)
		}
		g.status = empty
	}
	return false
}

// requeue makes the group ready if more is queued.
func (s *sender) requeue(g *group) {
	if g.status = empty; g.queue.n > 0 {
		g.status = ready
		s.ready.push(g)
	}
}

// discard drops what is left of b, whose timers have been killed.
func (s *sender) discard(b *batch) {
	b.users.Store(1)
	s.w.uncancel(b.group, len(b.cut()))
	s.pool.done(b)
}

// discardAll drops everything. The service has been stopped.
func (s *sender) discardAll() {
	s.sealAll()
	for _, q := range []*groupQueue{&s.ready, &s.refused} {
		for g := q.pop(); g != nil; g = q.pop() {
			if g.status == refused {
				s.c.count.waiting.Add(-int64(g.queue.n))
			}
			for b := g.queue.pop(); b != nil; b = g.queue.pop() {
				s.discard(b)
			}
			g.status = empty
		}
	}
	s.retryAt, s.tries = 0, 0
}
