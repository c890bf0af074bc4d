package engine

import (
	"net"
	"time"

	"millrace/codec"
	"millrace/engine/internal/inbox"
)

const (
	// slowLeast is the shortest pause that is worth it, and slowMost how long one lasts before
	// it is looked at again.
	slowLeast = 5 * time.Millisecond
	slowMost  = 100 * time.Millisecond
)

// metered is told how many bytes of a session have just been read, and pauses reading until
// its rates allow for them. What was read is handled: a second's worth may be ahead of its
// time, and one read more. Loop goroutine.
func (l *loop) metered(s *Session, n int) {
	c := &l.srv.cfg
	if c.FrameRate == 0 && c.ByteRate == 0 && c.SessionCPU == 0 || s.rd.life != lifeOpen || s.closed() || l.srv.draining.Load() {
		return
	}
	m, now := s.meter, l.srv.now()
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

// awaitSlowed has the loop look at the sessions that rates have paused, after d or so.
func (l *loop) awaitSlowed(d time.Duration) {
	if l.slowTimer {
		return
	}
	l.slowTimer = true
	time.AfterFunc(min(max(d, slowLeast), slowMost), func() { l.onLoop((*loop).resumeSlowed) })
}

// resumeSlowed goes on reading from the sessions whose pause is over. A server that stops
// pauses nobody.
func (l *loop) resumeSlowed() {
	l.slowTimer = false
	list, now, least := l.slowed, l.srv.now(), slowMost
	l.slowed = l.slowed[:0]
	for _, s := range list {
		left := time.Duration(s.meter.until - now)
		if left > 0 && s.rd.life == lifeOpen && !s.closed() && !l.srv.draining.Load() {
			l.slowed = append(l.slowed, s)
			least = min(least, left)
			continue
		}
		s.meter.slowed = false
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

// tooFast closes a session that is over a rate where reading can't be paused.
func (s *Session) tooFast() {
	s.closeWithError(codec.Packet{}, CodeLimit, ReasonRate.String(), ReasonRate)
}

// mayAccept tells whether a connection comes within the rates. behind: it has come through
// doors, in front of which mayEnter was asked.
func (srv *Server) mayAccept(remote net.Addr, behind bool) (why Refusal, ok bool) {
	c := &srv.cfg
	if srv.draining.Load() {
		return 0, true // it is refused for that
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

// mayEnter tells whether one more connection is within AcceptRate.
func (srv *Server) mayEnter() bool {
	c := &srv.cfg
	return c.AcceptRate == 0 || srv.acceptRate.Allow(srv.now(), int64(c.AcceptRate))
}
