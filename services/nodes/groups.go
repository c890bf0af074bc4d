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

// groups are those that have members here, or are sent to from here.
type groups struct {
	n   *Node
	mu  sync.Mutex
	all map[string]*group // guarded by mu

	gone map[uint64]time.Time // guarded by mu; processes with members that are not known to live, since when

	asked atomic.Uint64 // the number of the last question of how many members others have

	counting func(count int) // of tests, set before Start: called between counting and telling
}

// group is one of them.
//
// Of the members that others have each node keeps a count, for answers. It decides only
// whether a message is sent at all, and that only where all others have said that they have no
// member. So that nobody is passed over, what a node says of a group comes to each other one in
// the order in which it was true: it counts and sends under one lock, by the one way that keeps
// the order, and answers to questions come that way too.
type group struct {
	name string
	out  outbound

	pins atomic.Int32 // calls that use it; grows under groups.mu only. It is not let go meanwhile
	used atomic.Int64 // when it was, in nanoseconds since 1970

	cross crossing // of its messages with sessions that come and go

	joining sync.Mutex // makes and ends the subscriptions, and asks; taken before telling
	telling sync.Mutex // the members here are counted and told; taken before mu

	mu     sync.Mutex
	in     inbound               // the goroutine that delivers has it alone
	counts map[uint64]int        // guarded by mu; members on other nodes, where there are some
	frames *cluster.Subscription // guarded by mu; nil: none
	news   *cluster.Subscription // guarded by mu; of the others' counts
	stands bool                  // guarded by mu; the servers have had both
	sure   bool                  // guarded by mu; all others have said how many they have
	told   bool                  // guarded by mu; all others have said that they know of members here, and were not told of none since
	untold bool                  // guarded by mu; the last count could not be sent
	asks   uint64                // guarded by mu; that have begun
	ask    *asking               // guarded by mu; under way
}

// asking is a question to all others: how many members have you, of whom there are so many here?
type asking struct {
	number uint64
	awaits map[uint64]bool // guarded by the group's mu; who has not answered
	all    chan struct{}   // closed when none is left
	sure   bool            // guarded by the group's mu; nothing was lost since it began
	told   bool            // guarded by the group's mu; there are members here, and have been since
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

// get returns the group, made if it was not known. It is kept until unpin.
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
		gs.all[name] = g
	}
	g.pins.Add(1)
	return g, nil
}

func (g *group) unpin() {
	g.used.Store(time.Now().UnixNano())
	g.pins.Add(-1)
}

// members is how many there are on this node, or are just coming.
func (gs *groups) members(name string) int {
	if srv := gs.n.server(); srv != nil {
		return gs.n.moves.comingTo(name) + srv.Group(name).Len()
	}
	return 0
}

// Join makes s a member of the group of that name, which has members on all nodes, and
// returns how many these are, as far as is known. Sends of any node that begin behind it
// reach s, unless the servers are away: then it is in force here at once, and elsewhere when
// they are back. Errors: engine.ErrClosed, engine.ErrLimit.
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

// Leave ends s's membership, and returns how many members are left, as far as is known.
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

// SendGroup sends a frame to all members of a group, as what they have not asked for, and
// returns how many these are, as far as is known. s is the session whose callback sends; nil:
// none does. What this node's members are sent decides the error: engine.Group.Send's.
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
		return sent, nil // it has reached whom it could
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

// deliver hands a frame of another node to this one's members.
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
