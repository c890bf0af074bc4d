package engine

import (
	"time"

	"millrace/engine/internal/budget"
	"millrace/engine/internal/outbox"
)

// sweepBudget is how many sessions one pass checks for timeouts.
const sweepBudget = 1024

// finStall is how long a peer may leave its pending data unread: after its FIN, after the server's,
// and before it counts as idle.
const finStall = 15 * time.Second

// sweep checks the timeouts of all sessions, in bounded steps, once for each tick.
//
// Deadlines are lazy: traffic only stores its time, and the sweep compares. A timeout fires late by
// at most a tick. due: a tick has come since the last sweep began.
func (l *loop) sweep(due bool) {
	if !l.sweeping {
		if !due {
			return
		}
		l.sweeping, l.sweepAt = true, 0
		l.sweepFrom, l.sweepNow = l.sweepNow, l.srv.now()
		l.resumePaused()
		l.recent.Tick(l.budget)
		l.sweepLinks(l.sweepNow)
	}
	now := l.sweepNow
	weigh := l.srv.budget.Level() != budget.Free
	for n := sweepBudget; n > 0 && l.sweepAt < len(l.sessions); n-- {
		s := l.sessions[l.sweepAt]
		l.sweepAt++
		if weigh {
			l.weigh(s, now)
		}
		l.inspect(s, now)
	}
	if l.sweepAt >= len(l.sessions) {
		l.sweeping = false
		l.shed(now)
		if len(l.lagging) > 0 || l.out.Log.Len() > 0 {
			l.cutLog()
		}
	}
}

// inspect checks the timeouts of one session. They are suspended while its reading is paused or it
// has pending answers, to the precision of a tick.
func (l *loop) inspect(s *Session, now int64) {
	rd, c, a := &s.rd, &l.srv.cfg, l.srv.adjusted.Load()
	if rd.progress != 0 {
		l.noteTaken(s, now)
	}
	if s.line() != nil && l.inspectLine(s, now) {
		return
	}
	if rd.progress.past(now, slowAfter) && s.out.Size() >= c.MaxOutbound {
		l.flush(s, outbox.LookWalk) // it may have become a slow consumer
	}
	switch {
	case rd.life == lifeGone:
		return
	case rd.life == lifeLinger:
		l.linger(s, now)
		return
	case s.closed():
		stall := c.Linger
		if l.isOwed(s) {
			if l.srv.draining.Load() {
				return // until the drain ends
			}
			stall = finStall
		}
		if rd.progress.past(now, stall) {
			l.abort(s, ReasonPeerReset)
		}
		return
	case rd.life == lifeFin:
		switch {
		case past(now, rd.since, c.FinTimeout) || rd.progress.past(now, finStall) && !l.srv.draining.Load():
			l.abort(s, ReasonPeerReset)
		case rd.wrote != 0 && l.dead(s, now):
			l.lost(s)
		case s.flags.has(flagFin) && (rd.deaf || s.conn.Acks().Reset): // no request waits
			l.lost(s)
		}
		return
	case rd.wrote != 0 && l.dead(s, now):
		l.lost(s)
		return
	case rd.input == inputBad: // it closes when its pending answers are sent
		if past(now, rd.since, c.FinTimeout) {
			l.abort(s, ReasonBadFrame)
		}
		return
	case s.goAway.Load() != 0 && l.srv.draining.Load():
		if l.drainStep(s, now) {
			return
		}
	}
	if a.Heartbeat > 0 && s.framing.Load().system && past(now, max(rd.heard, rd.since, rd.pinged.time(now)), a.Heartbeat) {
		rd.pinged = tickOf(now)
		s.sendPing()
	}
	if a.IdleTimeout == 0 && rd.opened && !rd.partial.Some() {
		return // no timeout applies
	}
	if rd.paused != 0 && !(rd.partial.Some() && s.conn.Unread() == 0) || l.busy(s) {
		l.holdClocks(rd, now)
		return
	}
	if why := l.expired(s, now); why != reasonNone {
		if s.conn.Unread() > 0 && why != ReasonFrame {
			l.holdClocks(rd, now) // it has sent something that the loop has not processed yet
			return
		}
		l.timedOut(s, why)
	}
}

