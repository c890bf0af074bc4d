package door

import (
	"time"

	"millrace/engine/internal/netio"
)

// CloseWrite ends what is sent: the layers say so in their own ways, then the FIN follows.
func (c *conn) CloseWrite() {
	c.endLayers()
	_ = c.flush() // a broken socket is told by its Closed
}

// endLayers queues what ends the layers.
func (c *conn) endLayers() {
	if c.finWait || c.finSent {
		return
	}
	c.finWait = true
	if c.ws.on && !c.ws.closed {
		if !c.hasCode {
			c.code, c.hasCode = 1000, true
		}
		x := c.more()
		x.ctl = appendClose(x.ctl, c.code)
		c.ws.closed = true
	}
}

// fin sends the FIN, behind all that the layers had to send.
func (c *conn) fin() {
	c.finSent = true
	if c.phase == closing && c.x != nil && c.x.linger != nil {
		c.x.linger.Reset(c.l.h.cfg.Linger) // now it is the peer's turn
	}
	if c.ended {
		c.kill() // the peer's came before: closing says it
		return
	}
	c.Conn.CloseWrite()
}

// Abort makes Close a reset.
func (c *conn) Abort() {
	c.aborted = true
	c.Conn.Abort()
}

// Detach lets the session go on sending after its Closed. Where only the layers have seen
// the peer's end the socket lives on anyway.
func (c *conn) Detach() bool {
	if c.ended && !c.own {
		if !c.Conn.Detach() {
			return false
		}
		c.own = true
	}
	c.kept = true
	return true
}

// Close is the session's end.
func (c *conn) Close() {
	c.up, c.kept = false, false
	if c.finSent || !c.ws.on && c.tls == nil {
		c.kill()
		return
	}
	c.finish()
}

// finish ends a connection that has no session any more: the layers say goodbye, then the
// FIN, and the peer has a while to send his; a close at once could be a reset that takes
// the goodbye away.
func (c *conn) finish() {
	if c.phase >= closing {
		return
	}
	c.phase = closing
	if c.midway() || c.ended && !c.own || c.aborted && c.ws.on || !c.l.h.linger(c) {
		c.kill()
		return
	}
	c.more().linger = time.AfterFunc(c.l.h.cfg.Linger, func() { c.l.post(c, (*conn).kill) })
	c.endLayers()
	if c.flush() != nil {
		c.kill()
		return
	}
	if c.phase == closing {
		c.masked = false
		c.mask()
	}
}

// midway tells whether what has been sent ends in the middle of something, so that what ends
// the layers can't follow it.
func (c *conn) midway() bool {
	switch {
	case c.tls != nil && c.tls.shake != nil:
		return true
	case !c.ws.on:
		return c.tls != nil && c.tls.ahead > 0
	}
	return c.deflated() == nil && c.ws.left > c.tail()
}

// Owed is how much is still to come of a message that has begun. With compression what
// ends the layers may follow each frame, and those that have begun are here.
func (c *conn) Owed() int {
	if !c.ws.on || c.deflated() != nil || c.aborted || c.finWait || c.finSent {
		return 0
	}
	return c.ws.left
}

// Shown counts what is encrypted, compressed or in a message that has begun.
func (c *conn) Shown() int {
	if z := c.deflated(); z != nil {
		return z.ahead + z.left
	}
	switch {
	case c.ws.on:
		return c.ws.left
	case c.tls != nil:
		return c.tls.ahead
	}
	return 0
}

// Finish is given what is owed, for Close to send in front of what ends the layers, as far
// as that is taken within Linger. It keeps b.
func (c *conn) Finish(b []byte) {
	x := c.more()
	c.l.h.cfg.Budget.Add(cap(b) - cap(x.head))
	x.head = b
}

// sendTail sends what is left of the message that had begun.
func (c *conn) sendTail() error {
	b, rest := c.x.head, []byte(nil)
	c.x.head = nil
	n, err := c.send(b)
	if n < len(b) {
		rest = b[n:]
		c.more().head = rest
	}
	c.l.h.cfg.Budget.Add(cap(rest) - cap(b))
	return err
}

