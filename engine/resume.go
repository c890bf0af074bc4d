package engine

import (
	"fmt"
	"time"

	"millrace/codec"
	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/flight"
	"millrace/engine/internal/inbox"
	"millrace/engine/internal/netio"
	"millrace/engine/internal/outbox"
	"millrace/engine/internal/strand"
)

// ResumeHandler is a Handler that is notified when the connection of a session that can be resumed
// is lost, and when the session is resumed. Both methods run in the session's order. Data sent
// meanwhile is kept for the peer; the session closes with ReasonResumeTimeout or
// ReasonResumeOverrun if that takes too long or is too much.
type ResumeHandler interface {
	OnSocketDetach(s *Session)
	OnSocketResume(s *Session)
}

// Detached reports whether the session has no connection and waits to be resumed.
func (s *Session) Detached() bool { return s.flags.has(flagAway) }

// validateResume reports faults of the settings for resume.
func (c *Config) validateResume(bad func(field string, v any, why string)) {
	switch frames, err := c.newFraming(c.Framer, false); {
	case c.Resume <= 0 || err != nil:
	case c.bare():
		bad("Resume", c.Resume, "needs system frames, which a framing without handles does not have")
	case len(c.Framings) > 0:
		bad("Resume", c.Resume, "needs one framing on all addresses: leave Framings out")
	case c.NoSystemFrames:
		bad("Resume", c.Resume, "needs system frames, which NoSystemFrames turns off")
	case c.Framer == nil && frames.codec.MaxBody() < codec.MaxHello:
		bad("Resume", c.Resume, fmt.Sprintf("needs frames with room for a HELLO, a body of %d bytes: set MaxFrame", codec.MaxHello))
	}
}

// codeReplaced is the WebSocket close code of a connection whose session was resumed on another
// one.
const codeReplaced = 4000

// resumes reports whether sessions of the server can be resumed.
func (srv *Server) resumes() bool { return srv.cfg.Resume > 0 }

// attach makes a link the session's connection. Home loop's goroutine. It returns false if the
// session can't be resumed by this peer.
func (ln *line) attach(k *link, h codec.Hello, seq uint32) bool {
	s, l := ln.s, ln.home
	if now, ok := ln.srv.tokens.Find(h.Token); !ok || now != ln || s.closed() || ln.bye || l.srv.draining.Load() {
		return false // the token was used, or the session has ended, meanwhile
	}
	if h.Token != ln.token {
		// The peer has the next token, but the server has received nothing after the HELLO that was
		// answered with it. So the older token still identifies the session, and remains valid:
		// input that the link has not read yet, which would invalidate it, is not read.
		if ln.cur != nil {
			l.leave(s, codeReplaced)
		}
		return false
	}
	if ln.depart != nil && !l.takeBack(ln.depart) {
		return false // another server has it
	}
	ln.mu.Lock()
	forgotten := h.Received < ln.ring.First()
	ok := ln.ring.Rewind(h.Received)
	if ok {
		if ln.unproven {
			ln.srv.tokens.Delete(ln.next)
		}
		ln.next, ln.unproven = ln.srv.newToken(), true
		ln.srv.tokens.Put(ln.next, ln)
		ln.link, ln.wish, ln.loose, ln.ctlOut, ln.seen = k, true, false, 0, kernelView{}
		ln.welcome(true, seq)
		k.line = ln
	}
	ln.mu.Unlock()
	if !ok {
		if forgotten {
			l.abort(s, ReasonResumeOverrun)
		}
		return false
	}
	if old := ln.cur; old != nil {
		l.srv.closes[ReasonReplaced].Add(1)
		old.loop.run(l, func() { old.finish(codeReplaced) })
	}
	was := ln.RemoteAddr()
	ln.at.Store(endpointOf(k.c))
	if l.srv.cfg.MaxConnsPerIP > 0 { // it uses the session's own place
		l.srv.perIP.Leave(was)
		l.srv.perIP.Enter(ln.RemoteAddr(), maxInt)
	}
	ln.cur = k
	l.attached(s)
	return true
}

