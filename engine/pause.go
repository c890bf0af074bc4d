package engine

import (
	"millrace/engine/internal/budget"
	"millrace/engine/internal/flight"
	"millrace/engine/internal/inbox"
)

// review pauses or resumes reading, by the memory held at present.
func (l *loop) review(s *Session) {
	c := &l.srv.cfg
	in := s.in.Held(c.MaxPending)
	if s.rd.paused == 0 && in < l.srv.nearPending && !s.out.Full() && !s.out.Blocked() && l.srv.budget.Level() == budget.Free {
		return // the usual case: less is unsent than the strand may leave unsent, at most MaxOutbound
	}
	out := s.out.Size()
	want := s.rd.paused.With(inbox.PauseOut, out, c.MaxOutbound).With(inbox.PauseIn, in, c.MaxPending)
	if level := l.srv.budget.Level(); level == budget.Free || s == l.favoured {
		want &^= inbox.PauseBudget
	} else {
		want = want.With(inbox.PauseBudget, in+out+s.rest(), l.srv.shareOf(level))
	}
	if isNear(in, c.MaxPending) {
		l.srv.near(LimitPending, s, in, c.MaxPending)
	}
	switch {
	case want == s.rd.paused:
	case want == 0:
		l.unpause(s)
	default:
		l.pause(s, want)
	}
}

// pause stops reading from a session; the kernel's buffers fill, and then the peer is blocked.
func (l *loop) pause(s *Session, why inbox.Pause) {
	if s.line() != nil {
		if why = s.line().mayPause(why); why == 0 {
			l.unpause(s)
			return
		}
	}
	if s.rd.paused == 0 {
		l.st.pauses.Add(1)
		if !s.conn.PauseReading(true) {
			l.overflow(s, why)
			return
		}
	}
	s.setPaused(why)
	if ln := s.line(); ln != nil && ln.hasty {
		s.scheduleFlush() // which loosens it
	}
	s.note(flight.Pause, uint32(why), 0)
	if why&inbox.PauseBudget != 0 && !s.rd.waits {
		s.rd.waits = true
		l.paused = append(l.paused, s)
		l.srv.starving.Add(1)
	}
}

// overflow closes a session that exceeds its limits and whose reading can't be paused.
func (l *loop) overflow(s *Session, why inbox.Pause) {
	c := &l.srv.cfg
	if why&inbox.PauseRate != 0 {
		s.tooFast()
		return
	}
	if s.in.Held(maxInt)/2 > c.MaxPending || s.out.Size()/2 > c.MaxOutbound || why&inbox.PauseBudget != 0 {
		l.abort(s, ReasonOverflow)
	}
}

func (l *loop) unpause(s *Session) {
	if s.rd.paused == 0 {
		return
	}
	s.setPaused(0)
	s.note(flight.Resume, 0, 0)
	now := l.srv.now()
	s.rd.last = now
	if s.rd.partial.Some() {
		s.rd.begin(now)
	}
	s.conn.PauseReading(false)
}

// held returns the approximate memory that a session holds.
func (l *loop) held(s *Session) int {
	n := s.in.Held(maxInt) + s.out.Held() + s.rest()
	if ln := s.line(); ln != nil {
		n += ln.kept()
	}
	return n
}

// shareOf returns how much one session may hold, in and out together.
func (srv *Server) shareOf(level budget.Level) int {
	return srv.budget.Share(level, int(srv.conns.Load()), maxInt)
}

// rest returns the memory it holds other than waiting requests and unsent output.
func (s *Session) rest() int { return s.rd.partial.Held() + int(s.held.Load())*holdCost }
