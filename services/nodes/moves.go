package nodes

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/internal/seldom"
	"millrace/services/cluster"
)

// moves are sessions on their way from node to node: engine.Elsewhere.
//
// A client comes to node B with a token whose mark says that node A began its session. B asks
// A, which has the session stand still once its requests are answered, and sends its state in
// parts; until B commits, A can take it back, and does if it hears nothing for
// Config.TakeoverTimeout. With the commit A ends the session: that is decided on A alone, so
// that of two nodes one gets it. From then on A remembers for a while where it went.
type moves struct {
	n *Node

	places  chan struct{} // of sessions that come; Config.MaxTakeovers
	serving atomic.Int64  // questions of others that are worked at
	in, out load          // what is on its way here and from here

	mu     sync.Mutex
	offers map[uint64]*offer          // guarded by mu; by id
	last   uint64                     // guarded by mu; the id of the last offer
	gone   map[engine.TokenSum]wentTo // guarded by mu; by what a session was found, and where it went last
	left   map[engine.ID]bool         // guarded by mu; sessions of this node that have gone
	order  []departed                 // guarded by mu; what stands in gone and left, the oldest first
	to     map[string]int             // guarded by mu; groups that sessions are coming to
	taking map[engine.TokenSum]bool   // guarded by mu; what is being taken over by this node

	taken, given atomic.Uint64
	not          [untakenCount]atomic.Uint64
	line         seldom.Line
}

// departed is a session that another node has taken over.
type departed struct {
	sum   engine.TokenSum
	id    engine.ID
	to    uint64 // the process that has taken it over
	users []string
	until time.Time
	late  bool // the users have been looked after
	at    time.Time
}

// wentTo is where a session is that had an ID here.
type wentTo struct {
	process uint64
	was     engine.ID
}

// load is how many bytes of sessions are on their way. What a session is sent behind its
// beginning is counted and not refused, as it would be lost: others wait for it.
type load struct {
	most int64
	used atomic.Int64
}

// take counts bytes of a session that begins to move; false: there is no room for them now.
// Alone, one always has.
func (l *load) take(bytes int) bool {
	if used := l.used.Add(int64(bytes)); used > l.most && used > int64(bytes) {
		l.used.Add(-int64(bytes))
		return false
	}
	return true
}

func (l *load) add(bytes int) { l.used.Add(int64(bytes)) }

// maxGoneSessions is how many sessions are remembered that others have taken over.
const maxGoneSessions = 1 << 16

// Untaken is why a session was not taken over.
type Untaken uint8

// The reasons.
const (
	UntakenDead     Untaken = iota // its node is dead or can't be reached, or has not answered in time
	UntakenUnknown                 // its node does not know it, or not any more
	UntakenBusy                    // requests of it are under way, or too many sessions are on their way, or another node is taking it
	UntakenTooLarge                // it would take along more than TakeoverBytes
	UntakenKept                    // its handler keeps it, or can't do without
	UntakenHere                    // this server or its handler does not take it
	untakenCount
)

var untakenNames = [untakenCount]string{"dead", "unknown", "busy", "too_large", "kept", "refused"}

func (u Untaken) String() string {
	if u < untakenCount {
		return untakenNames[u]
	}
	return "unknown"
}

// MarshalText makes Untaken usable as a key in JSON.
func (u Untaken) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// whyNot is an error with its reason.
type whyNot struct {
	why Untaken
	err error
}

func (e *whyNot) Error() string { return e.err.Error() }
func (e *whyNot) Unwrap() error { return e.err }

// untakenBy says why a session was not taken over.
func untakenBy(err error) Untaken {
	var u *whyNot
	switch {
	case errors.As(err, &u):
		return u.why
	case errors.Is(err, engine.ErrUnknownToken), errors.Is(err, engine.ErrClosed):
		return UntakenUnknown
	case errors.Is(err, engine.ErrUnsettled), errors.Is(err, engine.ErrBeingTaken), errors.Is(err, cluster.ErrOverloaded):
		return UntakenBusy
	case errors.Is(err, engine.ErrCarriedTooLarge), errors.Is(err, cluster.ErrTooLarge):
		return UntakenTooLarge
	}
	return UntakenKept
}

func (m *moves) init(n *Node) {
	m.n = n
	m.in.most = int64(n.cfg.MaxTakeovers) * int64(n.cfg.TakeoverBytes)
	m.out.most = m.in.most
	m.places = make(chan struct{}, n.cfg.MaxTakeovers)
	m.offers, m.gone, m.left = map[uint64]*offer{}, map[engine.TokenSum]wentTo{}, map[engine.ID]bool{}
	m.to, m.taking = map[string]int{}, map[engine.TokenSum]bool{}
}

var _ engine.Elsewhere = (*moves)(nil)

