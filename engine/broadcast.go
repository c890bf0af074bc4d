package engine

import (
	"millrace/codec"
)

// Broadcast sends one packet to every session, as what it has not asked for. The frame
// is encoded once, and several that wait leave as one write for each session. ErrBusy
// when a loop has MaxOutbox bytes waiting: nothing was sent. From a callback use
// Session.Broadcast, which waits its turn instead. ErrFrameTooLarge, ErrClosed.
func (srv *Server) Broadcast(main, sub uint16, body []byte) error {
	return srv.broadcast(main, sub, body, true)
}

func (srv *Server) broadcast(main, sub uint16, body []byte, hard bool) error {
	if len(body) > srv.codec.MaxBody() {
		return ErrFrameTooLarge
	}
	if srv.outboxOver(hard) {
		srv.busy.Add(1)
		return ErrBusy
	}
	b := getBuf(srv.codec.Overhead() + len(body))
	defer b.free()
	b.b = srv.codec.Append(b.b, codec.Packet{Main: main, Sub: sub, Body: body})
	for _, l := range *srv.loops.Load() {
		l.cast(b.b)
	}
	srv.casts.Add(1)
	return nil
}

// outboxOver tells whether broadcasts are refused now: from elsewhere at MaxOutbox,
// from callbacks, whose strands wait afterwards, at twice of it.
func (srv *Server) outboxOver(hard bool) bool {
	limit := int64(srv.cfg.MaxOutbox)
	if !hard {
		limit *= 2
	} else if srv.buffered.Load() > int64(srv.cfg.MemoryBudget) {
		return true
	}
	return !srv.outboxBelow(limit)
}

// outboxBelow tells whether every loop has less than limit bytes waiting.
func (srv *Server) outboxBelow(limit int64) bool {
	for _, l := range *srv.loops.Load() {
		if l.queued.Load() >= limit {
			return false
		}
	}
	return true
}

// Broadcast is Server.Broadcast for this session's callbacks: when the loops' outboxes
// are full, the strand waits for them before its next packet.
func (s *Session) Broadcast(main, sub uint16, body []byte) error {
	err := s.srv.broadcast(main, sub, body, false)
	s.waitForOutbox()
	return err
}

// SendGroup is Group.Send for this session's callbacks: when the loops' outboxes are
// full, the strand waits for them before its next packet.
func (s *Session) SendGroup(g *Group, main, sub uint16, body []byte) (sent int, err error) {
	sent, err = g.send(main, sub, body, false)
	s.waitForOutbox()
	return sent, err
}

func (s *Session) waitForOutbox() {
	if !s.srv.outboxBelow(int64(s.srv.cfg.MaxOutbox)) {
		s.out.waits.Store(true)
	}
}
