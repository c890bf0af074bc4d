package services

import (
	"bytes"

	"millrace/codec"
	"millrace/engine"
)

// refusedAtOnce is how many refusals leave the queue in one go. What is behind them waits
// for the session's turn to come again, which it does when its peer reads.
const refusedAtOnce = 1024

// full tells whether the session is owed as many answers as it may be.
func (st *sessionState) full() bool { return st.owed >= st.c.cfg.MaxDeferred }

// busy tells whether answers are owed on p's handle and no further one may be: such a
// request is refused before it is served.
func (st *sessionState) busy(p codec.Packet) bool {
	return st.full() && len(st.queues[p.Handle()]) > 0
}

// push adds r to the end of its handle's queue.
func (st *sessionState) push(r *Reply) {
	if st.queues == nil {
		st.queues = map[uint32][]*Reply{}
	}
	h := r.packet.Handle()
	st.queues[h] = append(st.queues[h], r)
	if r.refuses == 0 {
		st.owed++
	}
}

// refuse answers p with an ERROR in its turn: behind what is owed on its handle. Refusals
// in a row are one entry of the queue, a number, so however many there are they take no
// memory. One with a sequence number leaves at once: that says which request it is about.
func (st *sessionState) refuse(p codec.Packet, code engine.ErrorCode, text string) {
	st.c.failed.Add(1)
	p.Body = nil
	q := st.queues[p.Handle()]
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

// enqueue keeps an answer until it is its turn. r is the reply that it is of; nil: of a
// later request that was answered at once.
func (st *sessionState) enqueue(a answer, r *Reply) {
	h := a.packet.Handle()
	var kept func()
	if q := st.queues[h]; r == nil || q[0] != r { // it waits
		var err error
		if kept, err = st.s.TryHold(len(a.body)); err != nil && r == nil {
			st.refuse(a.packet, engine.CodeOverloaded, tooMuchOwed)
			return
		}
	}
	if r == nil {
		r = &Reply{st: st, packet: a.packet}
		st.push(r)
	}
	r.kept = kept
	r.body, r.code, r.text, r.ready = bytes.Clone(a.body), a.code, a.text, true
	st.flush(h)
}

// flush sends what is ready at the head of the handle's queue. The session is
// let go last: with its FIN behind it, that is its end.
func (st *sessionState) flush(h uint32) {
	var answered []*Reply
	for q := st.queues[h]; len(q) > 0 && q[0].ready; {
		r := q[0]
		if r.refuses > 0 && !st.flushRefusals(r) {
			break
		}
		q[0] = nil
		if q = q[1:]; len(q) == 0 {
			delete(st.queues, h)
		} else {
			st.queues[h] = q
		}
		if r.refuses == 0 {
			st.owed--
		}
		if !r.silent {
			answer{packet: r.packet, body: r.body, code: r.code, text: r.text}.write(st.c, st.s)
		}
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

// flushRefusals sends refusals of r but for the last; false: there are more than may
// leave in one go.
func (st *sessionState) flushRefusals(r *Reply) bool {
	for n := 1; r.refuses > 1; n++ {
		if n == refusedAtOnce {
			deliver(st.s, func() { st.flush(r.packet.Handle()) }, nil)
			return false
		}
		answer{packet: r.packet, code: r.code, text: r.text}.write(st.c, st.s)
		r.refuses--
	}
	return true
}
