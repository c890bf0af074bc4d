package door

import (
	"cmp"
	"slices"
	"time"
)

// What a peer has begun and not ended in front of the codec, a TLS record, a WebSocket
// header or control frame, or a compressed message of which nothing more can be told, has
// as long as a frame has: else who stops in the middle of one would hold what it takes for
// good.

// half tells whether something has been begun and not ended, and how many such things have
// ended before. A compressed message has no end that its time could run to: each piece of it
// counts.
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

// half is when something was begun, and how many such things had ended before.
type half struct {
	at int64 // in nanoseconds of Host.now
	of uint32
}

// noteHalf looks at what a read has left behind.
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

// lookAtHalves has the halves looked at in a while.
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

// expireHalves tells the sessions whose peers have stood still, those first that have longest.
// Loop goroutine.
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
			l.halves[c] = half{now, h.of} // the clock stands still
		})
	}
	l.lookAtHalves()
}
