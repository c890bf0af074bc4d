package nodes

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"sync"
	"time"

	"millrace/engine"
	"millrace/services/cluster"
	"millrace/services/nodes/internal/envelope"
)

// groups are those that have members here, or are sent to from here. Of what others have
// each node keeps a count, for answers; nobody decides anything by it but whether a message
// is sent at all, and that only where all others have said that they have no member.
type groups struct {
	n   *Node
	mu  sync.Mutex
	all map[string]*group // guarded by mu
}

// group is one of them.
type group struct {
	name string

	joining sync.Mutex // makes and ends the subscriptions, and asks; taken before mu
	out     outbound

	mu     sync.Mutex
	in     inbound               // the goroutine that delivers has it alone
	counts map[uint64]int        // guarded by mu; members on other nodes, where there are some
	frames *cluster.Subscription // guarded by mu; nil: none
	news   *cluster.Subscription // guarded by mu; of the others' counts
	sure   bool                  // guarded by mu; all others have said how many they have
	asks   uint64                // guarded by mu; that have ended
	used   time.Time             // guarded by mu
}

func frameSubject(name string) string {
	return "g." + base64.RawURLEncoding.EncodeToString([]byte(name))
}
func newsSubject(name string) string {
	return "k." + base64.RawURLEncoding.EncodeToString([]byte(name))
}

func (gs *groups) init(n *Node) { gs.n, gs.all = n, map[string]*group{} }

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

// get returns the group, made if it was not known.
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
		g = &group{name: name, counts: map[uint64]int{}, used: time.Now()}
		gs.all[name] = g
	}
	g.mu.Lock()
	g.used = time.Now()
	g.mu.Unlock()
	return g, nil
}

