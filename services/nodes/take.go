package nodes

import (
	"context"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/nodes/internal/carry"
	"millrace/services/nodes/internal/envelope"
)

// take takes over the session of a client that has come here with its token.
func (m *moves) take(ctx context.Context, a *engine.Arrival) error {
	select {
	case m.places <- struct{}{}:
		defer func() { <-m.places }()
	case <-ctx.Done():
		return cluster.ErrOverloaded
	}
	sum := engine.SumOf(a.Token())
	for !m.begins(sum) { // another connection, maybe of the same client, has brought the same token
		if !sleep(ctx, takenPause) {
			return engine.ErrBeingTaken
		}
	}
	defer func() {
		m.mu.Lock()
		delete(m.taking, sum)
		m.mu.Unlock()
	}()
	from, ok := m.holder(a.Token())
	if !ok {
		return &whyNot{NotTakenDead, cluster.ErrUnavailable}
	}
	t := &taking{m: m, id: max(rand.Uint64(), 1)}
	body := binary.BigEndian.AppendUint64(sum[:], a.Received())
	var busy error
	for hops := 0; hops < maxMoves; {
		t.from, t.asked = from, false
		got, err := t.insist(ctx, envelope.Envelope{Flags: envelope.TakeBegin, Body: body})
		if err != nil && got.Kind == 0 && t.asked {
			t.back() // it may have been offered
		}
		if errors.Is(err, errElsewhere) {
			if from = got.Epoch; from == m.n.process {
				return errHere
			}
			if _, ok := m.n.byProcess(from); !ok {
				return &whyNot{NotTakenDead, cluster.ErrUnavailable}
			}
			hops++
			continue
		}
		if err != nil && notTakenBy(err) == NotTakenBusy {
			if busy = err; sleep(ctx, takenPause) {
				continue // it may be moving to another node, which its client tried before
			}
		}
		if err != nil && busy != nil && ctx.Err() != nil {
			return busy
		}
		if err != nil {
			return err
		}
		t.first = got
		return m.carry(ctx, a, t)
	}
	return engine.ErrUnknownToken
}

// maxMoves limits how many times an answer may name another node that has the session.
const maxMoves = 8

// carry takes over an offered session, from its state to Arrival.Take.
func (m *moves) carry(ctx context.Context, a *engine.Arrival, t *taking) error {
	defer func() {
		m.in.add(-t.held)
		t.back()
	}()
	b, err := t.rest(ctx, t.first)
	if err != nil {
		return err
	}
	st, err := carry.ParseState(b)
	if err != nil {
		return err
	}
	s, err := a.Open(time.UnixMicro(st.Accepted))
	if err != nil {
		return &whyNot{NotTakenHere, err}
	}
	if err := a.Unmarshal(st.User); err != nil {
		return &whyNot{NotTakenHere, err}
	}
	x := &coming{most: min(m.n.cfg.TakeoverBytes, a.Server().Config().MaxOutbound), in: &m.in}
	defer x.release()
	groups, err := m.expect(ctx, x, st.Groups)
	defer m.expected(x, groups)
	if err != nil {
		return err
	}
	cs := crossings{m.n, groups}
	cs.lock()
	here := cs.seen()
	cs.unlock()
	if !x.hasRoom() {
		return engine.ErrTransferTooLarge
	}
	tail, err := t.commit(ctx, here)
	if err != nil {
		return err
	}
	if err := m.cross(ctx, a, s, x, cs, tail.Streams); err != nil {
		return &whyNot{NotTakenHere, err}
	}
	main, sub := codec.Split(tail.Handle)
	then := m.n.users.come(ctx, s, SessionID{t.from, engine.ID(st.Session)}, codec.Packet{Main: main, Sub: sub, Seq: tail.Seq}, tail.Users)
	err = a.Take(engine.Transfer{
		Received: st.Received, First: st.First, Most: st.Most, Frames: slices.Concat(st.Frames, tail.Frames),
	})
	if err != nil {
		return &whyNot{NotTakenHere, err}
	}
	for _, fn := range then {
		fn()
	}
	return nil
}

// expect makes x keep, from now on, what is sent to the groups and to all sessions. It returns when all
// nodes know that messages to the groups are needed here.
func (m *moves) expect(ctx context.Context, x *coming, names []string) (list []*group, err error) {
	n := m.n
	n.casts.mu.Lock()
	n.casts.coming = append(n.casts.coming, x)
	n.casts.mu.Unlock()
	for _, name := range names {
		g, err := n.groups.get(name)
		if err != nil {
			return list, &whyNot{NotTakenHere, err}
		}
		g.cross.mu.Lock()
		g.cross.coming = append(g.cross.coming, x)
		g.cross.mu.Unlock()
		m.mu.Lock()
		m.to[name]++
		m.mu.Unlock()
		list = append(list, g)
		n.groups.hasMembers(ctx, g)
	}
	return list, nil
}

// expected undoes expect, as far as cross has not.
func (m *moves) expected(x *coming, list []*group) {
	m.n.casts.mu.Lock()
	m.n.casts.drop(x)
	m.n.casts.mu.Unlock()
	for _, g := range list {
		g.cross.mu.Lock()
		g.cross.drop(x)
		g.cross.mu.Unlock()
		m.mu.Lock()
		if m.to[g.name]--; m.to[g.name] <= 0 {
			delete(m.to, g.name)
		}
		m.mu.Unlock()
		m.n.groups.tellOf(g.name)
		g.unpin()
	}
}

