package engine

import (
	"sync/atomic"
	"time"

	"millrace/codec"
	"millrace/engine/internal/outbox"
)

// Requests that have waited too long are refused by CoDel's rule (RFC 8289): a queue is bad
// when whoever leaves it has waited for longer than the budget, all through an interval. A
// burst is not, however long it is, if it is gone in time. What is done about it differs:
// requests don't slow down as TCP does when one of them is dropped, so while a queue stands
// every one that is over the budget gets ERROR 4 at once, which costs next to nothing, and
// the others are handled: those for which somebody still waits.
//
// A queue here is a session's own strand, and that of all sessions together for the handles
// that have a budget in common: either may stand. What all wait for is a worker, so of that
// queue only the first request of a turn tells: another may have come while its session had
// one, and waited for nobody.
const (
	waitInterval = 100 * time.Millisecond
	waitForget   = 10 * waitInterval // without a request that was over the budget
)

// standing is a queue, seen from those who leave it. Any goroutine.
type standing struct {
	since atomic.Int64 // since when it has been too long; 0: it is not
	last  atomic.Int64 // when that was last seen
}

// leaves tells, of a request that leaves the queue, whether that stands. A queue that has
// stood is short again when somebody has waited for no more than half of the budget: as long
// as requests are refused, the others have all waited for little less than all of it.
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

// stands tells whether the queue does.
func (q *standing) stands(now int64) bool {
	since := q.since.Load()
	return since != 0 && now-since >= int64(waitInterval) && now-q.last.Load() <= int64(waitForget)
}

// waits are a server's budgets.
type waits struct {
	rest  *waitClass            // of the handles that have none of their own; nil: none
	of    map[uint32]*waitClass // by handle; nil: none
	grain int64                 // reads that are further apart stand in blocks of their own
}

// waitClass is the budget of one handle, or of all that have none of their own.
type waitClass struct {
	budget int64
	queue  standing
}

// newWaits makes the budgets of a config in use; nil: there are none.
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

// class is that of a handle; nil: it has no budget.
func (w *waits) class(handle uint32) *waitClass {
	if len(w.of) > 0 {
		if c, ok := w.of[handle]; ok {
			return c
		}
	}
	return w.rest
}

// overdue tells whether a request that was read at that time is refused. Strand.
func (s *Session) overdue(w *waits, p codec.Packet, at int64) bool {
	c := w.class(p.Handle())
	if c == nil {
		return false
	}
	m, now := s.meter, s.srv.now()
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

// grain is how far apart reads may be that stand in one block of a strand; 0: it does not
// matter.
func (srv *Server) grain() int64 {
	if srv.waits == nil {
		return 0
	}
	return srv.waits.grain
}
