package nodes

import (
	"context"
	"encoding/binary"
	"errors"
	"slices"
	"time"

	"millrace/engine"
	"millrace/services/cluster"
	"millrace/services/nodes/internal/carry"
	"millrace/services/nodes/internal/envelope"
)

// offerKey names an offer. The process that asks for the session chooses the id, so that it can ask
// again, and give the session back, also when it has had no answer.
type offerKey struct{ asker, id uint64 }

func keyOf(e envelope.Envelope) offerKey { return offerKey{e.Source, e.Session} }

// opening is an offer that is being made: it exists while a question for it is answered.
type opening struct {
	questions int             // guarded by moves.mu
	turn      chan struct{}   // holds an element while one of them is answered; capacity 1
	back      context.Context // ends when the process that asks wants the session no more
	cancel    context.CancelFunc
}

// open notes a question for an offer. It must be followed by opened.
func (m *moves) open(key offerKey) *opening {
	m.mu.Lock()
	defer m.mu.Unlock()
	op := m.opens[key]
	if op == nil {
		op = &opening{turn: make(chan struct{}, 1)}
		op.back, op.cancel = context.WithCancel(m.n.run)
		m.opens[key] = op
	}
	op.questions++
	return op
}

// opened: a question has been answered.
func (m *moves) opened(key offerKey, op *opening) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if op.questions--; op.questions == 0 {
		op.cancel()
		delete(m.opens, key)
	}
}

// again returns the first part of a session that has been offered.
func (m *moves) again(o *offer, sum engine.TokenSum) (envelope.Envelope, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.sum != sum || o.cut {
		return envelope.Envelope{}, &whyNot{NotTakenDead, errors.New("nodes: the id of the takeover is in use: each has its own")}
	}
	o.end.Reset(m.n.cfg.TakeoverTimeout)
	return m.part(o, 0), nil
}

// begin suspends a session, and offers it to the node that asks. If it has been offered already, the
// answer was lost: it is given again.
func (m *moves) begin(ctx context.Context, e envelope.Envelope, op *opening) (envelope.Envelope, error) {
	srv := m.n.server()
	if len(e.Body) != len(engine.TokenSum{})+8 || srv == nil {
		return envelope.Envelope{}, engine.ErrUnknownToken
	}
	if e.Session == 0 {
		return envelope.Envelope{}, &whyNot{NotTakenDead, errors.New("nodes: a takeover without an id: run one version on all nodes")}
	}
	sum := engine.TokenSum(e.Body[:32])
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(op.back, cancel)()
	select {
	case op.turn <- struct{}{}:
		defer func() { <-op.turn }()
	case <-ctx.Done():
		return envelope.Envelope{}, engine.ErrUnsettled
	}
	key := keyOf(e)
	m.mu.Lock()
	made := m.offers[key]
	m.mu.Unlock()
	if made != nil {
		return m.again(made, sum)
	}
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
	if m.n.users.unsettled(d.Session) {
		d.Cancel()
		return envelope.Envelope{}, engine.ErrUnsettled
	}
	o := &offer{key: key, sum: sum, to: e.Source, d: d, in: slices.Sorted(slices.Values(d.Groups()))}
	o.bytes = carry.State{
		Session: uint64(d.Session.ID()), Received: d.Received, First: d.First, Most: d.Most, Accepted: d.Accepted.UnixMicro(),
		Frames: d.Frames, User: d.State, Groups: o.in,
	}.Append(nil)
	d.Frames, d.State = nil, nil
	o.mu.Lock()
	defer o.mu.Unlock()
	m.mu.Lock()
	if op.back.Err() != nil {
		m.mu.Unlock()
		d.Cancel()
		return envelope.Envelope{}, engine.ErrUnsettled
	}
	o.held, counted = len(o.bytes), most-len(o.bytes)
	o.end = time.AfterFunc(m.n.cfg.TakeoverTimeout, func() { m.drop(o) })
	m.offers[key] = o
	m.mu.Unlock()
	return m.part(o, 0), nil
}
