package nodes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/engine"
	"millrace/services/cluster"
	"millrace/services/nodes/internal/carry"
	"millrace/services/nodes/internal/envelope"
)

// ask sends a question about a session to a process, and returns its answer. errElsewhere: the
// answer's Epoch is the process that has the session. Other errors are a whyNot, with the answer if
// there is one, or ones of sealing the question. It waits for a part of TakeoverTimeout, but the other
// node may work at the answer until ctx ends.
func (m *moves) ask(ctx context.Context, process uint64, e envelope.Envelope) (envelope.Envelope, error) {
	until, _ := ctx.Deadline()
	left := time.Until(until)
	if left < time.Millisecond {
		<-ctx.Done()
		return envelope.Envelope{}, &whyNot{NotTakenDead, cluster.ErrNoAnswer}
	}
	e.Left = uint32(min(left.Milliseconds(), 1<<32-1))
	if now := m.n.cache.ServerTime(); !now.IsZero() {
		e.Expires = uint64(now.Add(left).UnixMicro())
	}
	b, err := m.n.seal(e)
	if err != nil {
		return envelope.Envelope{}, err
	}
	got, err := m.n.bus.AskUntil(ctx, time.Now().Add(m.n.cfg.TakeoverTimeout/askedTimes), askSubject(process), b)
	if err != nil {
		return envelope.Envelope{}, &whyNot{NotTakenDead, err}
	}
	x, err := envelope.Parse(got)
	switch {
	case err != nil || x.Kind != envelope.Answer:
		return envelope.Envelope{}, &whyNot{NotTakenDead, cluster.ErrLost}
	case x.Flags == envelope.Elsewhere:
		return x, errElsewhere
	case x.Flags != envelope.OK:
		return x, &whyNot{NotTaken(min(x.Handle, uint32(notTakenCount)-1)), fmt.Errorf("nodes: its node says: %s", x.Body)}
	}
	return x, nil
}

// taking is a session that this node is taking over. The goroutine of its take uses it.
type taking struct {
	m     *moves
	from  uint64            // the process that has it
	id    uint64            // of the offer there; this node chooses it
	first envelope.Envelope // the answer with the first part of the state
	held  int               // bytes that it counts in moves.in
	asked bool              // the process may have received a question
	final bool              // it may have received the commit
}

// askedTimes is how many times a question without an answer is asked at most, with connections that
// stand.
const askedTimes = 4

// insist asks until there is an answer, as any message may be lost. The other node answers a question
// again as it did the first time. It gives up when ctx ends; and, before the commit, if the other node
// is dead or can't have received anything.
func (t *taking) insist(ctx context.Context, e envelope.Envelope) (envelope.Envelope, error) {
	e.Kind, e.Session = envelope.Takeover, t.id
	for {
		got, err := t.m.ask(ctx, t.from, e)
		switch {
		case err == nil || errors.Is(err, errElsewhere):
			return got, err
		case got.Kind != 0 && got.Session != t.id: // refused
			return got, err
		case got.Kind != 0: // not yet
		case errors.Is(err, cluster.ErrLost), errors.Is(err, cluster.ErrNoAnswer):
			t.asked = true
		case !errors.Is(err, cluster.ErrUnavailable):
			return got, err
		}
		if !t.final && !(t.asked && t.m.n.lives(t.from)) || !sleep(ctx, 50*time.Millisecond) {
			return got, err
		}
	}
}

// rest returns the whole answer whose first part is e, and asks for the other parts.
func (t *taking) rest(ctx context.Context, e envelope.Envelope) ([]byte, error) {
	total, most := e.Epoch, uint64(2*t.m.n.cfg.TakeoverBytes+1<<20) // plus the encoding, groups and users
	if total > most {
		return nil, engine.ErrTransferTooLarge
	}
	if t.held == 0 && !t.m.in.take(int(total)) {
		return nil, cluster.ErrOverloaded
	} else if t.held != 0 {
		t.m.in.add(int(total))
	}
	t.held += int(total)
	b := slices.Clone(e.Body)
	for uint64(len(b)) < total {
		e, err := t.insist(ctx, envelope.Envelope{Flags: envelope.TakeMore, Epoch: uint64(len(b))})
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

// commit makes the other node give the session away, and returns its tail. here is how far this node
// has received the streams of messages.
func (t *taking) commit(ctx context.Context, here []carry.Stream) (carry.Tail, error) {
	t.final = true
	e, err := t.insist(ctx, envelope.Envelope{Flags: envelope.TakeCommit, Body: carry.Tail{Streams: here}.Append(nil)})
	if err != nil {
		return carry.Tail{}, err
	}
	b, err := t.rest(ctx, e)
	if err != nil {
		return carry.Tail{}, err
	}
	return carry.ParseTail(b)
}

// back tells the other node that there are no more questions about the session: it stays there, unless
// it has been given away.
func (t *taking) back() {
	b, err := t.m.n.seal(envelope.Envelope{Kind: envelope.Takeover, Flags: envelope.TakeBack, Session: t.id})
	if err == nil {
		err = t.m.n.bus.Publish(askSubject(t.from), b)
	}
	t.m.n.lose(err)
}
