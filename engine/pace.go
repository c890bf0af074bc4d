package engine

import "time"

// pace slows a drain whose sessions are taken over by other servers, when those can't keep up: a session
// that waits for too long is lost.
type pace struct {
	srv    *Server
	half   time.Time // until then all are notified, however slow the others are; zero: there is no end
	last   time.Time
	closed uint64  // sessions closed until the last look
	moved  uint64  // those of closed that others have taken over
	recent float64 // about how many have been taken over in the last second
}

// ahead is how many sessions may wait to be taken over, besides as many as are in a second.
const ahead = 32

// leastPace is the part of the rate that is kept if a drain has no end.
const leastPace = 0.1

func newPace(srv *Server, grace time.Duration, end time.Time) *pace {
	p := &pace{srv: srv, last: time.Now()}
	if grace != forever {
		p.half = end.Add(-grace / 2)
	}
	p.look()
	return p
}

// look returns how many sessions have closed, and how many have been taken over, since it was called last.
func (p *pace) look() (closed, moved float64) {
	var all uint64
	for i := range p.srv.closes {
		all += p.srv.closes[i].Load()
	}
	taken := p.srv.closes[ReasonMoved].Load()
	closed, moved = float64(all-p.closed), float64(taken-p.moved)
	p.closed, p.moved = all, taken
	return closed, moved
}

// next returns how many of left sessions may be notified now at a rate: as many as have ended, if more
// wait than are taken over in a second.
func (p *pace) next(rate float64, left int) float64 {
	now := time.Now()
	passed := now.Sub(p.last).Seconds()
	p.last = now
	closed, moved := p.look()
	p.recent = p.recent*max(1-passed, 0) + moved
	n := rate * drainTick.Seconds()
	if float64(p.srv.waiting.Load()) <= ahead+p.recent || !p.srv.evacuates() {
		return n
	}
	least := leastPace * n
	if !p.half.IsZero() {
		least = float64(left) * drainTick.Seconds() / max(p.half.Sub(now).Seconds(), drainTick.Seconds())
	}
	return min(n, max(closed, least))
}