// attached continues a session with a new connection.
func (l *loop) attached(s *Session) {
	ln, now := s.line(), l.srv.now()
	l.dropPartial(s)
	if ln.away != 0 {
		ln.away = 0
		l.srv.waiting.Add(-1)
	}
	ln.finned = false
	s.note(flight.Back, 0, 0)
	s.flags.clear(flagAway)
	s.setPaused(0)
	s.rd.heard, s.rd.last, s.rd.since = now, now, now
	s.rd.progress, s.rd.wrote, s.unacked = 0, 0, 0
	l.srv.resumed.Add(1)
	if h, ok := l.srv.handler().(ResumeHandler); ok {
		s.tell("OnSocketResume", func() { h.OnSocketResume(s) })
	}
	ln.keep()
	s.canWrite()
	l.review(s)
}

func (l *loop) dropPartial(s *Session) {
	s.rd.partial.Drop(l.budget) // the rest of a partial frame will not arrive
	if l.favoured == s {
		l.favoured = nil
	}
}

// tell runs fn in the session's order.
func (s *Session) tell(callback string, fn func()) {
	it := bufpool.Empty(strand.Tell)
	it.Fn = func() { s.guard(callback, fn) }
	s.loop.post(s, it)
}

// linkEnded is called when a link has ended: by its peer's FIN, after which it can still be written
// to, or completely.
func (l *loop) linkEnded(ln *line, k *link, fin bool) {
	s := ln.s
	if ln.cur != k || s.rd.life == lifeGone {
		return
	}
	if ln.bye || s.closed() || s.rd.life != lifeOpen || s.rd.input == inputBad {
		how := netio.EndFIN
		if !fin {
			how = netio.EndReset
			l.leaveLink(ln)
		}
		l.disconnected(s, how)
		if s.rd.life == lifeGone {
			ln.Close()
		}
		return
	}
	ln.finned = fin
	if !fin {
		l.leaveLink(ln)
	}
	l.detached(s)
	if fin {
		l.leaveFinned(s)
	}
}

// leaveLink removes the link.
func (l *loop) leaveLink(ln *line) {
	k := ln.cur
	ln.cur, ln.finned = nil, false
	ln.mu.Lock()
	if ln.link == k && k != nil {
		ln.link, ln.ctl, ln.ctlOut = nil, ln.ctl[:0], 0
		ln.ring.Park()
	}
	ln.mu.Unlock()
	ln.unasked, ln.logPos = 0, ln.s.out.Pos()
}

// detached makes a session wait to be resumed.
func (l *loop) detached(s *Session) {
	ln := s.line()
	l.dropPartial(s)
	s.setPaused(0)
	s.rd.progress, s.rd.wrote, s.unacked = 0, 0, 0
	if ln.away == 0 {
		ln.away = l.srv.now()
		l.srv.waiting.Add(1)
		l.srv.detaches.Add(1)
		s.note(flight.Away, 0, 0)
		s.flags.set(flagAway)
		if h, ok := l.srv.handler().(ResumeHandler); ok {
			s.tell("OnSocketDetach", func() { h.OnSocketDetach(s) })
		}
	}
	s.canWrite()
}

// leaveFinned ends a link whose peer has sent its FIN when all its answers have been sent.
func (l *loop) leaveFinned(s *Session) {
	if ln := s.line(); ln.finned && ln.drained() && !l.busy(s) {
		l.leave(s, closeCode(ReasonPeerClosed))
	}
}

// leave ends a session's link, after writing what the kernel accepts at once, and makes the session
// wait for the next.
func (l *loop) leave(s *Session, code uint16) {
	ln := s.line()
	k := ln.cur
	ln.cur, ln.finned = nil, false
	k.loop.run(l, func() {
		k.pump()
		k.finish(code)
		ln.mu.Lock()
		parted := ln.link == k
		if parted {
			ln.link, ln.ctl, ln.ctlOut = nil, ln.ctl[:0], 0
			ln.ring.Park()
		}
		ln.mu.Unlock()
		if parted {
			s.canWrite() // everything is accepted now
		}
	})
	ln.unasked, ln.logPos = 0, s.out.Pos()
	l.detached(s)
}

// cut ends the connection of a session, and the session too, unless it can be resumed.
func (l *loop) cut(s *Session, why Reason) {
	switch ln := s.line(); {
	case ln != nil && ln.cur == nil && !s.closed():
		return // it was already cut, and its unsent data is about to be kept
	case ln == nil || !l.survives(s):
		l.abort(s, why)
		return
	}
	l.srv.closes[why].Add(1)
	l.leave(s, closeCode(why))
}

