package engine

import (
	"runtime"
	"sync/atomic"
	"time"

	"millrace/engine/internal/cputime"
	"millrace/internal/tally"
)

// The cost of a session is the time of its turns, on workers and on loops, and of the writes to it.
// The clock is read when a turn begins and ends, and between two handles; the difference is the
// time of a callback, and is charged to its session, to the session's tag and to its handle.
//
// This is elapsed time, which equals CPU time unless the callback waits for something. A handle
// that takes longer than longTurn may be waiting: from then on it is measured by the clock of its
// thread, to which it is locked meanwhile, and the turn that revealed it is charged longTurn. This
// costs about a microsecond.
const (
	longTurn = time.Millisecond
	longRuns = 64 // consecutive turns shorter than a quarter of that, after which elapsed time is used again

	maxHandles = 1024 // handles with their own account
	maxTags    = 1024

	moreTags = "..." // stands for further tags
)

// account sums up times.
type account struct {
	handle uint32
	tag    string
	busy   spread       // nanoseconds
	long   atomic.Int32 // above 0: turns of the handle may wait for something

	held int         // for a tag: number of sessions with it; guarded by costs.mu
	gone atomic.Bool // for a tag: it was replaced; late charges go to costs.more
}

// spread is a sum that many goroutines add to: each loop's sessions, and the goroutines that run
// them, use a separate cache line, if there are no more than spreads loops.
type spread [spreads]struct {
	n atomic.Int64
	_ [64 - 8]byte
}

const spreads = 16 // times 64 bytes for each account

func (x *spread) add(lane int, n int64) { x[lane%spreads].n.Add(n) }

// load returns the sum.
func (x *spread) load() (n int64) {
	for i := range x {
		n += x[i].n.Load()
	}
	return n
}

// take resets the sum to 0, and returns it.
func (x *spread) take() (n int64) {
	for i := range x {
		if x[i].n.Load() != 0 {
			n += x[i].n.Swap(0)
		}
	}
	return n
}

// costs are a server's accounts.
//
// A handle has its own account if Config.Handles or SetDispatch names it, or if the handler knows
// it (HandleKnower); for a handler that is not a HandleKnower, the first maxHandles handles have
// one. So handles that peers invent take no account from real ones.
type costs struct {
	on  bool
	srv *Server

	handles atomic.Pointer[map[uint32]*account] // copied on write
	rest    account                             // time outside of requests
	others  account                             // unknown handles, and those beyond maxHandles

	mu     tally.Mutex
	tags   map[string]*account // guarded by mu
	none   account             // of sessions without a tag
	more   account             // tags beyond maxTags, and replaced ones
	closed atomic.Int64        // of closed sessions; moved here under mu
}

func (c *costs) init(srv *Server) {
	c.on, c.srv = srv.cfg.costs(), srv
	c.handles.Store(&map[uint32]*account{})
	c.tags = map[string]*account{}
	c.more.tag = moreTags
	for handle := range srv.cfg.Handles {
		c.name(handle)
	}
}

// name opens the account of a handle that the program has named.
func (c *costs) name(handle uint32) {
	if c.on && handle != 0 {
		c.open(handle)
	}
}

// known reports whether a handle is served.
func (c *costs) known(handle uint32) bool {
	h, ok := c.srv.handler().(HandleKnower)
	return !ok || h.Knows(handle)
}

// of returns the account of a handle.
func (c *costs) of(handle uint32) *account {
	if handle == 0 {
		return &c.rest
	}
	all := *c.handles.Load()
	if a := all[handle]; a != nil {
		return a
	}
	if len(all) >= maxHandles || !c.known(handle) { // without the lock, as any packet may have such a handle
		return &c.others
	}
	return c.open(handle)
}

// open opens an account.
func (c *costs) open(handle uint32) *account {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := *c.handles.Load()
	if a := old[handle]; a != nil {
		return a
	}
	if len(old) >= maxHandles {
		return &c.others
	}
	next := make(map[uint32]*account, len(old)+1)
	for h, a := range old {
		next[h] = a
	}
	a := &account{handle: handle}
	next[handle] = a
	c.handles.Store(&next)
	return a
}

// cost is the cost of one session.
type cost struct {
	costs *costs
	srv   *Server
	lane  int          // the loop's number: its element of shared sums
	spent atomic.Int64 // nanoseconds; moved to costs.closed when done
	tag   atomic.Pointer[account]
	done  atomic.Bool // set under costs.mu

	// Used on the strand only. at is since when the running turn has not been charged.
	at     int64    // since when what runs has not been charged
	runs   *account // account to charge; nil if nothing has run in this turn
	thread bool     // measured by the thread's clock, since:
	from   time.Duration
}

func (c *cost) init(l *loop) {
	srv := l.srv
	c.srv, c.costs, c.lane = srv, &srv.costs, l.index
	c.tag.Store(&srv.costs.none)
}

