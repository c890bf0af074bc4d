package door

import "time"

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
	if w := c.ws; w != nil {
		yes, before = yes || w.in.n > 0 || w.in.control, before+w.in.heads
		if w.z != nil && w.z.box != nil && !w.z.waits {
			yes, before = true, before+uint32(w.z.in)
		}
	}
	return yes, before
}

// noteHalf looks at what a read has left behind.
func (c *conn) noteHalf() {
	if c.h.cfg.FrameTimeout <= 0 {
		return
	}
	yes, before := c.half()
	if !yes || !c.up {
		if c.halfAt != 0 {
			c.halfAt = 0
			delete(c.l.halves, c)
		}
		return
	}
	if c.halfAt == 0 || c.halfOf != before {
		c.halfAt, c.halfOf = c.h.now(), before
		c.l.halves[c] = struct{}{}
		c.l.lookAtHalves()
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

// expireHalves tells the sessions whose peers have stood still. Loop goroutine.
func (l *loop) expireHalves() {
	l.looking = false
	for c := range l.halves {
		now := c.h.now()
		if c.inside || now-c.halfAt < int64(l.frameTimeout) {
			continue
		}
		c.do(func(c *conn) {
			if !c.up || c.phase != open || c.h.cfg.Stalled(c.sink) {
				delete(l.halves, c)
				c.halfAt = 0
				return
			}
			c.halfAt = now // the clock stands still
		})
	}
	l.lookAtHalves()
}
