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

// moves moves sessions from node to node. It implements engine.OtherServers.
//
// A client connects to node B with a token whose mark says that node A began its session. B asks
// A, which suspends the session when its requests are answered, and sends its state in parts.
// Until B commits, A can take the session back, and does so if it gets no question from B for
// Config.TakeoverTimeout. At the commit A ends the session. Only A decides that, so of two nodes
// that ask only one gets the session. A then remembers for some time where it went.
type moves struct {
	n *Node

	places  chan struct{} // one element for each session that is coming; capacity Config.MaxTakeovers
	serving atomic.Int64  // questions of other nodes that are being answered
	in, out load          // bytes of sessions that are coming and going

	mu     sync.Mutex
	offers map[offerKey]*offer        // guarded by mu
	opens  map[offerKey]*opening      // guarded by mu; those that are being made
	gone   map[engine.TokenSum]wentTo // guarded by mu; where a session went last, by its token's sum
	left   map[engine.ID]bool         // guarded by mu; sessions of this node that have moved away
	order  []departed                 // guarded by mu; the entries of gone and left, oldest first
	to     map[string]int             // guarded by mu; how many sessions are coming, by group
	taking map[engine.TokenSum]bool   // guarded by mu; sessions that this node is taking over

	taken, given, forgotten atomic.Uint64
	not                     [notTakenCount]atomic.Uint64
	line                    seldom.Line
}

// departed is a session that another node has taken over.
type departed struct {
	sum   engine.TokenSum
	id    engine.ID
	to    uint64 // the process that has taken it over
	users []string
	until time.Time
	late  bool // its users have been checked, see sweeper
	at    time.Time
}

// wentTo is the process that a session has moved to, and the ID that it had here.
type wentTo struct {
	process uint64
	was     engine.ID
}

// load limits the bytes of sessions that are moving. Only the start of a move can be refused. What a
// session is sent during its move is counted but never refused, as it would be lost; new moves then
// have to wait.
type load struct {
	most int64
	used atomic.Int64
}

// take counts bytes of a session that begins to move; false if they exceed the limit. A single
// session is never refused.
func (l *load) take(bytes int) bool {
	if used := l.used.Add(int64(bytes)); used > l.most && used > int64(bytes) {
		l.used.Add(-int64(bytes))
		return false
	}
	return true
}

func (l *load) add(bytes int) { l.used.Add(int64(bytes)) }

// NotTaken is the reason why a session was not taken over.
type NotTaken uint8

// The reasons.
const (
	NotTakenDead     NotTaken = iota // its node is dead, can't be reached, or did not answer in time
	NotTakenUnknown                  // its node does not know the token, or the session has closed
	NotTakenBusy                     // its requests are in progress, too many sessions are moving, or another node is taking it
	NotTakenTooLarge                 // its frames and state exceed TakeoverBytes
	NotTakenKept                     // its handler does not implement Handoff, or MarshalSession failed
	NotTakenHere                     // this server, or its handler's UnmarshalSession, refused it
	notTakenCount
)

var notTakenNames = [notTakenCount]string{"dead", "unknown", "busy", "too_large", "kept", "refused"}

func (u NotTaken) String() string {
	if u < notTakenCount {
		return notTakenNames[u]
	}
	return "unknown"
}

// MarshalText makes NotTaken usable as a key in JSON.
func (u NotTaken) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// whyNot is an error with the reason that it counts as.
type whyNot struct {
	why NotTaken
	err error
}

func (e *whyNot) Error() string { return e.err.Error() }
func (e *whyNot) Unwrap() error { return e.err }

// notTakenBy returns the reason that an error of a takeover counts as.
func notTakenBy(err error) NotTaken {
	var u *whyNot
	switch {
	case errors.As(err, &u):
		return u.why
	case errors.Is(err, engine.ErrUnknownToken), errors.Is(err, engine.ErrClosed):
		return NotTakenUnknown
	case errors.Is(err, engine.ErrUnsettled), errors.Is(err, engine.ErrBeingTaken), errors.Is(err, cluster.ErrOverloaded):
		return NotTakenBusy
	case errors.Is(err, engine.ErrTransferTooLarge), errors.Is(err, cluster.ErrTooLarge):
		return NotTakenTooLarge
	}
	return NotTakenKept
}

