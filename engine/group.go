package engine

import (
	"fmt"
	"sync"
	"sync/atomic"

	"millrace/codec"
	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/outbox"
	"millrace/internal/tally"
)

// Group is a set of sessions that are sent to together. It is made by Server.Group and
// goes when its last member does; a session that closes leaves by itself.
type Group struct {
	srv  *Server
	name string
}

// memberSet is what a group with members is.
type memberSet struct {
	name  string
	scope uint32 // of its keys
	// in has every member. lists are the same for senders, who read them without a lock: nil
	// when members have come or gone since they were made, under groups.mu.
	in    []*membership // guarded by groups.mu
	lists atomic.Pointer[memberLists]
}

// memberLists are a group's members. They are never changed in place.
type memberLists struct {
	plain  []*membership
	others []*membership // those with a framing of their own
}

// membership is one session's in one group.
type membership struct {
	s     *Session
	set   *memberSet
	place int            // guarded by groups.mu; in set.in
	left  bool           // guarded by the lock of the session's outbox
	told  func(*Session) // of JoinWith; nil: nobody is told
	next  *membership    // guarded by groups.mu; the session's next one
}

// groups are a server's groups by name.
type groups struct {
	byName sync.Map // of string to *memberSet: all, for senders; changed under mu

	mu     tally.Mutex
	all    map[string]*memberSet // guarded by mu
	scopes uint32                // guarded by mu; given out, 0 is for a session's own keys
}

// Group returns the group of that name. One without members is only a name: it takes
// memory from the first Join to the last Leave. A Group value stays usable for good.
func (srv *Server) Group(name string) *Group { return &Group{srv: srv, name: name} }

// Name is what Server.Group was given.
func (g *Group) Name() string { return g.name }

// Join makes s a member and returns how many there are. Joining twice counts once.
// ErrClosed when s is closing, ErrLimit past MaxGroups.
func (g *Group) Join(s *Session) (members int, err error) { return g.JoinWith(s, nil) }

// JoinWith is Join, and has told called once when the close of s or its peer's FIN ends the
// membership that this call has made; Leave does not call it. It runs on any goroutine and
// must not block: it may Submit.
func (g *Group) JoinWith(s *Session, told func(*Session)) (members int, err error) {
	gs := &g.srv.groups
	s.flags.set(flagGrouped) // before Connected is asked: either this sees the close, or that sees the group
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if !s.Connected() {
		return 0, ErrClosed
	}
	set := gs.all[g.name]
	n := 0
	for m := s.groups; m != nil; m = m.next {
		if m.set == set {
			return len(set.in), nil
		}
		n++
	}
	if n >= g.srv.cfg.MaxGroups {
		return 0, fmt.Errorf("%w: %d groups", ErrLimit, n)
	}
	if set == nil {
		gs.scopes = max(gs.scopes+1, 1)
		set = &memberSet{name: g.name, scope: gs.scopes}
		gs.all[g.name] = set
		gs.byName.Store(g.name, set)
	}
	if most := g.srv.cfg.MaxGroups; isNear(n+1, most) {
		g.srv.near(LimitGroups, s, n+1, most)
	}
	m := &membership{s: s, set: set, place: len(set.in), told: told, next: s.groups}
	set.in = append(set.in, m)
	set.lists.Store(nil)
	s.groups = m
	return len(set.in), nil
}

// Leave ends s's membership and returns how many members are left. No frame of the group
// is sent to s after it has returned. Leaving a group that s is not in changes nothing.
func (g *Group) Leave(s *Session) (members int, err error) {
	gs := &g.srv.groups
	gs.mu.Lock()
	defer gs.mu.Unlock()
	set := gs.all[g.name]
	if set == nil {
		return 0, nil
	}
	for at := &s.groups; *at != nil; at = &(*at).next {
		if m := *at; m.set == set {
			*at = m.next
			gs.drop(m)
			break
		}
	}
	return len(set.in), nil
}

// drop ends a membership. mu is held.
func (gs *groups) drop(m *membership) {
	m.s.out.Atomically(func() { m.left = true })
	set := m.set
	last := len(set.in) - 1
	moved := set.in[last]
	set.in[m.place], moved.place = moved, m.place
	set.in[last] = nil
	set.in = set.in[:last]
	set.lists.Store(nil)
	if len(set.in) == 0 {
		delete(gs.all, set.name)
		gs.byName.Delete(set.name)
	}
}

// leaveAll ends every membership of a session that closes.
func (gs *groups) leaveAll(s *Session) {
	if !s.flags.has(flagGrouped) {
		return
	}
	gs.mu.Lock()
	list := s.groups
	for m := list; m != nil; m = m.next {
		gs.drop(m)
	}
	s.groups = nil
	gs.mu.Unlock()
	for m := list; m != nil; m = m.next { // which is nobody else's any more
		if m.told != nil {
			m.tell()
		}
	}
}

