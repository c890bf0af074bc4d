package engine

import (
	"sync/atomic"
	"time"

	"millrace/codec"
	"millrace/engine/internal/outbox"
)

// Requests that have waited too long are refused by the rule of CoDel (RFC 8289): a queue is bad
// when all requests that leave it during an interval have waited longer than the budget. A burst,
// however long, is not bad if it is worked off in time. The reaction differs: clients do not slow
// down as TCP does when a packet is dropped, so while the queue is bad every request over the
// budget gets ERROR 4 at once, which costs almost nothing, and the others are handled: their
// clients are still waiting.
//
// Two kinds of queues are checked: a session's own strand, and the common queue of all sessions for
// handles with the same budget. The latter is the wait for a worker, so only the first request of a
// turn counts for it: later ones may have arrived while their session had a worker, and did not
// wait for one.
const (
	waitInterval = 100 * time.Millisecond
	waitForget   = 10 * waitInterval // time without a request over the budget
)

// standing is the state of a queue, as seen by requests that leave it. Any goroutine.
type standing struct {
	since atomic.Int64 // since when it has been too long; 0 if it is not
	last  atomic.Int64 // when that was last observed
}

// leaves records that a request leaves the queue, and reports whether the queue is bad. A bad queue
// is good again when a request has waited for no more than half of the budget: while requests are
// refused, the others have waited for almost all of it.
func (q *standing) leaves(waited, budget, now int64) (stands bool) {
	since := q.since.Load()
	if waited <= budget {
		if since != 0 && waited <= budget/2 {
			q.since.Store(0)
		}
		return false
	}
	last := q.last.Load()
	q.last.Store(now)
	if since == 0 || now-last > int64(waitForget) {
		q.since.CompareAndSwap(since, now)
		return false
	}
	return now-since >= int64(waitInterval)
}

// stands reports whether the queue is bad.
func (q *standing) stands(now int64) bool {
	since := q.since.Load()
	return since != 0 && now-since >= int64(waitInterval) && now-q.last.Load() <= int64(waitForget)
}

// waits are a server's budgets.
type waits struct {
	rest  *waitClass            // for handles without their own budget; nil for none
	of    map[uint32]*waitClass // by handle; nil for none
	grain int64                 // reads further apart than this are queued in separate blocks
}

// waitClass is the budget of one handle, or of all handles without their own.
type waitClass struct {
	budget int64
	queue  standing
}

// newWaits returns the budgets of a config in use; nil if there are none.
func newWaits(c *Config) *waits {
	if !c.waits() {
		return nil
	}
	w := &waits{of: map[uint32]*waitClass{}, grain: int64(time.Second)}
	class := func(d time.Duration) *waitClass {
		if d <= 0 {
			return nil
		}
		w.grain = min(w.grain, int64(d/16))
		return &waitClass{budget: int64(d)}
	}
	w.rest = class(c.WaitBudget)
	for handle, d := range c.HandleWaits {
		w.of[handle] = class(d)
	}
	return w
}

// class returns the budget of a handle; nil if it has none.
func (w *waits) class(handle uint32) *waitClass {
	if len(w.of) > 0 {
		if c, ok := w.of[handle]; ok {
			return c
		}
	}
	return w.rest
}

// overdue reports whether a request read at that time is refused. On the strand.
func (s *Session) overdue(w *waits, p codec.Packet, at int64) bool {
	c := w.class(p.Handle())
	if c == nil {
		return false
	}
	m, now := s.meter(), s.srv.now()
	waited := now - max(at, m.floor)
	own := m.wait.leaves(waited, c.budget, now)
	if m.first {
		m.first = false
		return c.queue.leaves(waited, c.budget, now) || own
	}
	return own || waited > c.budget && c.queue.stands(now)
}

// refuseOverdue answers a request that has waited too long.
func (s *Session) refuseOverdue(p codec.Packet) {
	s.srv.limited[ThrottleWait].Add(1)
	_ = s.sendError(p, CodeOverloaded, "the server is overloaded: the request has waited too long", outbox.System)
}

// grain returns how far apart reads may be that are queued in one block; 0 for no limit.
func (srv *Server) grain() int64 {
	if srv.waits == nil {
		return 0
	}
	return srv.waits.grain
}