// discard throws input away, up to a limit.
func (c *conn) discard(n int) {
	if c.excess += int32(n); c.excess <= closingExcess {
		return
	}
	if c.kept {
		c.PauseReading(true) // what is owed goes first
		return
	}
	c.kill()
}

// kill closes the socket.
func (c *conn) kill() {
	if c.phase == gone {
		return
	}
	tell := c.up || c.kept
	c.up, c.kept = false, false
	c.release()
	if tell {
		c.sink.Closed(netio.EndReset)
	}
	if !c.ended || c.own {
		c.Conn.Close()
	}
}

// release gives back what the layers held.
func (c *conn) release() {
	c.phase = gone
	if c.x != nil && c.x.linger != nil {
		c.x.linger.Stop()
		c.x.linger = nil
	}
	c.drop()
	if c.tls != nil {
		c.tls.release()
	}
	if z := c.deflated(); z != nil {
		z.release(c)
	}
	c.l.h.passed(c)
	c.l.h.forget(c)
}

// HungUp passes on what a stand-in has seen.
func (c *conn) HungUp(broken bool) {
	if c.up {
		c.sink.HungUp(broken)
	}
}

// Closed is the socket's end.
func (c *conn) Closed(how netio.End) {
	c.inside = true
	c.closed(how)
	c.leave()
}

func (c *conn) closed(how netio.End) {
	c.ended = true
	if how == netio.EndHangup && c.up && c.inflateWaits() && !c.masked {
		how = netio.EndReset // it is the layers that did not read, and not the session
		if c.ReadRest(c.sink.Received) {
			how = netio.EndFIN
		}
	}
	switch {
	case c.phase == gone:
		return
	case how == netio.EndFIN && c.up && c.inflateWaits() && c.Conn.Detach():
		c.own = true
		return
	case c.up:
		if how == netio.EndFIN && c.tls != nil && !c.finSent {
			c.l.h.truncated(c)
		}
		c.up = false
		c.sink.Closed(how)
		if c.kept || c.phase == gone {
			return
		}
		if how == netio.EndFIN { // the socket is open until we return
			c.endLayers()
			_ = c.flushLayers()
			if c.tls != nil && !c.tls.said {
				c.tls.sayClose()
				_ = c.tls.flush()
			}
		}
	case c.kept:
		if how != netio.EndReset && c.Conn.Detach() {
			c.own = true
			if c.waits() || c.x != nil && c.x.notify != 0 {
				c.l.h.wait(c)
			}
			return
		}
		c.kept = false
		c.sink.Closed(netio.EndReset)
	case c.finWait && how == netio.EndFIN && c.Conn.Detach():
		c.own = true
		c.l.h.wait(c)
		return
	case c.phase == handshake && how == netio.EndFIN && c.tls.tc != nil && c.Conn.Detach():
		c.own = true // requests may stand behind the handshake
		c.tls.noMore()
		if c.waits() {
			c.l.h.wait(c)
		}
		return
	}
	if c.phase != gone {
		c.release()
	}
}

// afterFIN tells the end of a socket that came while the handshake ran.
func (c *conn) afterFIN() {
	switch {
	case c.up:
		if c.tls != nil {
			c.l.h.truncated(c)
		}
		c.up = false
		c.sink.Closed(netio.EndFIN)
		if !c.kept {
			c.finish()
		}
	case c.phase < open:
		c.kill()
	}
}

// ReadRest reads what the socket still has of a connection that has hung up.
func (c *conn) ReadRest(take func([]byte)) bool {
	c.more().take = take
	defer func() {
		c.x.take = nil
		c.less()
	}()
	if c.deflated() == nil {
		return c.Conn.ReadRest(c.raw)
	}
	z := &c.x.z.inflating
	z.left = inflateRest
	c.inflateOn()
	return c.Conn.ReadRest(c.raw) && !z.cut
}