// noteTaken notes that the peer of a session with something unsent has taken bytes since the last
// sweep. To one that reads slowly nothing may be written for long, as the kernel has much for it, and
// a door what it has encrypted.
func (l *loop) noteTaken(s *Session, now int64) {
	n := int32(s.conn.Unacked())
	if n < s.unacked && s.rd.progress.time(now)-tickStep < l.sweepFrom { // else the last sweep did not look
		s.rd.progress = markOf(now)
	}
	s.unacked = n
}

// isOwed reports whether the unsent data of a closing session are answers that must be sent: it
// closes because of the peer's FIN, of a bad frame after its requests, or of a drain. A drain waits
// for them until its deadline, when the rest is lost.
func (l *loop) isOwed(s *Session) bool {
	switch Reason(s.closing.Load()) {
	case ReasonPeerClosed, ReasonBadFrame, ReasonDrain:
		return true
	}
	return s.rd.life == lifeFin
}

func (l *loop) expired(s *Session, now int64) Reason {
	rd, c := &s.rd, l.srv.adjusted.Load()
	switch {
	case rd.partial.Some() && past(now, rd.begun(now), c.FrameTimeout):
		return ReasonFrame
	case !rd.opened && past(now, rd.since, c.FirstFrameTimeout):
		return ReasonFirstFrame
	case past(now, max(rd.last, rd.since), c.IdleTimeout) && !l.fetching(s, now):
		return ReasonIdle
	}
	return reasonNone
}

// fetching reports whether a session that seems idle is still receiving: the kernel holds bytes for
// it, and the peer has read some recently. When everything is read, its idle time starts.
func (l *loop) fetching(s *Session, now int64) bool {
	rd := &s.rd
	if n := int32(s.conn.Unacked()); n != s.unacked {
		s.unacked = n
		rd.last = now
		return true
	}
	return s.unacked > 0 && !past(now, rd.last, max(finStall, l.srv.adjusted.Load().IdleTimeout))
}

// linger waits, after the FIN, for the peer's FIN: as long as the peer reads what the kernel still
// holds for it, and then for Linger. Closing earlier could send a reset, which destroys data in
// transit.
func (l *loop) linger(s *Session, now int64) {
	rd, limit := &s.rd, l.srv.cfg.Linger
	n := int32(l.undelivered(s))
	if n < s.unacked || s.unacked == 0 && n > 0 {
		rd.since = now
	}
	s.unacked = n
	if n > 0 && l.isOwed(s) {
		if l.srv.draining.Load() {
			return // until the drain ends
		}
		limit = max(limit, finStall)
	}
	if past(now, rd.since, limit) {
		l.sum.lostBytes.Add(uint64(n))
		l.detach(s)
	}
}

// undelivered returns how many bytes accepted by the kernel a close could still destroy. On a unix
// socket unread bytes already belong to the peer.
func (l *loop) undelivered(s *Session) int {
	n := s.conn.Unacked()
	if n > 0 && !s.conn.Acks().Owed {
		return 0
	}
	return n
}

// busy reports whether the session has pending work: then its timeouts are suspended. The order of
// the checks matters: an answer moves from the strand, possibly through Hold, to the outbox, so
// checking in that order can't miss it.
func (l *loop) busy(s *Session) bool {
	return !s.in.Quiet() || s.held.Load() > 0 || s.out.Size() > 0 || s.line() != nil && s.line().unsent() > 0
}

// holdClocks advances a session's times by the time since the last sweep.
func (l *loop) holdClocks(rd *reading, now int64) {
	for _, clock := range []*int64{&rd.last, &rd.since} {
		*clock += max(0, now-max(*clock, l.sweepFrom))
	}
	if rd.partial.Some() {
		begun := rd.begun(now)
		rd.begin(begun + max(0, now-max(begun, l.sweepFrom)))
	}
}
