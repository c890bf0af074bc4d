package engine

import (
	"cmp"
	"slices"
	"time"

	"millrace/codec"
	"millrace/engine/internal/cputime"
)

// Costs are the costs of a server's sessions over some time. Each of the three lists adds up to
// Busy, if it is complete: the sessions together with Closed.
type Costs struct {
	For     time.Duration // length of the time
	Process time.Duration // CPU time of the process; 0 if unavailable
	Busy    time.Duration // of callbacks, and of writes to sockets
	Closed  time.Duration // part of Busy used by sessions that have closed

	// The most expensive ones, in descending order; those without cost are omitted.
	Sessions []SessionCost
	Handles  []HandleCost
	Tags     []TagCost
}

// SessionCost is the cost of one session.
type SessionCost struct {
	ID   ID
	Tag  string
	Busy time.Duration
}

// HandleCost is the cost of the requests of one handle. 0/0 is time outside of requests: other
// callbacks, functions given to Session.Submit, and writes. Other is set for the sum of unknown
// handles (see HandleKnower) and those beyond the first 1,024.
type HandleCost struct {
	Main, Sub uint16
	Other     bool
	Busy      time.Duration
}

// TagCost is the cost of the sessions with one tag; "" for sessions without, "..." for tags beyond
// the limit.
type TagCost struct {
	Tag  string
	Busy time.Duration
}

// CostReader reports costs between consecutive calls of Next. It must be used by one goroutine at a
// time.
type CostReader struct {
	srv      *Server
	at       time.Time
	process  time.Duration
	closed   int64
	sessions map[ID]int64
	accounts map[*account]int64
}

// CostReader starts reading the costs, which the server accounts with Config.Costs or SessionCPU.
// It uses 50 bytes for each session.
func (srv *Server) CostReader() *CostReader {
	r := &CostReader{srv: srv}
	r.Next(0)
	return r
}

// Next returns the costs since the last call, with at most top entries in each list. It reads every
// session.
func (r *CostReader) Next(top int) Costs {
	at, process := time.Now(), cputime.Process()
	out := Costs{For: at.Sub(r.at), Process: process - r.process}
	r.at, r.process = at, process
	r.readSessions(&out)
	r.readAccounts(&out)
	out.Sessions = dearest(out.Sessions, top, func(x SessionCost) time.Duration { return x.Busy })
	out.Handles = dearest(out.Handles, top, func(x HandleCost) time.Duration { return x.Busy })
	out.Tags = dearest(out.Tags, top, func(x TagCost) time.Duration { return x.Busy })
	return out
}

// Costs returns the costs since the server was created, without the list of sessions: the cost of
// each is in its Stats. It reads no session.
func (srv *Server) Costs() Costs {
	process := cputime.Process()
	out := Costs{For: time.Duration(srv.now()), Process: process, Closed: time.Duration(srv.costs.closed.Load())}
	r := &CostReader{srv: srv}
	r.readAccounts(&out)
	const all = maxHandles + maxTags
	out.Handles = dearest(out.Handles, all, func(x HandleCost) time.Duration { return x.Busy })
	out.Tags = dearest(out.Tags, all, func(x TagCost) time.Duration { return x.Busy })
	return out
}

// readAccounts reads the costs of handles and tags.
func (r *CostReader) readAccounts(out *Costs) {
	c := &r.srv.costs
	accounts := map[*account]int64{}
	since := func(a *account) time.Duration {
		now := a.busy.load()
		accounts[a] = now
		return time.Duration(now - r.accounts[a])
	}
	moved := time.Duration(0) // of replaced tags: the part read before
	handle := func(a *account, other bool) {
		if d := since(a); d > 0 {
			main, sub := codec.Split(a.handle)
			out.Handles = append(out.Handles, HandleCost{main, sub, other, d})
			out.Busy += d
		}
	}
	handle(&c.rest, false)
	handle(&c.others, true)
	for _, a := range *c.handles.Load() {
		handle(a, false)
	}
	tag := func(d time.Duration, name string) {
		if d > 0 {
			out.Tags = append(out.Tags, TagCost{name, d})
		}
	}
	c.mu.Lock()
	tag(since(&c.none), "")
	for name, a := range c.tags {
		tag(since(a), name)
	}
	more := since(&c.more)
	c.mu.Unlock()
	for a, n := range r.accounts {
		if _, ok := accounts[a]; !ok { // accounts of handles are never removed
			moved += time.Duration(n)
		}
	}
	tag(more-moved, moreTags)
	r.accounts = accounts
}

// readSessions reads the costs of each session, and of those that have closed.
func (r *CostReader) readSessions(out *Costs) {
	c := &r.srv.costs
	c.mu.Lock()
	defer c.mu.Unlock()
	sessions := make(map[ID]int64, len(r.sessions))
	closed := c.closed.Load()
	known := int64(0) // of closed sessions: the part read before
	for _, n := range r.sessions {
		known += n
	}
	r.srv.table.each(func(s *Session) bool {
		if s.meter() == nil || s.meter().cost.done.Load() {
			return true
		}
		n := s.meter().cost.spent.Load()
		sessions[s.id] = n
		known -= r.sessions[s.id]
		if n > r.sessions[s.id] {
			out.Sessions = append(out.Sessions, SessionCost{s.id, s.meter().cost.tag.Load().tag, time.Duration(n - r.sessions[s.id])})
		}
		return true
	})
	out.Closed = time.Duration(closed - r.closed - known)
	r.sessions, r.closed = sessions, closed
}

// dearest sorts a list by cost and truncates it.
func dearest[T any](list []T, top int, busy func(T) time.Duration) []T {
	slices.SortFunc(list, func(a, b T) int { return cmp.Compare(busy(b), busy(a)) })
	return list[:min(top, len(list)):min(top, len(list))]
}
