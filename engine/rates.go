package engine

import (
	"net"
	"time"

	"millrace/codec"
	"millrace/engine/internal/inbox"
)

const (
	// slowLeast is the shortest useful pause, and slowMost how long a pause lasts before it is
	// checked again.
	slowLeast = 5 * time.Millisecond
	slowMost  = 100 * time.Millisecond
)

// metered is called with the number of bytes just read from a session, and pauses reading until its
// rates allow them. What was read is handled: input may be ahead by a second's worth plus one read.
// Loop goroutine.
func (l *loop) metered(s *Session, n int) {
	c := &l.srv.cfg
	if c.FrameRate == 0 && c.ByteRate == 0 && c.SessionCPU == 0 || s.rd.life != lifeOpen || s.closed() || l.srv.draining.Load() {
		return
	}
	m, now := s.meter(), l.srv.now()
	var longest time.Duration
	why := throttleCount
	take := func(limit Throttle, wait time.Duration) {
		if wait > longest {
			longest, why = wait, limit
		}
	}
	if c.FrameRate > 0 {
		frames := s.framesIn.Load()
		take(ThrottleFrameRate, m.frames.Take(now, int64(frames-m.seenFrames), int64(c.FrameRate)))
		m.seenFrames = frames
	}
	if c.ByteRate > 0 {
		take(ThrottleByteRate, m.bytes.Take(now, int64(n), int64(c.ByteRate)))
	}
	if c.SessionCPU > 0 {
		spent := m.cost.spent.Load()
		take(ThrottleSessionCPU, m.cpu.Take(now, spent-m.seenCPU, int64(c.SessionCPU)))
		m.seenCPU = spent
	}
	if longest < slowLeast {
		return
	}
	l.srv.limited[why].Add(1)
	m.until = now + int64(longest)
	if s.rd.paused&inbox.PauseRate == 0 {
		l.pause(s, s.rd.paused|inbox.PauseRate)
	}
	if s.rd.paused&inbox.PauseRate != 0 && !m.slowed {
		m.slowed = true
		l.slowed = append(l.slowed, s)
		l.awaitSlowed(longest)
	}
}

// awaitSlowed schedules a check of the sessions paused for a rate, after about d.
func (l *loop) awaitSlowed(d time.Duration) {
	if l.slowTimer {
		return
	}
	l.slowTimer = true
	time.AfterFunc(min(max(d, slowLeast), slowMost), func() { l.onLoop((*loop).resumeSlowed) })
}

// resumeSlowed resumes reading from the sessions whose pause is over. A server that stops pauses
// none.
func (l *loop) resumeSlowed() {
	l.slowTimer = false
	list, now, least := l.slowed, l.srv.now(), slowMost
	l.slowed = l.slowed[:0]
	for _, s := range list {
		left := time.Duration(s.meter().until - now)
		if left > 0 && s.rd.life == lifeOpen && !s.closed() && !l.srv.draining.Load() {
			l.slowed = append(l.slowed, s)
			least = min(least, left)
			continue
		}
		s.meter().slowed = false
		switch paused := s.rd.paused &^ inbox.PauseRate; {
		case paused == s.rd.paused:
		case paused == 0:
			l.unpause(s)
		default:
			s.setPaused(paused)
		}
		if s.rd.life == lifeOpen {
			l.review(s)
		}
	}
	clear(list[len(l.slowed):])
	if len(l.slowed) > 0 {
		l.awaitSlowed(least)
	}
}

// tooFast closes a session that exceeds a rate and whose reading can't be paused.
func (s *Session) tooFast() {
	s.closeWithError(codec.Packet{}, CodeLimit, ReasonRate.String(), ReasonRate)
}

// mayAccept reports whether a connection is within the rates. behind: it had a handshake, before
// which mayEnter was called.
func (srv *Server) mayAccept(remote net.Addr, behind bool) (why Refusal, ok bool) {
	c := &srv.cfg
	if srv.draining.Load() {
		return 0, true // it is refused because of the drain
	}
	if c.AcceptRatePerIP > 0 {
		srv.acceptMu.Lock()
		ok := srv.acceptPerIP.Allow(remote, time.Now())
		srv.acceptMu.Unlock()
		if !ok {
			return RefusedRatePerIP, false
		}
	}
	if !behind && !srv.mayEnter() {
		return RefusedRate, false
	}
	return 0, true
}

// mayEnter reports whether one more connection is within AcceptRate.
func (srv *Server) mayEnter() bool {
	c := &srv.cfg
	return c.AcceptRate == 0 || srv.acceptRate.Allow(srv.now(), int64(c.AcceptRate))
}
