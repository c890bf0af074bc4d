package door

import (
	"bytes"

	"github.com/gobwas/ws"

	"millrace/engine/internal/netio"
)

// gatherMost is how much of a message is copied behind its header for one write; what a
// longer one has more is written as it stands. A second write costs more than this copy.
const gatherMost = 64 << 10

// Write gives bytes to the layers. Where it has not taken all, the next call brings the
// rest again.
func (c *conn) Write(p []byte) (n int, err error) {
	if c.x != nil {
		c.x.notify = 0
	}
	return c.send(p)
}

func (c *conn) send(p []byte) (n int, err error) {
	switch {
	case !c.ws.on:
		n, err = c.lower(p)
		if c.stuffed && err == nil {
			err = c.flush() // the layers may have sent all of their own
		}
		return n, err
	case c.x == nil && c.ws.left == 0 && !c.ws.closed && !c.stuffed && len(p) > 0 && len(p) <= gatherMost:
		if j, ok := c.joins(p); ok {
			head := appendHeader(c.l.gather[:0], ws.OpBinary, len(p))
			n, err := j.WriteJoined(head, p)
			return c.sent(head, p, n), err
		}
		if b := c.framed(p); b != nil {
			n, err := c.lower(b)
			return c.sent(b[:len(b)-len(p)], p, n), err
		}
	case c.deflated() != nil:
		return c.writeDeflated(p)
	}
	return c.sendMessages(p)
}

// joinLeast is from how many bytes on a message is not copied behind its header, but written
// with it by a call that costs more.
const joinLeast = 4 << 10

// joins tells whether p is one message that is long enough for that, and how.
func (c *conn) joins(p []byte) (j netio.Joiner, ok bool) {
	if len(p) < joinLeast || c.tls != nil {
		return nil, false
	}
	j, ok = c.Conn.(netio.Joiner)
	return j, ok && c.message(p, false) == len(p)
}

// framed is p as one message, until the loop asks for the next; nil: it is not one.
func (c *conn) framed(p []byte) []byte {
	m, by := &c.l.framed, c.l.h.cfg.Framing(c.Conn, c.sink)
	if len(p) == m.size && by == m.by && bytes.Equal(m.b[len(m.b)-m.size:], p) {
		return m.b
	}
	if c.message(p, false) != len(p) {
		return nil
	}
	m.b = append(appendHeader(m.b[:0], ws.OpBinary, len(p)), p...)
	m.by, m.size = by, len(p)
	return m.b
}

// framed is the last message that was put together for a write: a broadcast is the same for
// each session.
type framed struct {
	b    []byte // with its header
	size int    // of its payload
	by   any    // Config.Framing
}

// sent notes that n bytes of a message have been written, all of which nothing was in the way
// of, and returns how many of them are p's. Where all are, nothing waits behind them.
func (c *conn) sent(head, p []byte, n int) int {
	if n == len(head)+len(p) {
		return len(p)
	}
	c.ws.left = len(p)
	c.more().pre = bytes.Clone(head)
	return c.took(n)
}

// sendMessages is send where something may wait, or p is not one message.
func (c *conn) sendMessages(p []byte) (n int, err error) {
	for n < len(p) {
		if c.atEnd() {
			c.beginControl()
			if c.ws.closed {
				return len(p), nil
			}
			if c.ws.left = c.message(p[n:], n > 0); c.ws.left == 0 {
				return n, c.flush()
			}
			x := c.more()
			x.pre = appendHeader(x.pre, ws.OpBinary, c.ws.left)
		}
		body := p[n : n+min(c.ws.left, len(p)-n)]
		if c.x != nil && len(c.x.pre) > 0 {
			body = body[:min(len(body), gatherMost)]
			c.l.gather = append(append(c.l.gather[:0], c.x.pre...), body...)
			body = c.l.gather
		}
		m, err := c.lower(body)
		n += c.took(m)
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
	if c.tail() > 0 {
		if err := c.sendTail(); err != nil || c.phase == gone {
			return err
		}
	}
	err := c.flushLayers()
	if err != nil {
		return err
	}
	if c.finWait && c.tls != nil && !c.tls.said && (!c.ws.on || c.idle()) {
		c.tls.sayClose()
		if err := c.tls.flush(); err != nil {
			return err
		}
	}
	switch {
	case c.waits() || c.tail() > 0:
		if c.x == nil || c.x.notify == 0 || !c.up || c.finWait { // the session writes nothing more
			c.l.h.wait(c)
		}
	case c.finWait:
		c.finWait = false
		c.fin()
	default:
		c.less()
	}
	stuffed := c.x != nil && len(c.x.ctl)+len(c.x.pre) > maxControl || c.tls != nil && len(c.tls.out)-c.tls.ahead > maxCiphertext
	if stuffed != c.stuffed && !c.ended {
		c.stuffed = stuffed
		c.mask()
	}
	return nil
}

func (c *conn) flushLayers() error {
	switch {
	case c.deflated() != nil:
		if err := c.flushDeflated(); err != nil {
			return err
		}
	case c.ws.on && c.ws.left == 0:
		for c.beginControl(); c.x != nil && len(c.x.pre) > 0; c.beginControl() {
			m, err := c.lower(c.x.pre)
			c.took(m)
			if err != nil {
				return err
			}
			if !c.atEnd() {
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
func (c *conn) idle() bool {
	return c.ws.left == 0 && !c.x.waits() && (c.deflated() == nil || len(c.x.z.out) == 0)
}

// waits tells whether the layers have something of their own that the kernel did not take.
func (c *conn) waits() bool {
	if x := c.x; x != nil && (c.ws.left == 0 && len(x.pre) > 0 || x.z != nil && len(x.z.out) > 0) {
		return true
	}
	return c.tls != nil && len(c.tls.out) > 0
}

// writable is called when the kernel takes bytes again that the layers waited for.
func (c *conn) writable() {
	if c.phase == gone {
		return
	}
	id := uint64(0)
	if c.x != nil {
		id = c.x.notify
	}
	if c.flush() != nil {
		c.kill()
		return
	}
	if id != 0 {
		c.l.h.host.Writable(id)
	}
}

// NotifyWritable has the session told.
func (c *conn) NotifyWritable(id uint64) error {
	c.more().notify = id
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
	return c.Conn.PauseReading(c.masked || c.stuffed || c.tls != nil && (c.tls.crowded || c.tls.held || c.tls.pending) || c.inflateWaits())
}

// Unread counts what waits in the layers too.
func (c *conn) Unread() int {
	n := c.Conn.Unread()
	if c.inflateWaits() {
		n += len(c.x.z.rest) + len(c.x.z.raw) + 1
	}
	return n
}

// Unacked counts what the layers hold back too.
func (c *conn) Unacked() int { return c.Conn.Unacked() + c.withheld() }

// Acks says that they do.
func (c *conn) Acks() netio.Acks {
	a := c.Conn.Acks()
	a.Owed = a.Owed || c.withheld() > 0
	return a
}

// withheld is how many bytes the layers hold that the kernel did not take.
func (c *conn) withheld() (n int) {
	if c.tls != nil {
		n = len(c.tls.out)
	}
	if x := c.x; x != nil {
		n += len(x.pre) + len(x.ctl)
		if x.z != nil {
			n += len(x.z.out)
		}
	}
	return n
}
