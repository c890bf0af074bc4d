package door

import "time"

// queue puts a connection in front of its session behind those that were heard before.
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

// unqueue takes a connection off those in front of their sessions.
func (c *conn) unqueue() {
	if c.x != nil && c.x.place != nil {
		c.l.silent.Remove(c.x.place)
		c.x.place = nil
	}
}

// YieldAfter is how long a connection in front of its session may say nothing where others
// want its place.
const YieldAfter = 250 * time.Millisecond

// roomForOpening tells whether one more connection may stand in front of its session. Where there are
// MaxOpening the one of the loop's that has been silent longest is closed for it; a loop that
// has none takes one more. Loop goroutine.
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
		return false // it may be we that keep it waiting
	}
	h.passed(c)
	h.cfg.Shed()
	c.do((*conn).yield)
	return true
}

// yield closes a connection that has given up its place in front of its session.
func (c *conn) yield() {
	if c.phase < open {
		c.kill()
	}
}