// markOf is what the tokens of a process begin with.
func markOf(process uint64) (b [engine.MarkLen]byte) {
	binary.BigEndian.PutUint32(b[:], uint32(mix(process)))
	return b
}

// Mark implements engine.Elsewhere.
func (m *moves) Mark() [engine.MarkLen]byte { return markOf(m.n.process) }

// Others implements engine.Elsewhere.
func (m *moves) Others() bool { return len(m.n.ups()) > 0 }

// Lives implements engine.Elsewhere: a token of this process may be one of a session that
// another has taken over.
func (m *moves) Lives(token codec.Token) bool {
	_, ok := m.holder(token)
	return ok
}

// holder is the process that may have a token's session.
func (m *moves) holder(token codec.Token) (uint64, bool) {
	sum, mark := engine.SumOf(token), [engine.MarkLen]byte(token[:])
	m.mu.Lock()
	to, ok := m.gone[sum]
	m.mu.Unlock()
	if ok {
		_, lives := m.n.byProcess(to.process)
		return to.process, lives
	}
	for _, o := range m.n.others() {
		if markOf(o.Process) == mark {
			return o.Process, true
		}
	}
	return 0, false
}

// comingTo is how many sessions are on their way to members of a group.
func (m *moves) comingTo(group string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.to[group]
}

// hasGone tells whether a session of this node has been taken over not long ago.
func (m *moves) hasGone(id engine.ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.left[id]
}

// went notes that a session is another process's.
func (m *moves) went(o *offer, users []string) {
	m.given.Add(1)
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.order) >= maxGoneSessions {
		m.forget()
	}
	m.gone[o.sum], m.left[o.d.Session.ID()] = wentTo{o.to, o.d.Session.ID()}, true
	m.order = append(m.order, departed{sum: o.sum, id: o.d.Session.ID(), to: o.to, users: users, at: now, until: now.Add(m.remembers())})
}

// remembers is how long it is known where a session went: as long as its client may come.
func (m *moves) remembers() time.Duration {
	d := 2 * m.n.cfg.TakeoverTimeout
	if srv := m.n.server(); srv != nil {
		d = max(d, srv.Config().Resume)
	}
	return d
}

// forget drops the oldest. mu is held.
func (m *moves) forget() {
	o := m.order[0]
	m.order = m.order[1:]
	delete(m.left, o.id)
	if m.gone[o.sum].was == o.id { // else it has come back and gone again
		delete(m.gone, o.sum)
	}
}

// sweeper's goroutine forgets sessions that went long ago, and looks after the users of those
// whose new node may have died before it told the store. As long as that lives it may still be
// about to, if it can't reach the store.
func (m *moves) sweeper() {
	for sleep(m.n.run, time.Second) {
		m.sweep(time.Now())
	}
}

func (m *moves) sweep(now time.Time) {
	var users []string
	m.mu.Lock()
	none := len(m.order) == 0
	m.mu.Unlock()
	if none {
		return
	}
	living := m.n.living()
	m.mu.Lock()
	for i := range m.order {
		o := &m.order[i]
		if !o.late && now.Sub(o.at) > 2*m.n.cfg.TakeoverTimeout && (!living[o.to] || now.After(o.until)) {
			o.late = true
			delete(m.left, o.id)
			users = append(users, o.users...)
		}
	}
	for len(m.order) > 0 && now.After(m.order[0].until) {
		m.forget()
	}
	m.mu.Unlock()
	for _, user := range users {
		m.n.users.todo.add(user)
	}
}

// begins tells whether a session is not being taken over by this node, and says that it is.
func (m *moves) begins(sum engine.TokenSum) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.taking[sum] {
		return false
	}
	m.taking[sum] = true
	return true
}

// errHere: the session is at this node, where the engine finds it.
var errHere = errors.New("nodes: the session is here")

// takenPause is how long it takes to ask again for a session that is on its way to another.
const takenPause = 20 * time.Millisecond

func (m *moves) addTo(st *Stats) {
	st.Taken, st.Given, st.NotTaken = m.taken.Load(), m.given.Load(), map[Untaken]uint64{}
	for u := range untakenCount {
		st.NotTaken[u] = m.not[u].Load()
	}
}

// TakeOver implements engine.Elsewhere.
func (m *moves) TakeOver(a *engine.Arrival) {
	ctx, cancel := context.WithTimeout(a.Context(), m.n.cfg.TakeoverTimeout)
	defer cancel()
	err := m.take(ctx, a)
	if err == nil {
		m.taken.Add(1)
		return
	}
	if errors.Is(err, errHere) {
		return
	}
	why := untakenBy(err)
	m.not[why].Add(1)
	if held, ok := m.line.Due(); ok {
		m.n.cfg.Logger.Info("nodes: a session of another node is not taken over", "why", why.String(), "err", err, "held back", held)
	}
}
