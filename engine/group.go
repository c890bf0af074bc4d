package engine

import (
	"fmt"
	"sync"

	"millrace/codec"
)

// Group is a set of sessions that are sent to together. It is made by Server.Group and
// goes when its last member does; a session that closes leaves by itself.
type Group struct {
	srv  *Server
	name string

	mu      sync.RWMutex
	members map[*Session]struct{} // guarded by mu
}

// groups are a server's groups by name.
type groups struct {
	srv *Server
	mu  sync.Mutex // taken before a Group's mu
	all map[string]*Group
}

// Group returns the group of that name. One without members is only a name: it takes
// memory from the first Join to the last Leave. A Group value stays usable for good.
func (srv *Server) Group(name string) *Group { return &Group{srv: srv, name: name} }

// Name is what Server.Group was given.
func (g *Group) Name() string { return g.name }

// real finds the group that has the members, or nil. groups.mu is held.
func (g *Group) real() *Group { return g.srv.groups.all[g.name] }

// Join makes s a member and returns how many there are. Joining twice counts once.
// ErrClosed when s is closing, ErrLimit past MaxGroups.
func (g *Group) Join(s *Session) (members int, err error) {
	gs := &g.srv.groups
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if !s.Connected() {
		return 0, ErrClosed
	}
	r := g.real()
	if r != nil {
		r.mu.RLock()
		_, in := r.members[s]
		r.mu.RUnlock()
		if in {
			return r.Len(), nil
		}
	}
	if len(s.groups) >= g.srv.cfg.MaxGroups {
		return 0, fmt.Errorf("%w: %d groups", ErrLimit, len(s.groups))
	}
	if r == nil {
		r = &Group{srv: g.srv, name: g.name, members: map[*Session]struct{}{}}
		gs.all[g.name] = r
	}
	r.mu.Lock()
	r.members[s] = struct{}{}
	n := len(r.members)
	r.mu.Unlock()
	s.groups = append(s.groups, r)
	return n, nil
}

// Leave ends s's membership and returns how many members are left. Leaving a group that
// s is not in changes nothing.
func (g *Group) Leave(s *Session) (members int, err error) {
	gs := &g.srv.groups
	gs.mu.Lock()
	defer gs.mu.Unlock()
	r := g.real()
	if r == nil {
		return 0, nil
	}
	for i, x := range s.groups {
		if x == r {
			s.groups = append(s.groups[:i], s.groups[i+1:]...)
			return gs.drop(r, s), nil
		}
	}
	return r.Len(), nil
}

// drop takes s out of r. groups.mu is held.
func (gs *groups) drop(r *Group, s *Session) int {
	r.mu.Lock()
	delete(r.members, s)
	n := len(r.members)
	r.mu.Unlock()
	if n == 0 {
		delete(gs.all, r.name)
	}
	return n
}

// leaveAll ends every membership of a session that closes.
func (gs *groups) leaveAll(s *Session) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for _, r := range s.groups {
		gs.drop(r, s)
	}
	s.groups = nil
}

// Len is how many members there are.
func (g *Group) Len() int {
	if r := g.find(); r != nil {
		r.mu.RLock()
		defer r.mu.RUnlock()
		return len(r.members)
	}
	return 0
}

func (g *Group) find() *Group {
	if g.members != nil {
		return g
	}
	g.srv.groups.mu.Lock()
	defer g.srv.groups.mu.Unlock()
	return g.real()
}

// Send sends one packet to every member, as what they have not asked for, and returns
// how many it was sent to. The frame is encoded once and held once. ErrBusy when a loop has
// MaxOutbox bytes of broadcasts and group sends waiting: nothing was sent. From a
// callback use Session.SendGroup, which waits its turn instead.
func (g *Group) Send(main, sub uint16, body []byte) (sent int, err error) {
	return g.send(main, sub, body, true)
}

func (g *Group) send(main, sub uint16, body []byte, hard bool) (sent int, err error) {
	c := g.srv.codec
	if len(body) > c.MaxBody() {
		return 0, ErrFrameTooLarge
	}
	if g.srv.outboxOver(hard) {
		g.srv.busy.Add(1)
		return 0, ErrBusy
	}
	r := g.find()
	if r == nil {
		return 0, nil
	}
	frame := getBuf(c.Overhead() + len(body))
	frame.refs.Store(1)
	defer frame.drop()
	frame.b = c.Append(frame.b, codec.Packet{Main: main, Sub: sub, Body: body})
	r.mu.RLock()
	defer r.mu.RUnlock()
	cost := segCost + len(frame.b)/max(1, len(r.members)) // all together, what they hold
	for s := range r.members {
		if s.share(frame, cost) == nil {
			sent++
		}
	}
	return sent, nil
}
