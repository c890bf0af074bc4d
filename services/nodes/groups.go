package nodes

import (
	"context"
	"encoding/base64"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine"
	"millrace/services/cluster"
	"millrace/services/nodes/internal/envelope"
)

// groups are the groups that have members here, or are sent to from here.
type groups struct {
	n   *Node
	mu  sync.Mutex
	all map[string]*group // guarded by mu

	ended recents[string, uint64] // guarded by mu; the numbers of the last messages sent to groups that were removed, by name

	gone map[uint64]time.Time // guarded by mu; processes that have members but are not known to live, since when

	asked atomic.Uint64 // the number of the last request for member counts

	counting func(count int) // for tests, set before Start: called between counting and sending
}

// group is one group as this node sees it.
//
// Each node keeps the member counts of the other nodes. They are returned to callers, and they
// decide whether a message is sent to the bus at all: it is not sent only if all other nodes have
// reported that they have no members. So that no member is missed, a node's reports about a group
// reach each other node in the order in which they were true: the node counts and publishes under
// one lock, over the one path that keeps order, and answers to requests use the same path.
type group struct {
	name string
	out  outbound

	pins atomic.Int32 // calls that use it; increased under groups.mu only. It is not removed meanwhile
	used atomic.Int64 // time of last use, in nanoseconds since 1970

	cross crossing // of its messages with sessions that move to or from this node

	joining sync.Mutex // held while subscriptions are made or ended, and during requests; locked before telling
	telling sync.Mutex // held while the members here are counted and published; locked before mu

	mu     sync.Mutex
	in     inbound               // used by the delivering goroutine only
	counts map[uint64]int        // guarded by mu; members on other nodes that have any
	frames *cluster.Subscription // guarded by mu; nil: none
	news   *cluster.Subscription // guarded by mu; for the others' counts
	stands bool                  // guarded by mu; the servers have received both
	sure   bool                  // guarded by mu; all others have reported their counts
	told   bool                  // guarded by mu; all others have confirmed members here, and were not sent a count of 0 since
	untold bool                  // guarded by mu; the last count could not be sent
	asks   uint64                // guarded by mu; number of requests begun
	ask    *asking               // guarded by mu; in progress
}

// asking is a request to all other nodes for their member counts, which also carries the count of
// this node.
type asking struct {
	number uint64
	awaits map[uint64]bool // guarded by the group's mu; processes that have not answered
	all    chan struct{}   // closed when none is left
	sure   bool            // guarded by the group's mu; nothing was lost since it began
	told   bool            // guarded by the group's mu; there have been members here since it began
}

func frameSubject(name string) string {
	return "g." + base64.RawURLEncoding.EncodeToString([]byte(name))
}
func newsSubject(name string) string {
	return "k." + base64.RawURLEncoding.EncodeToString([]byte(name))
}

func (gs *groups) init(n *Node) {
	gs.n, gs.all, gs.gone = n, map[string]*group{}, map[uint64]time.Time{}
}

func (gs *groups) len() int {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	return len(gs.all)
}

func (gs *groups) find(name string) *group {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	return gs.all[name]
}

// get returns the group, creating it if needed. It is kept until unpin.
func (gs *groups) get(name string) (*group, error) {
	if len(name) > envelope.MaxKey/2 {
		return nil, fmt.Errorf("%w: a group's name of %d bytes: at most %d", engine.ErrLimit, len(name), envelope.MaxKey/2)
	}
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g := gs.all[name]
	if g == nil {
		if len(gs.all) >= gs.n.cfg.MaxGroups {
			return nil, fmt.Errorf("%w: %d groups on this node", engine.ErrLimit, len(gs.all))
		}
		g = &group{name: name, counts: map[uint64]int{}}
		g.out.last, _ = gs.ended.of(name) // the stream goes on, or a message lost at its end would not be missed
		gs.all[name] = g
	}
	g.pins.Add(1)
	return g, nil
}

func (g *group) unpin() {
	g.used.Store(time.Now().UnixNano())
	g.pins.Add(-1)
}

// members returns the number of members on this node, including those that are moving to it.
func (gs *groups) members(name string) int {
	if srv := gs.n.server(); srv != nil {
		return gs.n.moves.comingTo(name) + srv.Group(name).Len()
	}
	return 0
}

// Join makes s a member of the group of that name, which can have members on all nodes, and returns
// how many these are, as far as known. Sends of any node that begin after Join has returned reach
// s. If the NATS servers are unavailable, that holds at once for sends of this node, and for other
// nodes when the servers are back. Errors: engine.ErrClosed, engine.ErrLimit.
func (n *Node) Join(ctx context.Context, s *engine.Session, name string) (members int, err error) {
	here := s.Server().Group(name)
	if n.bus == nil {
		return here.Join(s)
	}
	g, err := n.groups.get(name)
	if err != nil {
		return 0, err
	}
	defer g.unpin()
	own, err := here.JoinWith(s, func(*engine.Session) { n.groups.tellOf(name) })
	if err != nil {
		return 0, err
	}
	n.groups.hasMembers(ctx, g)
	return own + n.groups.elsewhere(g), nil
}

// Leave removes s from the group, and returns how many members are left, as far as known.
func (n *Node) Leave(s *engine.Session, name string) (members int, err error) {
	members, err = s.Server().Group(name).Leave(s)
	if n.bus == nil || err != nil {
		return members, err
	}
	n.groups.tellOf(name)
	if g := n.groups.find(name); g != nil {
		members += n.groups.elsewhere(g)
	}
	return members, nil
}

// SendGroup sends an unsolicited frame to all members of a group, and returns how many these are,
// as far as known. s is the session whose callback sends; nil: none. The error is that of
// engine.Group.Send for this node's members.
func (n *Node) SendGroup(ctx context.Context, s *engine.Session, name string, main, sub uint16, body []byte) (sent int, err error) {
	if n.bus == nil {
		return n.sendHere(name, s, main, sub, body)
	}
	g, err := n.groups.get(name)
	if err != nil {
		return 0, err
	}
	defer g.unpin()
	n.groups.knowOthers(ctx, g)
	g.cross.mu.RLock()
	defer g.cross.mu.RUnlock()
	if sent, err = n.sendHere(name, s, main, sub, body); err != nil {
		return sent, err
	}
	e := envelope.Envelope{Kind: envelope.Group, Source: n.process, Key: name, Handle: handle(main, sub), Body: body}
	g.mu.Lock()
	alone := g.sure && len(g.counts) == 0
	g.mu.Unlock()
	if alone {
		g.cross.pass(e)
		return sent, nil
	}
	others := n.groups.elsewhere(g)
	e.Number, err = g.out.number(n, frameSubject(name), e)
	g.cross.pass(e)
	if err != nil {
		n.lose(err)
		return sent, nil // it has reached every reachable member
	}
	return sent + others, nil
}

func (n *Node) sendHere(name string, s *engine.Session, main, sub uint16, body []byte) (int, error) {
	switch srv := n.server(); {
	case srv == nil:
		return 0, nil
	case s != nil:
		return s.SendGroup(srv.Group(name), main, sub, body)
	default:
		return srv.Group(name).Send(main, sub, body)
	}
}

// deliver sends a frame of another node to this node's members.
func (gs *groups) deliver(e envelope.Envelope) {
	g := gs.find(e.Key)
	if g == nil || !gs.n.fresh(&g.in, e, "group "+e.Key) {
		return
	}
	main, sub := split(e.Handle)
	gs.n.cross(&g.cross, e, func() error {
		_, err := gs.n.sendHere(e.Key, nil, main, sub, e.Body)
		return err
	})
}
