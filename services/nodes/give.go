package nodes

import (
	"context"
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
	key offerKey
	sum engine.TokenSum
	to  uint64 // the process that takes it
	d   *engine.Departure
	in  []string // the groups in the state that was sent, sorted

	mu    sync.Mutex  // held while a question about it is answered
	held  int         // guarded by moves.mu; bytes that it counts in moves.out
	given bool        // guarded by moves.mu; as cut
	bytes []byte      // guarded by mu; the encoded carry.State, or, after the cut, the carry.Tail
	cut   bool        // guarded by mu; the session has been given away
	tail  *carry.Tail // guarded by mu; after the cut, while its frames are not known yet
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
	case m.n.calls.stopping.Load() && e.Flags == envelope.TakeBegin: // what has begun is finished, see settle
		m.n.answer(msg.AnswerLater, notGiven(&whyNot{NotTakenUnknown, engine.ErrClosed}))
		return
	case m.serving.Add(1) > int64(askedMost*m.n.cfg.MaxTakeovers):
		m.serving.Add(-1)
		m.n.answer(msg.AnswerLater, notGiven(cluster.ErrOverloaded))
		return
	}
	var op *opening
	if e.Flags == envelope.TakeBegin {
		op = m.open(keyOf(e)) // here, so that a TakeBack that follows finds it
	}
	m.n.bg.Go(func() {
		defer m.serving.Add(-1)
		if op != nil {
			defer m.opened(keyOf(e), op)
		}
		left := min(time.Duration(e.Left)*time.Millisecond, m.n.cfg.TakeoverTimeout)
		ctx, cancel := context.WithTimeout(m.n.run, left)
		defer cancel()
		a, err := m.give(ctx, e, op)
		if err != nil {
			a = notGiven(err)
		}
		m.n.lose(m.n.reply(msg, a))
	})
}

// notGiven returns the answer that refuses a question with an error.
func notGiven(err error) envelope.Envelope {
	return envelope.Envelope{Kind: envelope.Answer, Flags: envelope.Refused, Handle: uint32(notTakenBy(err)), Body: []byte(err.Error())}
}

// give returns the answer to a question.
func (m *moves) give(ctx context.Context, e envelope.Envelope, op *opening) (envelope.Envelope, error) {
	if op != nil {
		return m.begin(ctx, e, op)
	}
	m.mu.Lock()
	o := m.offers[keyOf(e)]
	m.mu.Unlock()
	if o == nil {
		return envelope.Envelope{}, &whyNot{NotTakenDead, errors.New("nodes: the session has been taken back, as nothing was asked about it in time, or has moved")}
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.end.Stop()
	defer o.end.Reset(m.n.cfg.TakeoverTimeout) // if it was dropped meanwhile, that does nothing
	var err error
	switch {
	case e.Flags != envelope.TakeMore && e.Flags != envelope.TakeCommit:
		err = fmt.Errorf("nodes: step %d of a takeover is unknown: run one version on all nodes", e.Flags)
	case e.Flags == envelope.TakeCommit && !o.cut:
		err = m.commit(ctx, o, e.Body)
	case o.tail != nil:
		err = m.finish(ctx, o)
	}
	if err != nil && o.tail != nil && !errors.Is(err, engine.ErrClosed) {
		a := notGiven(&whyNot{NotTakenBusy, err})
		a.Session = o.key.id // the offer stands: ask again
		return a, nil
	}
	if err != nil {
		return envelope.Envelope{}, err
	}
	return m.part(o, e.Epoch), nil
}

// partMost is how many bytes of a session one message has at most.
const partMost = 256 << 10

// part returns the answer with a part of o.bytes, from the byte at on: Session is the offer's id, and
// Epoch the number of all bytes. o.mu is held.
func (m *moves) part(o *offer, at uint64) envelope.Envelope {
	most := max(1<<10, min(partMost, m.n.bus.MaxMessage()-envelope.HeaderLen-64))
	b := o.bytes[min(at, uint64(len(o.bytes))):]
	return envelope.Envelope{Kind: envelope.Answer, Session: o.key.id, Epoch: uint64(len(o.bytes)), Body: b[:min(len(b), most)]}
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
	if m.offers[o.key] == o {
		delete(m.offers, o.key)
	}
	m.out.add(-o.held)
	o.held = 0
	m.mu.Unlock()
	o.end.Stop()
	o.d.Cancel()
}

// takeBack handles the message that there are no more questions about a session.
func (m *moves) takeBack(e envelope.Envelope) {
	m.mu.Lock()
	o := m.offers[keyOf(e)]
	if op := m.opens[keyOf(e)]; op != nil {
		op.cancel()
	}
	m.mu.Unlock()
	if o != nil {
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
		return &whyNot{NotTakenBusy, errors.New("nodes: the groups of the session have changed meanwhile")}
	}
	t := carry.Tail{Streams: cs.seen()}
	t.Users, t.Handle, t.Seq = n.users.going(o.d.Session)
	m.goes(o)
	cut := o.d.Commit()
	cs.unlock()
	if !cut {
		m.stays(o)
		n.users.stays(o.d.Session)
		m.drop(o)
		if o.d.Session.Connected() { // something of it is under way again
			return engine.ErrUnsettled
		}
		return engine.ErrUnknownToken
	}
	n.users.gone(o.d.Session, t.Users)
	m.went(o, t.Users)
	o.cut, o.tail = true, &t
	return m.finish(ctx, o)
}

// settle waits until the nodes that have been given sessions have asked everything about them, as
// otherwise the sessions are lost with this node; or until they have not asked for
// Config.TakeoverTimeout, or ctx ends.
func (m *moves) settle(ctx context.Context) {
	for m.owes() && sleep(ctx, takenPause) {
	}
}

// owes reports whether a node may still ask about a session that it has been given.
func (m *moves) owes() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, o := range m.offers {
		if o.given {
			return true
		}
	}
	return false
}

// finish completes the tail of a session that has been given away. After an error of ctx it is called
// again, when the commit is repeated; engine.ErrClosed: the session is lost. o.mu is held.
func (m *moves) finish(ctx context.Context, o *offer) error {
	frames, err := o.d.Rest(ctx)
	if err != nil {
		return err
	}
	o.tail.Frames = frames
	o.bytes, o.tail = o.tail.Append(nil), nil
	m.mu.Lock()
	if m.offers[o.key] == o { // else it has been given up
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
