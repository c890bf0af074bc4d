package nodes

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/nodes/internal/carry"
	"millrace/services/nodes/internal/envelope"
)

// take gets a session for a client that has come here with its token.
func (m *moves) take(ctx context.Context, a *engine.Arrival) error {
	select {
	case m.places <- struct{}{}:
		defer func() { <-m.places }()
	case <-ctx.Done():
		return cluster.ErrOverloaded
	}
	sum := engine.SumOf(a.Token())
	for !m.begins(sum) { // another client comes with the same token, or the same did
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
		return &whyNot{UntakenDead, cluster.ErrUnavailable}
	}
	body := binary.BigEndian.AppendUint64(sum[:], a.Received())
	var busy error
	for hops := 0; hops < maxMoves; {
		got, err := m.ask(ctx, from, envelope.Envelope{Kind: envelope.Takeover, Flags: envelope.TakeBegin, Body: body})
		if errors.Is(err, errElsewhere) {
			if from = got.Epoch; from == m.n.process {
				return errHere
			}
			if _, ok := m.n.byProcess(from); !ok {
				return &whyNot{UntakenDead, cluster.ErrUnavailable}
			}
			hops++
			continue
		}
		if err != nil && untakenBy(err) == UntakenBusy {
			if busy = err; sleep(ctx, takenPause) {
				continue // it may be on its way to another node, where its client was before
			}
		}
		if err != nil && busy != nil && ctx.Err() != nil {
			return busy
		}
		if err != nil {
			return err
		}
		return m.carry(ctx, a, &taking{m: m, from: from, id: got.Session, first: got})
	}
	return engine.ErrUnknownToken
}

// maxMoves is how far a session is followed from node to node.
const maxMoves = 8

// ask asks a node about a session. errElsewhere: Epoch of the answer is the process that has it.
func (m *moves) ask(ctx context.Context, process uint64, e envelope.Envelope) (envelope.Envelope, error) {
	until, _ := ctx.Deadline()
	left := time.Until(until)
	if left < time.Millisecond {
		<-ctx.Done()
		return envelope.Envelope{}, &whyNot{UntakenDead, cluster.ErrNoAnswer}
	}
	e.Left = uint32(min(left.Milliseconds(), 1<<32-1))
	if now := m.n.cache.ServerTime(); !now.IsZero() {
		e.Expires = uint64(now.Add(left).UnixMicro())
	}
	b, err := m.n.seal(e)
	if err != nil {
		return envelope.Envelope{}, err
	}
	got, err := m.n.bus.Ask(ctx, askSubject(process), b)
	if err != nil {
		return envelope.Envelope{}, &whyNot{UntakenDead, err}
	}
	x, err := envelope.Parse(got)
	switch {
	case err != nil || x.Kind != envelope.Answer:
		return envelope.Envelope{}, &whyNot{UntakenDead, cluster.ErrLost}
	case x.Flags == envelope.Elsewhere:
		return x, errElsewhere
	case x.Flags != envelope.OK:
		return x, &whyNot{Untaken(min(x.Handle, uint32(untakenCount)-1)), fmt.Errorf("nodes: its node says: %s", x.Body)}
	}
	return x, nil
}

// taking is a session that this node is taking over.
type taking struct {
	m     *moves
	from  uint64
	id    uint64
	first envelope.Envelope
	held  int // bytes that count in moves.in
}

// rest gets all parts of an answer whose first is e.
func (t *taking) rest(ctx context.Context, e envelope.Envelope) ([]byte, error) {
	total, most := e.Epoch, uint64(2*t.m.n.cfg.TakeoverBytes+1<<20) // with what stands around it
	if total > most {
		return nil, engine.ErrCarriedTooLarge
	}
	if t.held == 0 && !t.m.in.take(int(total)) {
		return nil, cluster.ErrOverloaded
	} else if t.held != 0 {
		t.m.in.add(int(total))
	}
	t.held += int(total)
	b := slices.Clone(e.Body)
	for uint64(len(b)) < total {
		e, err := t.m.ask(ctx, t.from, envelope.Envelope{Kind: envelope.Takeover, Flags: envelope.TakeMore, Session: t.id, Epoch: uint64(len(b))})
		if err != nil {
			return nil, err
		}
		if len(e.Body) == 0 || e.Epoch != total {
			return nil, carry.ErrBad
		}
		b = append(b, e.Body...)
	}
	return b, nil
}

// commit makes the session this node's. What is not answered is asked again: as long as the
// other node lives it knows what became of it.
func (t *taking) commit(ctx context.Context, here []carry.Stream) (carry.Tail, error) {
	at := carry.Tail{Streams: here}.Append(nil)
	for {
		e, err := t.m.ask(ctx, t.from, envelope.Envelope{Kind: envelope.Takeover, Flags: envelope.TakeCommit, Session: t.id, Body: at})
		if err == nil {
			b, err := t.rest(ctx, e)
			if err != nil {
				return carry.Tail{}, err
			}
			return carry.ParseTail(b)
		}
		var u *whyNot
		if errors.As(err, &u) && !errors.Is(err, cluster.ErrLost) && !errors.Is(err, cluster.ErrUnavailable) || !sleep(ctx, 50*time.Millisecond) {
			return carry.Tail{}, err
		}
	}
}

