package door

import (
	"container/list"
	"time"
)

// extra is what a connection has in front of its session, at its end, and while something
// of its layers waits. An idle one has none.
type extra struct {
	opening
	head   []byte        // what has come of a header; of a session that has gone, the rest of a message that it had begun
	pre    []byte        // headers and control frames of WebSocket that the layer below has been shown and not taken
	ctl    []byte        // control frames that wait for the end of a message
	z      *deflated     // nil: messages are not compressed
	take   func([]byte)  // in ReadRest: who gets what is read
	later  []func(*conn) // what waits until nothing is inside
	linger *time.Timer   // cuts a connection whose peer does not end it
	notify uint64        // the id that the session waits with; 0: it does not
	id     uint32        // that of the layers; 0: none
}

// opening is of a connection in front of its session.
type opening struct {
	addr     *Addr // where it came to; nil: it has passed
	fd       int
	since    time.Time // when it was accepted
	deadline int64     // of what comes next, in nanoseconds of Host.now; 0: it has none
	heard    int64     // when it last sent something, or was accepted, in nanoseconds of Host.now
	place    *list.Element
}

// more is extra, to put something in.
func (c *conn) more() *extra {
	if c.x == nil {
		if c.x = c.l.spare; c.x == nil {
			c.x = &extra{}
		}
		c.l.spare = nil
	}
	return c.x
}

// less lets extra go where there is nothing in it.
func (c *conn) less() {
	x := c.x
	if x == nil || x.addr != nil || x.head != nil || x.z != nil || x.take != nil || len(x.later) > 0 || x.linger != nil || x.notify != 0 || x.id != 0 || x.waits() {
		return
	}
	*x = extra{}
	c.x, c.l.spare = nil, x
}

// waits tells whether headers or control frames wait.
func (x *extra) waits() bool { return x != nil && len(x.pre)+len(x.ctl) > 0 }

// taking tells whether what is read is ReadRest's.
func (c *conn) taking() bool { return c.x != nil && c.x.take != nil }

// noTake throws away what follows in ReadRest.
func (c *conn) noTake() { c.x.take = func([]byte) {} }

// deflated is the compression of WebSocket messages; nil: there is none.
func (c *conn) deflated() *deflated {
	if c.x == nil {
		return nil
	}
	return c.x.z
}

// tail is how much there is of a message that the session had begun and that goes on behind it.
func (c *conn) tail() int {
	if c.x == nil || c.phase < open {
		return 0
	}
	return len(c.x.head)
}