func (m *moves) init(n *Node) {
	m.n = n
	m.in.most = int64(n.cfg.MaxTakeovers) * int64(n.cfg.TakeoverBytes)
	m.out.most = m.in.most
	m.places = make(chan struct{}, n.cfg.MaxTakeovers)
	m.offers, m.opens = map[offerKey]*offer{}, map[offerKey]*opening{}
	m.gone, m.left = map[engine.TokenSum]wentTo{}, map[engine.ID]bool{}
	m.to, m.taking = map[string]int{}, map[engine.TokenSum]bool{}
}

var _ engine.OtherServers = (*moves)(nil)

// markOf returns the first bytes of the tokens of a process.
func markOf(process uint64) (b [engine.MarkLen]byte) {
	binary.BigEndian.PutUint32(b[:], uint32(mix(process)))
	return b
}

// Mark implements engine.OtherServers.
func (m *moves) Mark() [engine.MarkLen]byte { return markOf(m.n.process) }

// Others implements engine.OtherServers. A node that is not on the list for a moment, because this one can't
// reach it, counts as long as its lease may last.
func (m *moves) Others() bool {
	heard := m.n.heardUp.Load()
	return len(m.n.ups()) > 0 || heard != 0 && time.Since(time.Unix(0, heard)) < m.n.cache.Lease()
}

// Lives implements engine.OtherServers. It may be true for a token of this process too, whose session
// another node has taken over.
func (m *moves) Lives(token codec.Token) bool {
	_, ok := m.holder(token)
	return ok
}

// holder returns the living process that may have a token's session: the one that it went to from
// here, or else the one whose mark the token has.
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

// comingTo returns how many sessions are coming that are members of a group.
func (m *moves) comingTo(group string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.to[group]
}

// hasGone reports whether a session of this node has been taken over by another recently, or is about
// to be: that one is about to tell the store of its users.
func (m *moves) hasGone(id engine.ID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.left[id]
}

// goes records that a session is about to move: whoever comes with its token, or sends to its user, is
// to wait for it from then on.
func (m *moves) goes(o *offer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	id := o.d.Session.ID()
	m.gone[o.sum], m.left[id] = wentTo{o.to, id}, true
}

// stays undoes goes.
func (m *moves) stays(o *offer) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.gone, o.sum)
	delete(m.left, o.d.Session.ID())
}

// went records that a session, of which goes was called, has been given to another process.
func (m *moves) went(o *offer, users []string) {
	m.given.Add(1)
	now := time.Now()
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.order) >= m.n.cfg.MaxMoved {
		m.forget()
		m.forgotten.Add(1)
	}
	o.given = true
	m.order = append(m.order, departed{sum: o.sum, id: o.d.Session.ID(), to: o.to, users: users, at: now, until: now.Add(m.remembers())})
}

// remembers returns how long it is remembered where a session went: as long as its client may come
// here with its token.
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

// sweeper runs on a goroutine of its own until the node stops. It forgets sessions that moved long
// ago, and checks the bindings of users whose session's new node has died, maybe before it stored
// them. While that node lives they are left alone: it may not have reached the store yet.
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

// begins marks a session as being taken over by this node; false if it is already.
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

// takenPause is the time between two attempts for a session that is moving already.
const takenPause = 20 * time.Millisecond

func (m *moves) addTo(st *Stats) {
	st.Taken, st.Given, st.Forgotten, st.NotTaken = m.taken.Load(), m.given.Load(), m.forgotten.Load(), map[NotTaken]uint64{}
	m.mu.Lock()
	st.Moved = len(m.order)
	m.mu.Unlock()
	for u := range notTakenCount {
		st.NotTaken[u] = m.not[u].Load()
	}
}

// TakeOver implements engine.OtherServers.
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
	why := notTakenBy(err)
	m.not[why].Add(1)
	if held, ok := m.line.Due(); ok {
		m.n.cfg.Logger.Info("nodes: a session of another node is not taken over", "why", why.String(), "err", err, "omitted", held)
	}
}
