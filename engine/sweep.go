package engine

import (
	"time"

	"millrace/codec"
)

// sweepBudget is how many sessions one turn looks at for timeouts.
const sweepBudget = 1024

// finStall is how long a peer that has sent its FIN may leave its answers unread.
const finStall = 15 * time.Second

// sweep looks at every session's clocks, in bounded steps, once for each tick.
//
// Deadlines are lazy: traffic only stores when it came, and the sweep compares. A clock
// is late by a tick at most.
func (l *loop) sweep() {
	if !l.sweeping {
		l.mu.Lock()
		due := l.sweepDue
		l.sweepDue = false
		l.mu.Unlock()
		if !due {
			return
		}
		l.sweeping, l.sweepAt = true, 0
		l.sweepFrom, l.sweepNow = l.sweepNow, l.srv.now()
		l.sweepRejects()
		l.feed()
	}
	now := l.sweepNow
	for n := sweepBudget; n > 0 && l.sweepAt < len(l.sessions); n-- {
		s := l.sessions[l.sweepAt]
		l.sweepAt++
		l.inspect(s, now)
	}
	if l.sweepAt >= len(l.sessions) {
		l.sweeping = false
		l.lighten(now)
	}
}

// inspect applies the clocks to one session. They stand still while its reading is
// paused or the server owes it something, to the precision of a tick.
func (l *loop) inspect(s *Session, now int64) {
	rd, c := &s.rd, &l.srv.cfg
	if l.srv.glutSince.Load() != 0 {
		l.weigh(s, now)
	}
	switch {
	case rd.life == lifeLinger:
		if past(now, rd.since, c.Linger) {
			l.detach(s)
		}
		return
	case s.closing.Load() != 0:
		stall := c.Linger
		if rd.life == lifeFin {
			stall = finStall // it closes because of the peer's FIN, with answers unsent
		}
		if rd.progress != 0 && past(now, rd.progress, stall) {
			l.abort(s, ReasonPeerReset)
		}
		return
	case rd.life == lifeFin:
		if past(now, rd.since, c.FinTimeout) || (rd.progress != 0 && past(now, rd.progress, finStall)) {
			l.abort(s, ReasonPeerReset)
		} else if rd.wrote != 0 && l.dead(s, now) {
			l.lost(s)
		}
		return
	case rd.wrote != 0 && l.dead(s, now):
		l.lost(s)
		return
	case rd.away != 0:
		if l.drainStep(s, now) {
			return
		}
	}
	if c.Heartbeat > 0 && past(now, max(rd.heard, rd.since, rd.pinged), c.Heartbeat) {
		rd.pinged = now
		s.sendPing()
	}
	if c.IdleTimeout == 0 && rd.opened && rd.partial == nil {
		return // no clock runs
	}
	if rd.paused != 0 || l.busy(s) {
		l.holdClocks(rd, now)
		return
	}
	if why := l.expired(s, now); why != reasonNone {
		s.expel(codec.Packet{}, CodeTimeout, why.String(), why)
	}
}

// past tells whether d has gone by since then. A d of 0 never goes by.
func past(now, then int64, d time.Duration) bool { return d > 0 && now-then > int64(d) }

func (l *loop) expired(s *Session, now int64) Reason {
	rd, c := &s.rd, &l.srv.cfg
	switch {
	case rd.partial != nil && past(now, rd.begun, c.FrameTimeout):
		return ReasonFrame
	case !rd.opened && past(now, rd.since, c.FirstFrameTimeout):
		return ReasonFirstFrame
	case past(now, max(rd.last, rd.since), c.IdleTimeout):
		return ReasonIdle
	}
	return reasonNone
}

// busy tells whether the server owes the session something: its clocks stand still. The
// order matters: an answer goes from the strand, maybe by Hold, to the outbox, and who
// looks in that order can't miss it on its way.
func (l *loop) busy(s *Session) bool {
	return !s.in.quiet() || s.held.Load() > 0 || s.out.unsentBytes() > 0
}

// holdClocks moves a session's clocks on by what has gone since the last sweep.
func (l *loop) holdClocks(rd *reading, now int64) {
	for _, clock := range []*int64{&rd.last, &rd.begun, &rd.since} {
		*clock += max(0, now-max(*clock, l.sweepFrom))
	}
}