// tell calls told, which may be foreign code on a loop.
func (m *membership) tell() {
	ok := false
	defer func() {
		if !ok {
			m.s.srv.panics.Report("Group.JoinWith", m.s.id.String(), 0, recover())
		}
	}()
	m.told(m.s)
	ok = true
}

// Len is how many members there are.
func (g *Group) Len() int {
	gs := &g.srv.groups
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if set := gs.all[g.name]; set != nil {
		return len(set.in)
	}
	return 0
}

// members returns the group's members as they are now. The list is not changed any more,
// so nobody who joins, leaves or closes waits for those who send.
func (gs *groups) members(name string) (lists memberLists, scope uint32) {
	v, _ := gs.byName.Load(name)
	set, _ := v.(*memberSet)
	if set == nil {
		return memberLists{}, 0
	}
	if l := set.lists.Load(); l != nil {
		return *l, set.scope
	}
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if set = gs.all[name]; set == nil { // the last one has left
		return memberLists{}, 0
	}
	l := set.lists.Load()
	if l == nil {
		l = &memberLists{plain: make([]*membership, 0, len(set.in))}
		for _, m := range set.in {
			if m.s.flags.has(flagOther) {
				l.others = append(l.others, m)
			} else {
				l.plain = append(l.plain, m)
			}
		}
		set.lists.Store(l)
	}
	return *l, set.scope
}

// Members are those there are now, most of them at most, in no order. Any goroutine.
func (g *Group) Members(most int) []*Session {
	gs := &g.srv.groups
	gs.mu.Lock()
	defer gs.mu.Unlock()
	set := gs.all[g.name]
	if set == nil {
		return nil
	}
	all := make([]*Session, 0, min(most, len(set.in)))
	for _, m := range set.in[:min(most, len(set.in))] {
		all = append(all, m.s)
	}
	return all
}

// Send sends one packet to every member, as what they have not asked for, and returns
// how many it was sent to. The frame is encoded once and held once. ErrOutboxFull when a
// loop has MaxOutbox bytes of broadcasts and group sends waiting and ErrMemory while
// MemoryBudget is exceeded, both ErrBusy: nothing was sent. From a callback use
// Session.SendGroup, which waits its turn instead. ErrFrameTooLarge,
// codec.ErrBadHandle, ErrClosed.
func (g *Group) Send(main, sub uint16, body []byte) (sent int, err error) {
	return g.send(codec.Packet{Main: main, Sub: sub, Body: body}, nil, true)
}

// send is Send; key: with that key, if it is not nil.
func (g *Group) send(p codec.Packet, key *uint64, outside bool) (sent int, err error) {
	srv, c := g.srv, g.srv.framing.codec
	whole := p
	if !c.Fits(p) {
		if c, p, err = srv.framing.fit(p); err != nil {
			return 0, err
		}
	}
	if !srv.serving.Load() {
		return 0, ErrClosed
	}
	if err := srv.mayCast(outside); err != nil {
		srv.sum.busy.Add(1)
		return 0, err
	}
	to, scope := srv.groups.members(g.name)
	of, each := outbox.Key{}, outbox.ReferCost
	if key != nil {
		of, each = outbox.Key{ID: *key, Scope: scope}, outbox.ReferCost+outbox.KeyCost
	}
	if len(to.others) > 0 {
		sent = srv.others.send(whole, to.others, of)
	}
	list := to.plain
	if len(list) == 0 {
		return sent, nil
	}
	frame := bufpool.GetSmall(c.Overhead() + len(p.Body))
	frame.Share()
	budget := list[0].s.loop.budget // whoever's it is: they make one sum
	budget.Add(frame.Held())
	frame.B = c.AppendFields(frame.B, p.Handle(), p.Seq, p.Body)
	cost := each + len(frame.B)/len(list) // all together, what they hold
	for _, m := range list {
		if m.send(frame, cost, of) {
			sent++
		}
	}
	if held, last := frame.Release(); last {
		budget.Add(-held)
	}
	return sent, nil
}

// send sends a member a frame: where key has a Scope, with that key.
func (m *membership) send(frame *bufpool.Buf, cost int, key outbox.Key) bool {
	s, r := m.s, outbox.Staged
	if key.Scope == 0 {
		r = s.out.Refer(&s.loop.out, frame, cost, &m.left)
	} else {
		r = s.out.PushKeyed(&s.loop.out, frame, cost, &m.left, false, key)
	}
	switch r {
	case outbox.Wake:
		s.loop.markDirty(s)
		return true
	case outbox.Replaced:
		s.loop.sum.conflated.Add(1)
		return true
	case outbox.Staged:
		return true
	}
	return false
}
