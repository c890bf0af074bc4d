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

// Group is a set of sessions that messages can be sent to together. Server.Group returns it; it
// exists while it has members. A session that closes leaves by itself.
type Group struct {
	srv  *Server
	name string
}

// memberSet is the state of a group with members.
type memberSet struct {
	name  string
	scope uint32 // scope of its keys
	// in has every member. lists are copies for senders, which read them without a lock: nil if
	// members have changed since they were made, under groups.mu.
	in    []*membership // guarded by groups.mu
	lists atomic.Pointer[memberLists]
}

// memberLists are a group's members. They are never modified in place.
type memberLists struct {
	plain  []*membership
	others []*membership // members whose framing is not the server's
}

// membership is the membership of one session in one group.
type membership struct {
	s     *Session
	set   *memberSet
	place int            // guarded by groups.mu; index in set.in
	left  bool           // guarded by the lock of the session's outbox
	told  func(*Session) // function of JoinWith, or nil
	next  *membership    // guarded by groups.mu; the session's next one
}

// count is how many groups a session is in.
func (g *groups) count(s *Session) (n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for m := s.groups; m != nil; m = m.next {
		n++
	}
	return n
}

// groups are a server's groups by name.
type groups struct {
	byName sync.Map // string to *memberSet; for senders; changed under mu

	mu     tally.Mutex
	all    map[string]*memberSet // guarded by mu
	scopes uint32                // guarded by mu; last scope used; 0 is for a session's own keys
}

// Group returns the group of that name. A group without members uses no memory. A Group value may
// be kept and used at any time.
func (srv *Server) Group(name string) *Group { return &Group{srv: srv, name: name} }

// Name returns the group's name.
func (g *Group) Name() string { return g.name }

// Join makes s a member and returns the number of members. Joining twice has no further effect.
// Errors: ErrClosed when s is closing, ErrLimit above MaxGroups.
func (g *Group) Join(s *Session) (members int, err error) { return g.JoinWith(s, nil) }

// JoinWith is like Join, and arranges for told to be called once when the close of s or its peer's
// FIN ends the membership that this call created; Leave does not call it. told runs on any
// goroutine and must not block; it may call Submit.
func (g *Group) JoinWith(s *Session, told func(*Session)) (members int, err error) {
	gs := &g.srv.groups
	s.flags.set(flagGrouped) // before Connected: either this sees the close, or the close sees the group
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

// Leave ends the membership of s and returns the number of members left. After it has returned no
// frame of the group is sent to s. Leaving a group that s is not in has no effect.
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

// leaveAll ends every membership of a closing session.
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
	for m := list; m != nil; m = m.next { // the list is no longer shared
		if m.told != nil {
			m.tell()
		}
	}
}

// tell calls told, which may be user code on a loop.
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

// Len returns the number of members.
func (g *Group) Len() int {
	gs := &g.srv.groups
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if set := gs.all[g.name]; set != nil {
		return len(set.in)
	}
	return 0
}

// members returns the group's present members. The list is immutable, so joins, leaves and closes
// do not wait for senders.
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
	if set = gs.all[name]; set == nil { // the last member has left
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

// Members returns up to most of the present members, in no order. Any goroutine.
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

// Send sends one unsolicited packet to every member, and returns the number of sessions it was sent
// to. The frame is encoded once and stored once. Errors: ErrOutboxFull when a loop has MaxOutbox
// bytes of broadcasts and group sends waiting, and ErrMemory while MemoryBudget is exceeded (both
// are ErrBusy): then nothing was sent. In a callback use Session.SendGroup, which makes the session
// wait instead. Also ErrFrameTooLarge, codec.ErrBadHandle, ErrClosed.
func (g *Group) Send(main, sub uint16, body []byte) (sent int, err error) {
	return g.send(codec.Packet{Main: main, Sub: sub, Body: body}, nil, true)
}

// send implements Send, with a key if key is not nil.
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
	budget := list[0].s.loop.budget // that of any loop: they share one total
	budget.Add(frame.Held())
	frame.B = c.AppendFields(frame.B, p.Handle(), p.Seq, p.Body)
	cost := each + len(frame.B)/len(list) // in total the memory held
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

// send sends a member a frame, with the key if key has a Scope.
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
