package nodes

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"millrace/engine"
	"millrace/services/cluster"
	"millrace/services/nodes/internal/carry"
	"millrace/services/nodes/internal/envelope"
)

// offer is a suspended session that another node is taking over.
type offer struct {
	id  uint64
	sum engine.TokenSum
	to  uint64 // the process that takes it
	d   *engine.Departure
	in  []string // the groups in the state that was sent, sorted

	mu    sync.Mutex  // held while a question about it is answered
	held  int         // guarded by moves.mu; bytes that it counts in moves.out
	bytes []byte      // guarded by mu; the encoded carry.State, or, after the cut, the carry.Tail
	cut   bool        // guarded by mu; the session has been given away
	end   *time.Timer // drops the offer
}

// askedMost times Config.MaxTakeovers is how many questions of other nodes are answered at once.
const askedMost = 4

// serve answers a question of a node that is taking a session over, on a goroutine of its own. It does
// not block.
func (m *moves) serve(msg cluster.Message, e envelope.Envelope) {
	if e.Flags == envelope.TakeBack {
		m.takeBack(e)
		return
	}
	switch {
	case m.n.expired(e.Expires):
		return // the other node has stopped waiting
	case m.n.calls.stopping.Load():
		m.n.answer(msg.AnswerLater, notGiven(&whyNot{UntakenUnknown, engine.ErrClosed}))
		return
	case m.serving.Add(1) > int64(askedMost*m.n.cfg.MaxTakeovers):
		m.serving.Add(-1)
		m.n.answer(msg.AnswerLater, notGiven(cluster.ErrOverloaded))
		return
	}
	m.n.bg.Go(func() {
		defer m.serving.Add(-1)
		left := min(time.Duration(e.Left)*time.Millisecond, m.n.cfg.TakeoverTimeout)
		ctx, cancel := context.WithTimeout(m.n.run, left)
		defer cancel()
		a, err := m.give(ctx, e)
		if err != nil {
			a = notGiven(err)
		}
		m.n.lose(m.n.reply(msg, a))
	})
}

// notGiven returns the answer that refuses a question with an error.
func notGiven(err error) envelope.Envelope {
	return envelope.Envelope{Kind: envelope.Answer, Flags: envelope.Refused, Handle: uint32(untakenBy(err)), Body: []byte(err.Error())}
}

// give returns the answer to a question.
func (m *moves) give(ctx context.Context, e envelope.Envelope) (envelope.Envelope, error) {
	if e.Flags == envelope.TakeBegin {
		return m.begin(ctx, e)
	}
	m.mu.Lock()
	o := m.offers[e.Session]
	m.mu.Unlock()
	if o == nil || o.to != e.Source {
		return envelope.Envelope{}, &whyNot{UntakenDead, errors.New("nodes: the session has been taken back, as nothing was asked about it in time, or has moved")}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.end.Reset(m.n.cfg.TakeoverTimeout)
	at := e.Epoch
	switch {
	case e.Flags == envelope.TakeCommit && !o.cut:
		if err := m.commit(ctx, o, e.Body); err != nil {
			return envelope.Envelope{}, err
		}
		at = 0
	case e.Flags != envelope.TakeMore && e.Flags != envelope.TakeCommit:
		return envelope.Envelope{}, fmt.Errorf("nodes: step %d of a takeover is unknown: run one version on all nodes", e.Flags)
	}
	return m.part(o, at), nil
}

// partMost is how many bytes of a session one message has at most.
const partMost = 256 << 10

// part returns the answer with a part of o.bytes, from the byte at on: Session is the offer's id, and
// Epoch the number of all bytes. o.mu is held.
func (m *moves) part(o *offer, at uint64) envelope.Envelope {
	most := max(1<<10, min(partMost, m.n.bus.MaxMessage()-envelope.HeaderLen-64))
	b := o.bytes[min(at, uint64(len(o.bytes))):]
	return envelope.Envelope{Kind: envelope.Answer, Session: o.id, Epoch: uint64(len(o.bytes)), Body: b[:min(len(b), most)]}
}

// begin suspends a session, and offers it to the node that asks.
func (m *moves) begin(ctx context.Context, e envelope.Envelope) (envelope.Envelope, error) {
	srv := m.n.server()
	if len(e.Body) != len(engine.TokenSum{})+8 || srv == nil {
		return envelope.Envelope{}, engine.ErrUnknownToken
	}
	sum := engine.TokenSum(e.Body[:32])
	most := m.n.cfg.TakeoverBytes
	if !m.out.take(most) {
		return envelope.Envelope{}, cluster.ErrOverloaded
	}
	counted := most
	defer func() { m.out.add(-counted) }()
	moving := m.moving(sum)
	d, err := srv.Depart(ctx, sum, binary.BigEndian.Uint64(e.Body[32:]), most)
	if errors.Is(err, engine.ErrUnknownToken) { // with any other error it is here, even if m.gone has it from before
		m.mu.Lock()
		to, gone := m.gone[sum]
		m.mu.Unlock()
		if gone {
			return envelope.Envelope{Kind: envelope.Answer, Flags: envelope.Elsewhere, Epoch: to.process}, nil
		}
		if moving {
			err = engine.ErrBeingTaken
		}
	}
	if err != nil {
		return envelope.Envelope{}, err
	}
	o := &offer{sum: sum, to: e.Source, d: d, in: slices.Sorted(slices.Values(d.Groups()))}
	o.bytes = carry.State{
		Session: uint64(d.Session.ID()), Received: d.Received, First: d.First, Most: d.Most, Accepted: d.Accepted.UnixMicro(),
		Frames: d.Frames, User: d.State, Groups: o.in,
	}.Append(nil)
	d.Frames, d.State = nil, nil
	o.mu.Lock()
	defer o.mu.Unlock()
	m.mu.Lock()
	o.held, counted = len(o.bytes), most-len(o.bytes)
	m.last++
	o.id = m.last
	o.end = time.AfterFunc(m.n.cfg.TakeoverTimeout, func() { m.drop(o) })
	m.offers[o.id] = o
	m.mu.Unlock()
	return m.part(o, 0), nil
}

// moving reports whether a session is coming to this node, or has been offered to another: then it may
// not be known yet which node will have it.
func (m *moves) moving(sum engine.TokenSum) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.taking[sum] {
		return true
	}
	for _, o := range m.offers {
		if o.sum == sum {
			return true
		}
	}
	return false
}

