package services

import (
	"errors"
	"maps"
	"net"
	"slices"

	"millrace/codec"
	"millrace/engine"
	"millrace/services/serial"
	"millrace/timerwheel"
)

// sessionState is the controller's state of a session, created when first needed. It is used in the
// session's order only.
type sessionState struct {
	c       *Controller
	s       *engine.Session
	ser     serial.Serializer
	timers  *timerwheel.Set
	queues  map[uint32]*turns // by handle
	owed    int               // in all queues, without refusals
	buckets map[*limiter]*bucket
	ended   bool // the peer sent a FIN, or the session closed
	closed  bool
}

// state returns the session's state, and creates it if create is set. In the session's order only.
func (c *Controller) state(s *engine.Session, create bool) *sessionState {
	if st, ok := c.sessions.Load(s); ok {
		return st.(*sessionState)
	}
	if !create {
		return nil
	}
	st := &sessionState{c: c, s: s}
	c.sessions.Store(s, st)
	c.nSessions.Add(1)
	return st
}

// set returns the session's timers, or nil without a timer service.
func (st *sessionState) set() *timerwheel.Set {
	if st.timers == nil && st.c.cfg.Timers != nil {
		st.timers = st.c.cfg.Timers.For(st.s.Submitter(engine.EventTimer))
	}
	return st.timers
}

// end is called on the peer's FIN and on close: the session gets no new requests.
func (st *sessionState) end() {
	if st.ended {
		return
	}
	st.ended = true
	if st.timers != nil {
		st.timers.Close()
	}
	for _, q := range st.all() {
		for _, r := range append([]*Reply(nil), q.owed()...) { // onEnd may remove it
			if fn := r.onEnd; fn != nil {
				r.onEnd = nil
				fn()
			}
		}
	}
}

// all returns the queues, ordered by handle.
func (st *sessionState) all() (list []*turns) {
	for _, h := range slices.Sorted(maps.Keys(st.queues)) {
		list = append(list, st.queues[h])
	}
	return list
}

// close drops the pending answers.
func (st *sessionState) close() {
	st.closed = true
	st.end()
	for _, q := range st.all() {
		for _, r := range q.owed() {
			r.drop()
		}
		*q = turns{} // replies still refer to it
	}
	st.queues = nil
}

// answer is one frame to a peer: an answer, or an ERROR if code is not 0.
type answer struct {
	packet codec.Packet // gives the handle and Seq
	body   []byte       // valid during the call
	code   engine.ErrorCode
	text   string
}

// write sends the answer. An ERROR replaces an answer that is too large. If nothing can be sent,
// the session is closed: the client would take the next answer for this one.
func (a answer) write(c *Controller, s *engine.Session) {
	if a.code != 0 {
		if err := s.ReplyError(a.packet, a.code, a.text); err != nil && !errors.Is(err, net.ErrClosed) {
			s.Logger().Warn("services: session closed because an answer could not be sent", "handle", handleText(a.packet.Handle()), "err", err)
			_ = s.Close()
		}
		return
	}
	err := s.Reply(a.packet, a.body)
	if err == nil {
		return
	}
	if errors.Is(err, net.ErrClosed) {
		c.stale.Add(1)
		return
	}
	e := ErrorOf(err)
	c.failed.Add(1)
	answer{packet: a.packet, code: e.Code, text: e.Text}.write(c, s)
}
