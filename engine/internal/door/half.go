package door

import (
	"cmp"
	"slices"
	"time"
)

// The frame timeout also holds for what is incomplete below the codec: a TLS record, a WebSocket
// header or control frame, or a compressed message whose next bytes can't be inflated yet. Otherwise
// a peer that stops in the middle of one would make the server hold its memory for ever.

// half reports whether something is incomplete, and returns how many such things were completed
// before, modulo 1<<32. Of a compressed message, whose end is not known, each piece counts.
func (c *conn) half() (yes bool, before uint32) {
	if t := c.tls; t != nil {
		yes, before = t.whole.got > 0, t.whole.ends
	}
	if c.ws.on {
		yes, before = yes || c.ws.in.part != nil, before+c.ws.in.heads
		if z := c.deflated(); z != nil && z.box != nil && !z.waits {
			yes, before = true, before+uint32(z.in)
		}
	}
	return yes, before
}

// half is when something incomplete began, and how many were complete before it.
type half struct {
	at int64 // in nanoseconds of Host.now
	of uint32
}

// noteHalf starts or stops the timeout according to what a read has left incomplete.
func (c *conn) noteHalf() {
	if c.l.frameTimeout <= 0 {
		return
	}
	yes, before := c.half()
	if !yes || !c.up {
		c.l.forgetHalf(c)
		return
	}
	if !c.halved || c.l.halves[c].of != before {
		c.halved = true
		c.l.halves[c] = half{c.l.h.now(), before}
		c.l.lookAtHalves()
	}
}

func (l *loop) forgetHalf(c *conn) {
	if c.halved {
		c.halved = false
		delete(l.halves, c)
	}
}

// lookAtHalves schedules expireHalves, if there are halves.
func (l *loop) lookAtHalves() {
	if l.looking || len(l.halves) == 0 {
		return
	}
	l.looking = true
	time.AfterFunc(min(max(l.frameTimeout/4, 5*time.Millisecond), time.Second), func() {
		l.mu.Lock()
		l.look = true
		l.some.Store(true)
		l.mu.Unlock()
		_ = l.Loop.Execute() // it fails only where the loops have ended
	})
}

// expireHalves calls Config.Stalled for the connections whose timeout has expired, oldest first. Loop
// goroutine.
func (l *loop) expireHalves() {
	l.looking = false
	now, due := l.h.now(), []*conn(nil)
	for c, h := range l.halves {
		if !c.inside && now-h.at >= int64(l.frameTimeout) {
			due = append(due, c)
		}
	}
	slices.SortFunc(due, func(a, b *conn) int { return cmp.Compare(l.halves[a].at, l.halves[b].at) })
	for _, c := range due {
		h, still := l.halves[c]
		if !still {
			continue // what was done for another one has ended it
		}
		c.do(func(c *conn) {
			if !c.up || c.phase != open || l.h.cfg.Stalled(c.sink) {
				l.forgetHalf(c)
				return
			}
			l.halves[c] = half{now, h.of} // the session's timeouts are suspended: start again
		})
	}
	l.lookAtHalves()
}