// drop ends keeping messages for x. mu is locked.
func (c *crossing) drop(x *coming) {
	c.coming = slices.DeleteFunc(c.coming, func(y *coming) bool { return y == x })
}

// streamOf returns the name of a carry.Stream: "" for broadcasts, else that of a group.
func streamOf(kind envelope.Kind, key string) string {
	if kind == envelope.Broadcast {
		return ""
	}
	return "group " + key
}

// cross makes the session a member of its groups here, and sends it those of the messages kept for it
// that it has not been sent on its old node.
func (m *moves) cross(ctx context.Context, a *engine.Arrival, s *engine.Session, x *coming, cs crossings, streams []carry.Stream) error {
	had := map[string]map[uint64]uint64{}
	for _, st := range streams {
		had[st.Name] = st.At
	}
	n := m.n
	cs.meet(ctx, streams)
	defer cs.unlock()
	a.Begin()
	kept, ok := x.take()
	if !ok {
		return engine.ErrTransferTooLarge
	}
	for _, e := range kept {
		if e.Number != 0 && e.Number <= had[streamOf(e.Kind, e.Key)][e.Source] {
			continue
		}
		main, sub := split(e.Handle)
		if err := s.Push(main, sub, e.Body); err != nil && !n.unfit(e, err) {
			return err
		}
	}
	n.casts.drop(x)
	for _, g := range cs.groups {
		g.cross.drop(x)
		name := g.name
		if _, err := s.Server().Group(name).JoinWith(s, func(*engine.Session) { n.groups.tellOf(name) }); err != nil {
			return err
		}
	}
	return nil
}

// adoption is a user's session that has come from another node, while the store may still have the old
// one's ID.
type adoption struct {
	s   *engine.Session
	old SessionID
}

// come binds the users of a session that has come from another node: now, or, if the store can't be
// reached, when it can. It returns what must be done when the session continues here: one that has lost a
// user, to a newer session for example, is told so and closed.
func (u *users) come(ctx context.Context, s *engine.Session, old SessionID, about codec.Packet, list []string) (then []func()) {
	for _, user := range list {
		if err := u.reserve(s, about, user); err != nil {
			u.n.cfg.Logger.Warn("nodes: a session that was taken over is closed, as its user can't be bound here", "err", err)
			return append(then, func() {
				_ = s.CloseWithError(about, engine.CodeLimit, "the user can't be bound here", engine.ReasonServerClosed)
			})
		}
		ad := adoption{s, old}
		u.mu.Lock()
		u.adopting[user] = ad
		u.mu.Unlock()
		lost, err := u.adopt(ctx, user, ad)
		if err != nil {
			lost = func() { u.todo.add(user) }
		}
		if lost != nil {
			then = append(then, lost)
		}
	}
	return then
}

func (u *users) adoption(user string) (adoption, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	ad, ok := u.adopting[user]
	return ad, ok
}

// unsettled reports whether the store may not know yet that a session has come here. Then it can't move
// on: the node after this one does not know the ID that the store has.
func (u *users) unsettled(s *engine.Session) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if of := u.sessions[s]; of != nil {
		for user := range of.users {
			if u.adopting[user].s == s {
				return true
			}
		}
	}
	return false
}

// adopt replaces the old ID of a session that has come from another node in the store. If the store has
// another session of the user, or none, this one has lost him, as in settle: a newer login may have
// begun and ended meanwhile. Then lost closes it; otherwise lost is nil. The old node does not unbind him
// before that, see moves.hasGone. After an error, because the store can't be reached or its answer was
// lost, the result is not known.
func (u *users) adopt(ctx context.Context, user string, ad adoption) (lost func(), err error) {
	ctx, cancel := u.n.bounded(ctx)
	defer cancel()
	id := u.n.ID(ad.s)
	for {
		if !u.holds(ad.s.ID(), user) { // it has ended; its old node checks the binding, see sweeper
			u.adopted(user, ad)
			return nil, nil
		}
		e, err := u.n.cache.Users().Get(ctx, user)
		if err != nil && !errors.Is(err, services.ErrNotFound) {
			return nil, err
		}
		epoch := cluster.Epoch(e.Revision)
		switch at, err := sessionID(e.Value); {
		case err == nil && at == ad.old:
			swapped, now, err := u.n.cache.Users().CompareAndSetRevision(ctx, user, e.Revision, id.bytes(), 0)
			if err != nil {
				return nil, err
			}
			if !swapped {
				continue
			}
			epoch = cluster.Epoch(now.Revision)
		case err == nil && at == id: // an earlier attempt, whose answer was lost, has stored it
		default:
			u.adopted(user, ad)
			return func() { u.replace(ad.s.ID(), user, epoch) }, nil
		}
		u.note(ad.s, user, epoch)
		u.adopted(user, ad)
		return nil, nil
	}
}

func (u *users) adopted(user string, ad adoption) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.adopting[user] == ad {
		delete(u.adopting, user)
	}
}
