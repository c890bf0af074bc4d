package services

import (
	"bytes"

	"millrace/codec"
	"millrace/engine"
)

// refusedAtOnce is how many refusals are sent in one go. Answers behind them wait until the session
// runs again, which happens when its peer reads.
const refusedAtOnce = 1024

// full reports whether the session has as many pending answers as allowed.
func (st *sessionState) full() bool { return st.owed >= st.c.cfg.MaxDeferred }

// turns are the pending answers on one handle, in the order of their requests.
type turns struct {
	list []*Reply // those before head have been answered
	head int
}

func (q *turns) owed() []*Reply {
	if q == nil {
		return nil
	}
	return q.list[q.head:]
}

// pop removes the first answer. The slice is kept for reuse, unless it was long.
func (q *turns) pop() {
	q.list[q.head] = nil
	q.head++
	switch {
	case q.head < len(q.list):
		if q.head > keptTurns && q.head > len(q.list)/2 {
			q.list = append([]*Reply(nil), q.owed()...)
			q.head = 0
		}
	case cap(q.list) > keptTurns:
		q.list, q.head = nil, 0
	default:
		q.list, q.head = q.list[:0], 0
	}
}

// keptTurns is the capacity that an empty queue may keep.
const keptTurns = 16

// busy reports whether answers are pending on p's handle and no further one is allowed: then
// a request is refused before it is served.
func (st *sessionState) busy(p codec.Packet) bool {
	return st.full() && len(st.queues[p.Handle()].owed()) > 0
}

// push adds r to the end of its handle's queue.
func (st *sessionState) push(r *Reply) {
	h := r.packet.Handle()
	q := st.queues[h]
	if q == nil {
		if st.queues == nil {
			st.queues = map[uint32]*turns{}
		}
		q = &turns{}
		st.queues[h] = q
	}
	q.list = append(q.list, r)
	r.turns = q
	if r.refuses == 0 {
		st.owed++
	}
}

// refuse answers p with an ERROR in order: after the pending answers on its handle. Consecutive
// refusals are one entry of the queue with a count, so any number of them takes no additional
// memory. If p has a sequence number, which identifies the request, the ERROR is sent at once.
func (st *sessionState) refuse(p codec.Packet, code engine.ErrorCode, text string) {
	st.c.failed.Add(1)
	p.Body = nil
	q := st.queues[p.Handle()].owed()
	if len(q) == 0 || p.Seq != 0 {
		answer{packet: p, code: code, text: text}.write(st.c, st.s)
		return
	}
	if last := q[len(q)-1]; last.refuses > 0 && last.code == code {
		last.refuses++
		return
	}
	st.push(&Reply{st: st, packet: p, refuses: 1, ready: true, code: code, text: text, release: st.s.Hold()})
}

// enqueue sends an answer, or keeps it until it is first in its queue. r is its Reply; nil for a
// later request that was answered at once.
func (st *sessionState) enqueue(a answer, r *Reply) {
	first := r != nil && r.turns.owed()[0] == r
	var kept func()
	if !first {
		var err error
		if kept, err = st.s.TryHold(len(a.body)); err != nil && r == nil {
			st.refuse(a.packet, engine.CodeOverloaded, tooMuchOwed)
			return
		}
		a.body = bytes.Clone(a.body)
	}
	if r == nil {
		r = &Reply{st: st, packet: a.packet}
		st.push(r)
	}
	r.kept = kept
	r.body, r.code, r.text, r.ready = a.body, a.code, a.text, true
	if first {
		st.flush(r.turns)
	}
}

// flush sends the ready answers at the head of the queue. The hold on the session is released last:
// after the peer's FIN, that ends the session.
func (st *sessionState) flush(q *turns) {
	var room [8]*Reply
	answered := room[:0]
	for len(q.owed()) > 0 && q.owed()[0].ready {
		r := q.owed()[0]
		if r.refuses > 0 && !st.flushRefusals(r) {
			break
		}
		q.pop()
		if r.refuses == 0 {
			st.owed--
		}
		if !r.silent {
			answer{packet: r.packet, body: r.body, code: r.code, text: r.text}.write(st.c, st.s)
		}
		r.body = nil
		if r.ctx != nil {
			st.c.deferred.Add(-1)
		}
		if r.release != nil || r.kept != nil {
			answered = append(answered, r)
		}
	}
	for _, r := range answered {
		r.letGo()
		if r.release != nil {
			r.release()
		}
	}
}

// flushRefusals sends all refusals of r except the last; false if there are more than may be sent
// in one go.
func (st *sessionState) flushRefusals(r *Reply) bool {
	for n := 1; r.refuses > 1; n++ {
		if n == refusedAtOnce {
			deliver(st.s, func() { st.flush(r.turns) }, nil)
			return false
		}
		answer{packet: r.packet, code: r.code, text: r.text}.write(st.c, st.s)
		r.refuses--
	}
	return true
}