// back tells the other node that nothing more is asked about the session: it stays there, unless
// it has been cut.
func (t *taking) back() {
	b, err := t.m.n.seal(envelope.Envelope{Kind: envelope.Takeover, Flags: envelope.TakeBack, Session: t.id})
	if err == nil {
		err = t.m.n.bus.Publish(askSubject(t.from), b)
	}
	t.m.n.lose(err)
}

// carry brings a session here.
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
		return &whyNot{UntakenHere, err}
	}
	if err := a.Unmarshal(st.User); err != nil {
		return &whyNot{UntakenHere, err}
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
		return engine.ErrCarriedTooLarge
	}
	tail, err := t.commit(ctx, here)
	if err != nil {
		return err
	}
	if err := m.cross(ctx, a, s, x, cs, tail.Streams); err != nil {
		return &whyNot{UntakenHere, err}
	}
	main, sub := codec.Split(tail.Handle)
	m.n.users.come(ctx, s, SessionID{t.from, engine.ID(st.Session)}, codec.Packet{Main: main, Sub: sub, Seq: tail.Seq}, tail.Users)
	err = a.Take(engine.Carried{
		Received: st.Received, First: st.First, Most: st.Most, Frames: slices.Concat(st.Frames, tail.Frames),
	})
	if err != nil {
		return &whyNot{UntakenHere, err}
	}
	return nil
}

// expect has what is sent to groups, and to all, kept for a session from now on, and returns
// when all nodes send it here.
func (m *moves) expect(ctx context.Context, x *coming, names []string) (list []*group, err error) {
	n := m.n
	n.casts.mu.Lock()
	n.casts.coming = append(n.casts.coming, x)
	n.casts.mu.Unlock()
	for _, name := range names {
		g, err := n.groups.get(name)
		if err != nil {
			return list, &whyNot{UntakenHere, err}
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

// expected ends what expect began, and what cross has not ended.
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

// drop has no more be kept for x. mu is locked.
func (c *crossing) drop(x *coming) {
	c.coming = slices.DeleteFunc(c.coming, func(y *coming) bool { return y == x })
}

// streamOf is what a carry.Stream is called.
func streamOf(kind envelope.Kind, key string) string {
	if kind == envelope.Broadcast {
		return ""
	}
	return "group " + key
}

// cross makes the session a member of its groups here. Of what was kept for it meanwhile it
// gets what it has not had where it comes from.
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
		return engine.ErrCarriedTooLarge
	}
	for _, e := range kept {
		if e.Number != 0 && e.Number <= had[streamOf(e.Kind, e.Key)][e.Source] {
			continue
		}
		main, sub := split(e.Handle)
		if err := s.Push(main, sub, e.Body); err != nil {
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

// adoption is a user whose session has come from another node: the store still has the old one.
type adoption struct {
	s   *engine.Session
	old SessionID
}

// come binds the users of a session that has come from another node, now or, if the store is
// away, when it is back. A user who has a newer session meanwhile has lost this one.
func (u *users) come(ctx context.Context, s *engine.Session, old SessionID, about codec.Packet, list []string) {
	for _, user := range list {
		if err := u.reserve(s, about, user); err != nil {
			u.n.cfg.Logger.Warn("nodes: a session that was taken over ends, as its user can't be bound here", "err", err)
			_ = s.CloseWithError(about, engine.CodeLimit, "the user can't be bound here", engine.ReasonServerClosed)
			return
		}
		u.mu.Lock()
		u.adopting[user] = adoption{s, old}
		u.mu.Unlock()
		if err := u.settle(ctx, user); err != nil {
			u.todo.add(user)
		}
	}
}

func (u *users) adoption(user string) (adoption, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	ad, ok := u.adopting[user]
	return ad, ok
}

// adopt puts a session that has come from another node in the place of its older self. An
// error: the store is away, or it is not known what became of it.
func (u *users) adopt(ctx context.Context, user string, ad adoption) error {
	ctx, cancel := u.n.bounded(ctx)
	defer cancel()
	id := u.n.ID(ad.s)
	for {
		if !u.holds(ad.s.ID(), user) { // it has ended; its older self's node sees to what is left of it
			u.adopted(user, ad)
			return nil
		}
		e, err := u.n.cache.Users().Get(ctx, user)
		if err != nil && !errors.Is(err, services.ErrNotFound) {
			return err
		}
		epoch := cluster.Epoch(e.Revision)
		switch at, err := sessionID(e.Value); {
		case err == nil && at == ad.old:
			swapped, now, err := u.n.cache.Users().CompareAndSetRevision(ctx, user, e.Revision, id.bytes(), 0)
			if err != nil {
				return err
			}
			if !swapped {
				continue
			}
			epoch = cluster.Epoch(now.Revision)
		case err == nil && at == id: // an earlier attempt, of which nothing was heard
		default:
			u.adopted(user, ad)
			u.replace(ad.s.ID(), user, epoch)
			return nil
		}
		u.note(ad.s, user, epoch)
		u.adopted(user, ad)
		return nil
	}
}

func (u *users) adopted(user string, ad adoption) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.adopting[user] == ad {
		delete(u.adopting, user)
	}
}