// members is how many there are on this node.
func (gs *groups) members(name string) int {
	if srv := gs.n.server(); srv != nil {
		return srv.Group(name).Len()
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
	own, err := here.JoinWith(s, func(*engine.Session) { _ = n.groups.tell(g) })
	if err != nil {
		return 0, err
	}
	n.groups.listenTo(ctx, g, true)
	return own + n.groups.elsewhere(g), nil
}

// Leave ends s's membership, and returns how many members are left, as far as is known.
func (n *Node) Leave(s *engine.Session, name string) (members int, err error) {
	members, err = s.Server().Group(name).Leave(s)
	if n.bus == nil || err != nil {
		return members, err
	}
	if g := n.groups.find(name); g != nil {
		_ = n.groups.tell(g)
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
	n.groups.listenTo(ctx, g, false)
	if sent, err = n.sendHere(name, s, main, sub, body); err != nil {
		return sent, err
	}
	g.mu.Lock()
	alone := g.sure && len(g.counts) == 0
	g.mu.Unlock()
	if alone {
		return sent, nil
	}
	others := n.groups.elsewhere(g)
	if err := g.out.publish(n, frameSubject(name), envelope.Envelope{Kind: envelope.Group, Key: name, Handle: handle(main, sub), Body: body}); err != nil {
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

// listenTo subscribes to what others say of the group, and to what they send to it if it has
// members here; and asks the others how many they have. What stands already costs nothing.
func (gs *groups) listenTo(ctx context.Context, g *group, frames bool) {
	g.mu.Lock()
	ready := g.sure && (g.frames != nil || !frames)
	up := gs.n.bus.Up()
	subscribed := g.news != nil && (g.frames != nil || !frames)
	asks := g.asks
	g.mu.Unlock()
	if ready || subscribed && !up {
		if frames {
			_ = gs.tell(g)
		}
		return
	}
	g.joining.Lock()
	defer g.joining.Unlock()
	ctx, cancel := gs.n.bounded(ctx)
	defer cancel()
	gs.subscribe(g, frames)
	if gs.n.bus.Flush(ctx) != nil {
		return // the servers are away: they have the subscriptions when they are back
	}
	if frames {
		_ = gs.tell(g)
	}
	g.mu.Lock()
	asked := g.asks != asks // while this one waited for its turn
	g.mu.Unlock()
	if !asked {
		gs.ask(ctx, g)
	}
}

// subscribe makes what is missing. g.joining is held, and mu is not: while the servers take
// nothing it waits, which must not hold up what this node sends to its own.
func (gs *groups) subscribe(g *group, frames bool) {
	g.mu.Lock()
	news, own := g.news, g.frames
	g.mu.Unlock()
	if news == nil {
		news, _ = gs.n.in.Load().Subscribe(newsSubject(g.name), "") // it fails only behind Stop
	}
	if frames && own == nil {
		own, _ = gs.n.in.Load().Subscribe(frameSubject(g.name), "")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.news, g.frames = news, own
}

// ask asks all others how many members they have, and tells them how many there are here. A
// node that has answered sends to the group from then on. g.joining is held.
func (gs *groups) ask(ctx context.Context, g *group) {
	defer func() {
		g.mu.Lock()
		g.asks++
		g.mu.Unlock()
	}()
	g.mu.Lock()
	sure := g.sure
	g.mu.Unlock()
	others := gs.n.others()
	if sure || !gs.n.member() {
		return
	}
	if len(others) > 0 {
		b, err := gs.n.seal(envelope.Envelope{Kind: envelope.Count, Key: g.name, Epoch: uint64(gs.members(g.name))})
		if err != nil {
			return
		}
		err = gs.n.bus.AskMany(ctx, subjectAll, b, len(others), func(got []byte) {
			if e, err := envelope.Parse(got); err == nil && e.Kind == envelope.Members && e.Key == g.name {
				gs.learn(e.Key, e.Source, int(min(e.Epoch, 1<<30)))
			}
		})
		if err != nil {
			return // not sure: what is sent goes to whoever listens
		}
	}
	g.mu.Lock()
	g.sure = true
	g.mu.Unlock()
}

// doubt: while the servers were away, or messages were lost, others may have got members.
func (gs *groups) doubt() {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for _, g := range gs.all {
		g.mu.Lock()
		g.sure = false
		g.mu.Unlock()
	}
}

// tellAll tells of every group with members here, to those who could not be told while the
// servers were away.
func (gs *groups) tellAll(ctx context.Context) {
	gs.mu.Lock()
	all := make([]*group, 0, len(gs.all))
	for _, g := range gs.all {
		all = append(all, g)
	}
	gs.mu.Unlock()
	for _, g := range all {
		if gs.members(g.name) == 0 {
			continue
		}
		for errors.Is(gs.tell(g), cluster.ErrOverloaded) {
			if !sleep(ctx, 5*time.Millisecond) {
				return
			}
		}
	}
}

// tell tells the others how many members there are here. It does not block.
func (gs *groups) tell(g *group) error {
	b, err := gs.n.seal(envelope.Envelope{Kind: envelope.Members, Key: g.name, Epoch: uint64(gs.members(g.name))})
	if err == nil {
		err = gs.n.bus.Publish(newsSubject(g.name), b)
	}
	gs.n.lose(err)
	return err
}

// learn takes in how many members another node has.
func (gs *groups) learn(name string, process uint64, count int) {
	g := gs.find(name)
	if g == nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if count > 0 {
		g.counts[process] = count
	} else {
		delete(g.counts, process)
	}
}

// elsewhere is how many members the living others have said that they have.
func (gs *groups) elsewhere(g *group) (members int) {
	g.mu.Lock()
	empty := len(g.counts) == 0
	g.mu.Unlock()
	if empty {
		return 0
	}
	others := gs.n.others()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range others {
		members += g.counts[m.Process]
	}
	return members
}

// deliver hands a frame of another node to this one's members.
func (gs *groups) deliver(e envelope.Envelope) {
	g := gs.find(e.Key)
	if g == nil || !gs.n.fresh(&g.in, e, "group "+e.Key) {
		return
	}
	main, sub := split(e.Handle)
	gs.n.patiently(func() error {
		_, err := gs.n.sendHere(e.Key, nil, main, sub, e.Body)
		return err
	})
}

// sweeper's goroutine lets groups go that have no members here and are not used.
func (gs *groups) sweeper() {
	for sleep(gs.n.run, gs.n.cfg.GroupIdle/4) {
		gs.sweep(time.Now().Add(-gs.n.cfg.GroupIdle))
	}
}

func (gs *groups) sweep(before time.Time) {
	gs.mu.Lock()
	var idle []*group
	for _, g := range gs.all {
		g.mu.Lock()
		if gs.idle(g, before) {
			idle = append(idle, g)
		}
		g.mu.Unlock()
	}
	gs.mu.Unlock()
	for _, g := range idle {
		gs.letGo(g, before)
	}
}

// letGo ends a group's subscriptions if it has not been used meanwhile, and then forgets it:
// who uses it in between waits for joining, and makes new ones.
func (gs *groups) letGo(g *group, before time.Time) {
	g.joining.Lock()
	defer g.joining.Unlock()
	g.mu.Lock()
	if !gs.idle(g, before) {
		g.mu.Unlock()
		return
	}
	subs := []*cluster.Subscription{g.frames, g.news}
	g.frames, g.news, g.sure = nil, nil, false
	g.mu.Unlock()
	for _, sub := range subs {
		if sub != nil {
			sub.End() // it may wait, as subscribe
		}
	}
	gs.mu.Lock()
	defer gs.mu.Unlock()
	g.mu.Lock()
	defer g.mu.Unlock()
	if gs.idle(g, before) {
		delete(gs.all, g.name)
	}
}

// idle tells whether the group has no members here, and is not used. g.mu is held.
func (gs *groups) idle(g *group, before time.Time) bool {
	return g.used.Before(before) && gs.members(g.name) == 0
}

// stop forgets everything: the subscriptions have ended with the bus.
func (gs *groups) stop() {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	clear(gs.all)
}
