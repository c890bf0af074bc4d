package engine

import (
	"bytes"

	"millrace/engine/internal/bufpool"
)

// mailboxMost is how many bytes may be queued for the loop of a session that is not the
// connection's.
const mailboxMost = 256 << 10

// deliver passes input to the session.
func (k *link) deliver(b []byte) {
	ln := k.line
	if len(b) == 0 || ln == nil {
		return
	}
	if ln.home == k.loop {
		ln.home.receivedLine(ln.s, k, b)
		return
	}
	own := bufpool.Get(len(b))
	own.B = append(own.B, b...)
	held := own.Held()
	k.loop.budget.Add(held)
	if k.mailbox.Add(int64(held)) > mailboxMost && !k.crowded {
		k.crowded = true
		k.mask()
	}
	ln.home.with(ln.s, k.loop, func() {
		ln.home.receivedLine(ln.s, k, own.B)
		own.Free()
		k.loop.budget.Add(-held)
		if k.mailbox.Add(-int64(held)) == 0 {
			k.loop.run(ln.home, func() {
				if k.crowded && k.mailbox.Load() == 0 {
					k.crowded = false
					k.mask()
				}
			})
		}
	})
}

// mask pauses reading while anything requires it.
func (k *link) mask() bool {
	if k.state >= linkClosing {
		return true
	}
	return k.c.PauseReading(k.paused || k.crowded)
}

// pump writes what the line has to send: its ring, and system frames between the pieces that it
// offers.
func (k *link) pump() {
	ln := k.line
	for k.state == linkJoined && !k.blocked {
		ln.mu.Lock()
		if ln.link != k {
			ln.mu.Unlock()
			return
		}
		if len(k.ctl) == 0 && ln.ring.Left() == 0 {
			k.ctl, ln.ctl = ln.ctl, k.ctl
			ln.ctlOut = len(k.ctl)
		}
		b, buf := k.ctl, (*bufpool.Buf)(nil)
		if len(b) == 0 {
			if b, buf = ln.ring.Next(); buf != nil {
				buf.Retain()
			}
		}
		fin := ln.fin && !k.finSent
		look := len(b) == 0 && ln.drainWish
		if look {
			ln.drainWish = false
		}
		ln.mu.Unlock()
		if look {
			ln.s.scheduleFlush()
		}
		if len(b) == 0 {
			if fin {
				k.finSent = true
				k.c.CloseWrite()
			}
			return
		}
		n, err := k.c.Write(b)
		ln.mu.Lock()
		if ln.link == k && n > 0 { // until the next look
			ln.seen.unacked, ln.seen.acks.Owed = max(ln.seen.unacked, n), true
		}
		if buf == nil {
			k.ctl = append(k.ctl[:0], k.ctl[n:]...)
			if ln.link == k {
				ln.ctlOut = len(k.ctl)
			}
		} else {
			if ln.link == k {
				ln.ring.Wrote(n)
			}
			ln.ring.Release(buf)
		}
		room := ln.takeWish()
		starved := !room && ln.wish && ln.ring.Unsent() == 0
		ln.mu.Unlock()
		switch {
		case room:
			ln.s.canWrite()
		case starved:
			ln.s.scheduleFlush() // reading may have been paused because of these bytes
		}
		switch {
		case err != nil:
			k.broke()
			return
		case n < len(b):
			k.blocked = true
			if err := k.c.NotifyWritable(uint64(ln.s.id)); err != nil {
				k.broke()
				return
			}
		}
	}
}

// owed returns a copy of the next n bytes, which belong to a message that has begun; none if they are
// another link's now.
func (k *link) owed(n int) []byte {
	ln := k.line
	if n == 0 || ln == nil {
		return nil
	}
	ln.mu.Lock()
	defer ln.mu.Unlock()
	b := k.ctl
	if len(b) == 0 && ln.link == k {
		b, _ = ln.ring.Next()
	}
	if len(b) < n {
		return nil
	}
	return bytes.Clone(b[:n])
}

// broke ends a connection that can no longer be written to, but not at once, as its caller may be
// writing.
func (k *link) broke() {
	k.blocked = true
	k.loop.onLoop(func(*loop) {
		if k.state == linkJoined {
			k.close()
			k.line.toldEnd(k, false)
		}
	})
}