// survives reports whether the session has a link and survives its loss.
func (l *loop) survives(s *Session) bool {
	ln := s.line()
	return ln.cur != nil && !ln.bye && !s.closed() && s.rd.life == lifeOpen && s.rd.input != inputBad
}

// timedOut ends the connection of a session after an ERROR.
func (l *loop) timedOut(s *Session, why Reason) {
	if s.line() == nil || !l.survives(s) {
		s.closeWithError(codec.Packet{}, CodeTimeout, why.String(), why)
		return
	}
	ln := s.line()
	frame := l.srv.encodeError(codec.Packet{}, CodeTimeout, why.String())
	ln.mu.Lock()
	if ln.ring.Open() == 0 { // it is counted, and resent if the peer does not receive it
		ln.ring.Append(frame, nil)
		l.sum.errors.Add(1)
	}
	ln.mu.Unlock()
	l.srv.closes[why].Add(1)
	l.leave(s, closeCode(why))
}

// inspectLine checks the timeouts that only such a session has, and reports whether it waits to be
// resumed: then no others apply.
func (l *loop) inspectLine(s *Session, now int64) (waits bool) {
	ln, c := s.line(), &l.srv.cfg
	switch {
	case s.closed() || s.rd.life != lifeOpen:
		if s.rd.life == lifeOpen && ln.cur == nil {
			s.out.Unblock() // what was not accepted is accepted now, see line.Write
			l.flush(s, outbox.LookWalk)
		}
		return false
	case ln.depart != nil || ln.embryo:
		return true
	case ln.away == 0:
	case l.srv.draining.Load() && !l.awaited(ln, now):
		l.abort(s, ReasonDrain)
		return true
	case past(now, ln.away, c.Resume):
		l.abort(s, ReasonResumeTimeout)
		return true
	default:
		if s.rd.progress.past(now, finStall) && ln.finned {
			l.leave(s, closeCode(ReasonPeerClosed))
		}
		l.leaveFinned(s)
		return true
	}
	if ln.received != ln.told && now-ln.owedSince > int64(ackTime)-2*int64(l.srv.tick()) {
		ln.acknowledge()
	}
	if s.rd.paused&inbox.PauseBudget != 0 {
		l.forgetTaken(s, 0, 0)
	}
	if !ln.starved() {
		return false
	}
	if s.rd.progress == 0 { // nothing waits to be sent, but the strand waits
		s.rd.progress = markOf(now)
	}
	if v := ln.view(); v.unread > 0 && s.rd.paused&^inbox.PauseRate != 0 { // the pause for a rate ends by itself
		if ln.hasty || s.rd.progress.past(now, ackTime) {
			ln.hasty = true // if it has happened once it is likely to happen again
			l.loosen(s)
		}
	} else if v.unread == 0 && v.unacked == 0 && s.rd.progress.past(now, l.srv.ackTimeout()) {
		l.timedOut(s, ReasonFrame)
	}
	return false
}

// ackTimeout returns how long a peer that has received everything may acknowledge nothing: FrameTimeout,
// but longer than it may wait by the protocol. 0 is no limit.
func (srv *Server) ackTimeout() time.Duration {
	if d := srv.adjusted.Load().FrameTimeout; d > 0 {
		return max(d, ackTime+slowAfter)
	}
	return 0
}

// awaited tells whether a session of a draining server whose peer is away may still be taken
// over by another server.
func (l *loop) awaited(ln *line, now int64) bool {
	return l.srv.evacuates() && !past(now, max(ln.away, l.srv.drainFrom.Load()), l.srv.cfg.Handover)
}

// endWaiting ends the sessions of a server that stops whose peers are away, unless others may
// take them over.
func (l *loop) endWaiting() {
	now := l.srv.now()
	for i := len(l.sessions) - 1; i >= 0; i-- {
		if s := l.sessions[i]; s.line() != nil && s.line().away != 0 && s.line().depart == nil && !l.awaited(s.line(), now) {
			l.abort(s, ReasonDrain)
		}
	}
}
