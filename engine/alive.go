package engine

// looksPerTimeout is how often in one UserTimeout a session that only receives is checked.
const looksPerTimeout = 16

// dead reports whether the peer has acknowledged nothing for UserTimeout, although data was
// retransmitted. TCP_USER_TIMEOUT would also close live peers that merely don't read: Linux treats
// a zero window as silence, even if window probes are answered. So the sweep asks the kernel, and
// only for sessions that were written to since everything was last acknowledged, and from which no
// frame has arrived meanwhile. It is called while rd.wrote is set.
func (l *loop) dead(s *Session, now int64) bool {
	rd, limit := &s.rd, l.srv.cfg.UserTimeout
	wrote := rd.wrote.time(now)
	alive := max(wrote, rd.heard)
	if limit == 0 || now-max(alive, rd.looked.time(now)) < int64(limit/looksPerTimeout) && now-alive <= int64(limit) {
		return false
	}
	rd.looked = tickOf(now)
	acks := s.conn.Acks()
	if !acks.Owed {
		rd.wrote = 0
		return false
	}
	wrote = max(wrote, now-int64(acks.Ago))
	rd.wrote = markOf(wrote)
	return acks.Missed && past(now, wrote, limit)
}

// lost ends a session whose peer is dead. The kernel discards its unsent data.
func (l *loop) lost(s *Session) {
	s.conn.Abort()
	l.cut(s, ReasonPeerReset)
}