// drop ends an offer. The session continues here unless it has been given away.
func (m *moves) drop(o *offer) {
	m.mu.Lock()
	delete(m.offers, o.id)
	m.out.add(-o.held)
	o.held = 0
	m.mu.Unlock()
	o.end.Stop()
	o.d.Cancel()
}

// takeBack handles the message that there are no more questions about a session.
func (m *moves) takeBack(e envelope.Envelope) {
	m.mu.Lock()
	o := m.offers[e.Session]
	m.mu.Unlock()
	if o != nil && o.to == e.Source {
		m.drop(o)
	}
}

// commit gives the session away. Before, it waits until this node has received all messages that the
// other node had received before it began to keep messages for the session; at has their numbers, an
// encoded carry.Tail. o.mu is held.
func (m *moves) commit(ctx context.Context, o *offer, at []byte) error {
	n := m.n
	there, err := carry.ParseTail(at)
	if err != nil {
		return err
	}
	groups := n.groups.pinned(o.d.Groups())
	defer n.groups.unpin(groups)
	cs := crossings{n, groups}
	cs.meet(ctx, there.Streams)
	if now := o.d.Groups(); !slices.Equal(slices.Sorted(slices.Values(now)), o.in) {
		cs.unlock()
		m.drop(o)
		return &whyNot{UntakenBusy, errors.New("nodes: the groups of the session have changed meanwhile")}
	}
	t := carry.Tail{Streams: cs.seen()}
	t.Users, t.Handle, t.Seq = n.users.going(o.d.Session)
	cut := o.d.Cut()
	cs.unlock()
	if !cut {
		n.users.stays(o.d.Session)
		m.drop(o)
		if o.d.Session.Connected() { // something of it is under way again
			return engine.ErrUnsettled
		}
		return engine.ErrUnknownToken
	}
	n.users.gone(o.d.Session, t.Users)
	m.went(o, t.Users)
	if t.Frames, err = o.d.Rest(ctx); err != nil {
		return err
	}
	o.cut, o.bytes = true, t.Append(nil)
	m.mu.Lock()
	if m.offers[o.id] == o { // else it has been given up
		m.out.add(len(o.bytes) - o.held)
		o.held = len(o.bytes)
	}
	m.mu.Unlock()
	return nil
}

// pinned returns the groups of these names that exist, sorted by name. They are not removed before
// unpin.
func (gs *groups) pinned(names []string) (list []*group) {
	names = slices.Clone(names)
	slices.Sort(names)
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for _, name := range names {
		if g := gs.all[name]; g != nil {
			g.pins.Add(1)
			list = append(list, g)
		}
	}
	return list
}

func (gs *groups) unpin(list []*group) {
	for _, g := range list {
		g.unpin()
	}
}

// going returns the users of a session that is about to move, and the handle and sequence number of the
// request that bound the last of them. From now on they are not unbound when the session ends here.
func (u *users) going(s *engine.Session) (list []string, handle, seq uint32) {
	u.mu.Lock()
	defer u.mu.Unlock()
	of := u.sessions[s]
	if of == nil {
		return nil, 0, 0
	}
	of.goes = true
	for user := range of.users {
		if u.bound[user].s == s {
			list = append(list, user)
		}
	}
	return list, of.about.Handle(), of.about.Seq
}

// stays undoes going.
func (u *users) stays(s *engine.Session) {
	u.mu.Lock()
	of := u.sessions[s]
	if of != nil {
		of.goes = false
	}
	u.mu.Unlock()
	if of != nil && !s.Connected() {
		u.ended(s)
	}
}

// gone forgets a session that has moved away, and the bindings of its users.
func (u *users) gone(s *engine.Session, list []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	delete(u.sessions, s)
	for _, user := range list {
		if u.bound[user].s == s {
			delete(u.bound, user)
		}
	}
}
