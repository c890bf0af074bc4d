package door

import "github.com/gobwas/ws"

// gatherMost is how much of a message is copied behind its header for one write; what a
// longer one has more is written as it stands. A second write costs more than this copy.
const gatherMost = 64 << 10

// Write gives bytes to the layers. Where it has not taken all, the next call brings the
// rest again.
func (c *conn) Write(p []byte) (n int, err error) {
	c.notify = 0
	return c.send(p)
}

func (c *conn) send(p []byte) (n int, err error) {
	if c.ws == nil {
		return c.lower(p)
	}
	if c.ws.z != nil {
		return c.writeDeflated(p)
	}
	o := &c.ws.out
	for n < len(p) {
		if o.atEnd() {
			o.begin()
			if o.closed {
				return len(p), nil
			}
			o.left = c.message(p[n:])
			o.pre = appendHeader(o.pre, ws.OpBinary, o.left)
		}
		body := p[n : n+min(o.left, len(p)-n)]
		if len(o.pre) > 0 {
			body = body[:min(len(body), gatherMost)]
			c.l.gather = append(append(c.l.gather[:0], o.pre...), body...)
			body = c.l.gather
		}
		m, err := c.lower(body)
		n += o.took(m)
		if err != nil || m < len(body) {
			return n, err
		}
	}
	return n, c.flush()
}

// lower writes to the layer below WebSocket.
func (c *conn) lower(p []byte) (int, error) {
	if c.tls != nil {
		return c.tls.write(p)
	}
	return c.Conn.Write(p)
}

// flush writes what the layers have to send by themselves, as far as the kernel takes it
// and no message is in its way.
func (c *conn) flush() error {
	if c.ended && !c.own {
		return nil
	}
	if c.phase >= open && len(c.head) > 0 {
		if err := c.sendTail(); err != nil || c.phase == gone {
			return err
		}
	}
	err := c.flushLayers()
	if err != nil {
		return err
	}
	if c.finWait && c.tls != nil && !c.tls.said && (c.ws == nil || c.ws.idle()) {
		c.tls.sayClose()
		if err := c.tls.flush(); err != nil {
			return err
		}
	}
	switch {
	case c.waits() || c.phase >= open && len(c.head) > 0:
		if c.notify == 0 || !c.up {
			c.h.wait(c)
		}
	case c.finWait:
		c.finWait = false
		c.fin()
	}
	stuffed := c.ws != nil && len(c.ws.out.ctl)+len(c.ws.out.pre) > maxControl || c.tls != nil && c.tls.ahead == 0 && len(c.tls.out) > maxCiphertext
	if stuffed != c.stuffed && !c.ended {
		c.stuffed = stuffed
		c.mask()
	}
	return nil
}

func (c *conn) flushLayers() error {
	switch {
	case c.ws != nil && c.ws.z != nil:
		if err := c.flushDeflated(); err != nil {
			return err
		}
	case c.ws != nil:
		for o := &c.ws.out; o.left == 0; {
			o.begin()
			if len(o.pre) == 0 {
				break
			}
			m, err := c.lower(o.pre)
			o.took(m)
			if err != nil {
				return err
			}
			if len(o.pre) > 0 {
				break
			}
		}
	}
	if c.tls != nil {
		return c.tls.flush()
	}
	return nil
}

// idle tells whether WebSocket has nothing to send, and no message is under way.
func (w *wsLayer) idle() bool {
	return w.out.atEnd() && len(w.out.ctl) == 0 && (w.z == nil || len(w.z.out) == 0)
}

// waits tells whether the layers have something of their own that the kernel did not take.
func (c *conn) waits() bool {
	return c.ws != nil && c.ws.out.left == 0 && len(c.ws.out.pre) > 0 || c.ws != nil && c.ws.z != nil && len(c.ws.z.out) > 0 || c.tls != nil && len(c.tls.out) > 0
}

// writable is called when the kernel takes bytes again that the layers waited for.
func (c *conn) writable() {
	if c.phase == gone {
		return
	}
	id := c.notify
	if c.flush() != nil {
		c.kill()
		return
	}
	if id != 0 {
		c.h.host.Writable(id)
	}
}

// NotifyWritable has the session told.
func (c *conn) NotifyWritable(id uint64) error {
	c.notify = id
	return c.Conn.NotifyWritable(id)
}

// PauseReading is the session's.
func (c *conn) PauseReading(pause bool) bool {
	c.masked = pause
	if !pause && c.inflateWaits() {
		c.l.post(c, (*conn).inflateOn)
	}
	return c.mask()
}

// mask stops reading while anybody wants that, and goes on when nobody does.
func (c *conn) mask() bool {
	if c.ended {
		return true
	}
	return c.Conn.PauseReading(c.masked || c.stuffed || c.tls != nil && (c.tls.crowded || c.tls.held) || c.inflateWaits())
}

// Unread counts what waits in the layers too.
func (c *conn) Unread() int {
	n := c.Conn.Unread()
	if c.inflateWaits() {
		n += len(c.ws.z.rest) + len(c.ws.z.raw) + 1
	}
	return n
}

// Unacked counts what the layers hold back too.
func (c *conn) Unacked() int {
	n := c.Conn.Unacked()
	if c.tls != nil {
		n += len(c.tls.out)
	}
	return n
}
