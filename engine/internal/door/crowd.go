package door

import "time"

// queue moves a connection without a session to the end of the loop's silent list, which is sorted by
// when input last came.
func (c *conn) queue() {
	if c.x == nil || c.x.addr == nil {
		return
	}
	c.x.heard = c.l.h.now()
	if c.x.place == nil {
		c.x.place = c.l.silent.PushBack(c)
	} else {
		c.l.silent.MoveToBack(c.x.place)
	}
}

// unqueue removes a connection from the silent list.
func (c *conn) unqueue() {
	if c.x != nil && c.x.place != nil {
		c.l.silent.Remove(c.x.place)
		c.x.place = nil
	}
}

// YieldAfter is how long a connection without a session must have sent nothing before it may be closed
// to make room for a new one.
const YieldAfter = 250 * time.Millisecond

// roomForOpening reports whether one more connection without a session is accepted. If there are
// MaxOpening already, it closes the loop's connection that has been silent longest, if for at least
// YieldAfter; a loop that has none accepts one more. Loop goroutine.
func (l *loop) roomForOpening() bool {
	h := l.h
	if int(h.st.front.Load()) < h.cfg.MaxOpening() {
		return true
	}
	first := l.silent.Front()
	if first == nil {
		return true
	}
	c := first.Value.(*conn)
	if time.Duration(h.now()-c.x.heard) < YieldAfter || c.tls != nil && c.tls.held {
		return false // a held handshake is silent because it is not read
	}
	h.passed(c)
	h.cfg.Shed()
	c.do((*conn).yield)
	return true
}

// yield closes a connection that still has no session, to make room.
func (c *conn) yield() {
	if c.phase < open {
		c.kill()
	}
}
