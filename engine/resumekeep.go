package engine

import "millrace/engine/internal/inbox"

// keep has the session's outbox count what is kept against its limits, and returns how much
// of it counts.
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

// relieveLine is relieve for what a line adds.
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
	case s.rd.paused&inbox.PauseOut != 0 && ln.starved():
		l.pause(s, s.rd.paused)
	}
	return kept
}

// overruns counts what a session without a link has been pushed since the last look, and
// tells whether that is more than is kept for its peer.
func (l *loop) overruns(s *Session) bool {
	ln := s.line()
	if s.out.Blocked() && s.out.Keyed() { // what waits may be replaced, see Write
		pushed, lag := s.out.Lagging(&l.out)
		return ln.unasked+pushed+lag > l.srv.mostKept()
	}
	ln.unasked += s.out.Pushed(&l.out) + int(s.out.Pos()-ln.logPos)
	ln.logPos = s.out.Pos()
	return ln.unasked > l.srv.cfg.ResumeBytes
}

// mayPause is what of why holds for a session whose acknowledgements stand behind its
// requests: what waits for them alone is no reason not to read on.
func (ln *line) mayPause(why inbox.Pause) inbox.Pause {
	if why&inbox.PauseOut != 0 && ln.starved() {
		why &^= inbox.PauseOut
	}
	return why
}

// forgetTaken forgets what the kernel says that the peer has, of a session that is not read
// from as it holds too much of the memory budget: the acknowledgement may stand behind
// requests that so are not read.
func (l *loop) forgetTaken(s *Session) {
	ln := s.line()
	if v := ln.view(); v.unread == 0 || v.unacked > 0 {
		return
	}
	ln.mu.Lock()
	before := ln.ring.Bytes()
	ln.ring.Forget(0)
	less := ln.ring.Bytes() < before
	ln.mu.Unlock()
	if less {
		ln.keep()
		l.review(s)
	}
}

// dropKept gives back what the loops of a server that has stopped keep for the lines and in
// their logs.
func (srv *Server) dropKept() {
	for _, l := range srv.allLoops() {
		if l.turn.since.Load() == 0 {
			l.recent.Close(srv.budget)
			srv.budget.Add(-l.out.Log.Close())
		}
	}
}
