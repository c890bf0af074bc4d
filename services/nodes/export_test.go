package nodes

import (
	"time"

	"millrace/engine"
	"millrace/services/nodes/internal/envelope"
)

// TakeUser is what the node does with a frame for a user's session that another has sent by
// that epoch: whether it takes it, or knows of a newer one.
func (n *Node) TakeUser(id engine.ID, user string, epoch uint64) (taken, stale bool) {
	a := n.users.deliver(envelope.Envelope{Kind: envelope.User, Session: uint64(id), Key: user, Epoch: epoch, Handle: 6<<16 | 6})
	return a.Flags == userTaken, a.Flags == userStale
}

// Tenures is of how many sessions the node keeps that they have users.
func (n *Node) Tenures() int {
	n.users.mu.Lock()
	defer n.users.mu.Unlock()
	return len(n.users.sessions)
}

// Counted is of how many other processes the node keeps a count of the group's members.
func (n *Node) Counted(group string) int {
	g := n.groups.find(group)
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.counts)
}

// Gone is of how many processes the node keeps that they had members and don't live.
func (n *Node) Gone() int {
	n.groups.mu.Lock()
	defer n.groups.mu.Unlock()
	return len(n.groups.gone)
}

// Counting has fn called whenever the node has counted a group's members and not told of them
// yet. It is called before Start.
func (n *Node) Counting(fn func(count int)) { n.groups.counting = fn }

// Serves tells whether a member serves calls of the handle, as far as is known.
func Serves(m Member, handle uint32) bool { return m.serves(handle) }

// Others are the living nodes beside this one.
func (n *Node) Others() []Member { return n.others() }

// MayGive tells whether there are nodes that sessions may move to.
func (n *Node) MayGive() bool { return n.moves.Others() }

// CallContext is the context of a call.
type CallContext = callContext

// NewCallContext makes one.
var NewCallContext = newCallContext

// End ends it, as the call's return does.
func (c *callContext) End() { c.end() }

// ParsePresent reads what another node says of who is in a group.
func ParsePresent(b []byte) ([]Present, error) { return parsePresent(b, Member{}) }

// TakesCalls tells whether the node takes calls of any node.
func (n *Node) TakesCalls() bool {
	n.calls.subscribing.Lock()
	defer n.calls.subscribing.Unlock()
	return len(n.calls.subs) > 0
}

// Who is how many members of a group the node says it has, and in how many bytes it tells of them, at most so many.
func (n *Node) Who(group string, most int) (count, bytes int) {
	e := n.who(group, most)
	return int(e.Epoch), len(e.Body)
}

// OnTheWay is how many bytes of sessions are on their way to the node and from it.
func (n *Node) OnTheWay() (in, out int64) { return n.moves.in.used.Load(), n.moves.out.used.Load() }

// Went has the node take a session for one that another process has taken over, and that it has not
// told the store of yet.
func (n *Node) Went(s *engine.Session, to uint64, user string) {
	n.users.gone(s, []string{user})
	o := &offer{to: to, d: &engine.Departure{Session: s}}
	n.moves.goes(o)
	n.moves.went(o, []string{user})
}

// Sweep is what the node does from time to time with those.
func (n *Node) Sweep(now time.Time) { n.moves.sweep(now) }

// Settle has the node compare a user with the store.
func (n *Node) Settle(user string) error { return n.users.settle(n.run, user) }

// Numbers has the last numbers of streams.
type Numbers = numbers

// MaxStreams is how many recent ones they have besides those of living processes.
const MaxStreams = maxStreams

// Of is a process's number; false: there is none.
func (x *recents[K, V]) Of(key K) (V, bool) { return x.of(key) }

// Set notes a process's number.
func (x *recents[K, V]) Set(key K, value V, living func() map[K]bool) { x.set(key, value, living) }

// Len is how many there are.
func (x *recents[K, V]) Len() int { return len(x.recent) + len(x.older) }
