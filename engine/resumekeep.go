package engine

import "millrace/engine/internal/inbox"

// keep makes the session's outbox count the kept bytes towards its limits, and returns how many
// count.
func (ln *line) keep() (kept int) {
	ln.mu.Lock()
	n := ln.ring.Bytes()
	ln.mu.Unlock()
	c, o, sh := &ln.srv.cfg, &ln.s.out, &ln.home.out
	if isNear(n, c.ResumeBytes) {
		ln.srv.near(LimitResumeBytes, ln.s, n, c.ResumeBytes)
	}
	kept = max(0, n-max(0, c.ResumeBytes-c.MaxOutbound))
	o.Keep(sh, kept)
	if o.Relieve(sh, kept) {
		ln.s.wakeStrand()
	}
	return kept
}

// relieveLine is the part of relieve for a line.
func (l *loop) relieveLine(s *Session) (kept int) {
	ln := s.line()
	kept = ln.keep()
	switch {
	case s.rd.life == lifeGone || s.closed():
	case ln.away != 0 && ln.cur == nil && l.overruns(s):
		l.abort(s, ReasonResumeOverrun)
	case ln.finned:
		l.leaveFinned(s)
	case ln.cur == nil:
	case s.rd.paused&inbox.PauseIn != 0 && ln.hasty && ln.starved():
		l.loosen(s)
	case s.rd.paused&inbox.PauseOut != 0 && ln.starved():
		l.pause(s, s.rd.paused)
	}
	return kept
}

// overruns counts the unsolicited bytes sent to a session without a link since the last check, and
// reports whether they exceed what is kept for its peer.
func (l *loop) overruns(s *Session) bool {
	ln, most, wait := s.line(), l.srv.cfg.ResumeBytes, 0
	ln.unasked += s.out.Pushed(&l.out) + int(s.out.Pos()-ln.logPos)
	ln.logPos = s.out.Pos()
	if s.out.Blocked() { // see Write
		if s.out.Keyed() { // waiting pushes may be replaced
			most = l.srv.mostKept()
		}
		pushed, lag := s.out.Lagging(&l.out)
		wait = pushed + lag
	}
	return ln.unasked+wait > most
}

// mayPause returns the part of why that applies to a session whose acknowledgements are queued
// behind its requests: bytes that only wait for acknowledgements are no reason to stop reading.
func (ln *line) mayPause(why inbox.Pause) inbox.Pause {
	if why&inbox.PauseOut != 0 && ln.starved() {
		why &^= inbox.PauseOut
	}
	return why
}

// loosen lets a session continue that is starved and not read as it has too many requests: the
// peer's acknowledgements may be queued behind them, and nobody knows how far behind. The ring may
// then hold what unread answers may, mostKept, and of what it holds beyond half of that the oldest is
// dropped, if the peer's kernel has it. So memory is bounded and a peer that reads continues, however
// many requests it has written in front of an acknowledgement. What is dropped and not read is lost
// with the connection: nothing is if less than half of mostKept is on its way or in the peer's kernel.
// Where half is less than aheadMost, so much may be on its way: else little would be sent in each tick.
func (l *loop) loosen(s *Session) {
	ln, most := s.line(), l.srv.mostKept()
	ln.mu.Lock()
	ln.loose = true
	keep := min(most/2, max(most-ln.need, 0))
	ln.mu.Unlock()
	l.forgetTaken(s, keep, max(keep, aheadMost))
	ln.mu.Lock()
	room := ln.takeWish()
	ln.mu.Unlock()
	if room { // else this would come here again at once
		s.canWrite()
	}
}

// forgetTaken drops the oldest data until at most most bytes are kept, if the peer has received all
// but unacked bytes according to the kernel. The session is not read because of its requests, or of the
// memory budget: its acknowledgement may be queued behind requests that are therefore not read.
func (l *loop) forgetTaken(s *Session, most, unacked int) {
	ln := s.line()
	if v := ln.view(); v.unread == 0 || v.unacked > unacked {
		return
	}
	ln.mu.Lock()
	before := ln.ring.Bytes()
	ln.ring.Forget(most)
	less := ln.ring.Bytes() < before
	ln.mu.Unlock()
	if less {
		ln.keep()
		l.review(s)
	}
}

// dropKept releases what the loops of a stopped server keep for the lines and in their logs.
func (srv *Server) dropKept() {
	for _, l := range srv.allLoops() {
		if l.turn.since.Load() == 0 {
			l.recent.Close(srv.budget)
			srv.budget.Add(-l.out.Log.Close())
		}
	}
}

// mostKept returns how much the ring may hold for a session without a link, in bytes: unread
// answers count once, in the larger of the two limits.
func (srv *Server) mostKept() int { return max(srv.cfg.ResumeBytes, srv.cfg.MaxOutbound) }
