package engine

// looksPerTimeout is how often a session that only gets is looked at in one UserTimeout.
const looksPerTimeout = 16

// dead tells whether the peer has acknowledged nothing for UserTimeout, although it was
// sent to again and again. TCP_USER_TIMEOUT would end living peers too that only don't
// read: Linux counts a closed window as silence, also while its probes are answered. So
// the sweep asks the kernel itself, and only about sessions that were written to since
// it last said that all is acknowledged, and from which no frame has come meanwhile.
// It is called while rd.wrote is set.
func (l *loop) dead(s *Session, now int64) bool {
	rd, limit := &s.rd, l.srv.cfg.UserTimeout
	alive := max(rd.wrote, rd.heard)
	if limit == 0 || now-max(alive, rd.looked.time(now)) < int64(limit/looksPerTimeout) && now-alive <= int64(limit) {
		return false
	}
	rd.looked = tickOf(now)
	acks := s.conn.Acks()
	if !acks.Owed {
		rd.wrote = 0
		return false
	}
	rd.wrote = max(rd.wrote, now-int64(acks.Ago))
	return acks.Missed && past(now, rd.wrote, limit)
}

// lost ends a session whose peer is dead. The kernel forgets what it still holds for it.
func (l *loop) lost(s *Session) {
	s.conn.Abort()
	l.cut(s, ReasonPeerReset)
}
