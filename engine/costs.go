package engine

import (
	"cmp"
	"slices"
	"time"

	"millrace/codec"
	"millrace/engine/internal/cputime"
)

// Costs is what the sessions of a server cost in some time. Each of the three lists adds up
// to Busy, if it is whole: the sessions with Closed.
type Costs struct {
	For     time.Duration // how long it was
	Process time.Duration // CPU time of the process; 0 where the system doesn't tell
	Busy    time.Duration // of callbacks, and of writes to sockets
	Closed  time.Duration // of it that of sessions that have closed

	// Those that cost most, the dearest first; who cost nothing is left out.
	Sessions []SessionCost
	Handles  []HandleCost
	Tags     []TagCost
}

// SessionCost is what one session cost.
type SessionCost struct {
	ID   ID
	Tag  string
	Busy time.Duration
}

// HandleCost is what the requests of one handle cost. 0/0 is what is no request's: the other
// callbacks, functions given to Session.Submit, and writes. Other is set for that of the
// handles together which nobody knows (see HandleKnower) or which are behind the first 1,024.
type HandleCost struct {
	Main, Sub uint16
	Other     bool
	Busy      time.Duration
}

// TagCost is what the sessions with one tag cost; "" is those without, "..." those with more
// tags than are told apart.
type TagCost struct {
	Tag  string
	Busy time.Duration
}

// CostReader tells what sessions cost from one call of Next to the next. One goroutine at a
// time.
type CostReader struct {
	srv      *Server
	at       time.Time
	process  time.Duration
	closed   int64
	sessions map[ID]int64
	accounts map[*account]int64
}

// CostReader begins to read the costs, of which Config.Costs or SessionCPU has the server
// keep account. It takes 50 bytes for each session.
func (srv *Server) CostReader() *CostReader {
	r := &CostReader{srv: srv}
	r.Next(0)
	return r
}

// Next returns what was spent since it was called last, with at most top entries in each
// list. It looks at every session.
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

// Costs is what they cost since the server was made, without the list of sessions: what each
// of those cost stands in its Stats. It looks at no session.
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

// readAccounts reads what handles and tags have spent.
func (r *CostReader) readAccounts(out *Costs) {
	c := &r.srv.costs
	accounts := map[*account]int64{}
	since := func(a *account) time.Duration {
		now := a.busy.load()
		accounts[a] = now
		return time.Duration(now - r.accounts[a])
	}
	moved := time.Duration(0) // of tags that have given way, what was read before
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
		if _, ok := accounts[a]; !ok { // accounts of handles stay
			moved += time.Duration(n)
		}
	}
	tag(more-moved, moreTags)
	r.accounts = accounts
}

// readSessions reads what each session has spent, and those that have gone.
func (r *CostReader) readSessions(out *Costs) {
	c := &r.srv.costs
	c.mu.Lock()
	defer c.mu.Unlock()
	sessions := make(map[ID]int64, len(r.sessions))
	closed := c.closed.Load()
	known := int64(0) // of the sessions that have closed, what was read before
	for _, n := range r.sessions {
		known += n
	}
	r.srv.table.each(func(s *Session) bool {
		if s.meter == nil || s.meter.cost.done.Load() {
			return true
		}
		n := s.meter.cost.spent.Load()
		sessions[s.id] = n
		known -= r.sessions[s.id]
		if n > r.sessions[s.id] {
			out.Sessions = append(out.Sessions, SessionCost{s.id, s.meter.cost.tag.Load().tag, time.Duration(n - r.sessions[s.id])})
		}
		return true
	})
	out.Closed = time.Duration(closed - r.closed - known)
	r.sessions, r.closed = sessions, closed
}

// dearest sorts a list and cuts it.
func dearest[T any](list []T, top int, busy func(T) time.Duration) []T {
	slices.SortFunc(list, func(a, b T) int { return cmp.Compare(busy(b), busy(a)) })
	return list[:min(top, len(list)):min(top, len(list))]
}