// begin begins a turn. On the strand.
func (m *meter) begin(now int64) {
	if m == nil || !m.cost.costs.on {
		return
	}
	m.cost.at, m.cost.runs, m.cost.thread = now, nil, false
}

// turnTo charges the turn's time from now on to a handle; 0 for time outside of requests. On the
// strand.
func (m *meter) turnTo(handle uint32) {
	if m != nil && m.cost.costs.on {
		m.cost.turnTo(handle)
	}
}

func (c *cost) turnTo(handle uint32) {
	if c.runs != nil {
		if c.runs.handle == handle && c.runs != &c.costs.others {
			return
		}
		c.charge(c.srv.now())
	}
	c.runs = c.costs.of(handle)
	if c.runs.long.Load() > 0 {
		runtime.LockOSThread()
		c.thread, c.from = true, cputime.Thread()
	}
}

// end ends a turn. On the strand.
func (m *meter) end() {
	if m != nil && m.cost.costs.on {
		m.cost.end()
	}
}

func (c *cost) end() {
	if c.runs == nil {
		c.runs = &c.costs.rest
	}
	c.charge(c.srv.now())
	c.runs = nil
}

// charge charges the time since the last charge.
func (c *cost) charge(now int64) {
	a, took := c.runs, time.Duration(now-c.at)
	c.at = now
	switch {
	case c.thread:
		if took < longTurn/4 {
			a.long.Add(-1)
		} else {
			a.long.Store(longRuns)
		}
		took = cputime.Thread() - c.from
		c.thread = false
		runtime.UnlockOSThread()
	case took > longTurn && cputime.Known:
		a.long.Store(longRuns)
		took = longTurn
	}
	c.add(a, int64(took))
}

// add charges n nanoseconds. Any goroutine.
func (c *cost) add(a *account, n int64) {
	a.busy.add(c.lane, n)
	tag := c.tag.Load()
	if tag.busy.add(c.lane, n); tag.gone.Load() { // it has just been replaced
		c.costs.more.busy.add(c.lane, tag.busy.take())
	}
	c.spent.Add(n)
	if c.done.Load() { // the slot is already free, as a write may end a session
		c.costs.closed.Add(c.spent.Swap(0))
	}
}

// close moves the session's cost to that of closed sessions. Nothing of it runs any more.
func (m *meter) close() {
	if m == nil || !m.cost.costs.on {
		return
	}
	c := &m.cost
	c.costs.mu.Lock()
	defer c.costs.mu.Unlock()
	c.done.Store(true)
	c.tag.Load().held--
	c.costs.closed.Add(c.spent.Swap(0))
}

// costClock returns the time if writes are charged, and 0 if not.
func (l *loop) costClock() int64 {
	if !l.srv.costs.on {
		return 0
	}
	return l.srv.now()
}

// charge charges the session for a write that began at began; 0 means that it is not charged. It
// returns the start time of the next write.
func (l *loop) charge(s *Session, began int64) (now int64) {
	if began == 0 {
		return 0
	}
	now = l.srv.now()
	s.meter().cost.add(&l.srv.costs.rest, now-began)
	return now
}

// Tag returns the tag set by SetTag; "" for none, and "..." if there were too many.
func (s *Session) Tag() string {
	if s.meter() == nil || !s.meter().cost.costs.on {
		return ""
	}
	return s.meter().cost.tag.Load().tag
}

// SetTag sets a name under which the session's costs are summed from now on, together with those of
// other sessions with that tag: a tenant, a plan, a client version. A server keeps 1,024 tags; when
// there are more, a tag without sessions is replaced by a new one. The costs of replaced tags, and
// of further tags, are summed under "...". The requests of one turn and handle are charged
// together, to the tag at that time. It has no effect without Config.Costs or SessionCPU.
func (s *Session) SetTag(tag string) {
	if s.meter() == nil {
		return
	}
	c, m := &s.srv.costs, &s.meter().cost
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.on || m.done.Load() {
		return
	}
	a, old := c.tagged(tag), m.tag.Load()
	a.held++
	old.held--
	m.tag.Store(a)
}

// tagged returns the account of a tag. mu is held.
func (c *costs) tagged(tag string) *account {
	if tag == "" {
		return &c.none
	}
	if a := c.tags[tag]; a != nil {
		return a
	}
	if len(c.tags) >= maxTags && !c.giveWay() {
		return &c.more
	}
	a := &account{tag: tag}
	c.tags[tag] = a
	return a
}

// giveWay removes a tag without sessions; false if there is none. mu is held.
func (c *costs) giveWay() bool {
	for name, a := range c.tags {
		if a.held == 0 {
			delete(c.tags, name)
			a.gone.Store(true)
			c.more.busy.add(0, a.busy.take())
			return true
		}
	}
	return false
}
