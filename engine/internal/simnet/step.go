package simnet

import (
	"time"

	"millrace/engine/internal/netio"
)

// Do does a step that Steps has told of, on the goroutine that it names. It returns when
// the Host or Sink does.
func (n *Net) Do(s Step) {
	l, c := s.Loop, s.Conn
	if s.Kind == Writable {
		n.mu.Lock()
		c.watched = false
		id := c.watchID
		n.mu.Unlock()
		n.host.Writable(id)
		return
	}
	l.enter(s.StandIn)
	defer l.leave(s.StandIn)
	switch s.Kind {
	case Turn:
		n.mu.Lock()
		l.asked = false
		n.mu.Unlock()
		l.turner.Turn()
	case Accept:
		c.accept()
	case Read:
		c.receive()
	case End:
		c.end(c.how())
	case HangUp:
		n.mu.Lock()
		c.told = true
		broken, sink := c.in.rst, c.sink
		n.mu.Unlock()
		sink.HungUp(broken)
	case Expire:
		c.Close()
	case Shut:
		c.end(netio.EndReset)
	}
}

// enter and leave note that a goroutine is inside a step.
func (l *Loop) enter(standIn bool) {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	if standIn {
		l.standing = make(chan struct{})
	} else {
		l.busy = true
	}
}

func (l *Loop) leave(standIn bool) {
	l.n.mu.Lock()
	defer l.n.mu.Unlock()
	if standIn {
		close(l.standing)
		l.standing = nil
	} else {
		l.busy = false
	}
}

// accept brings a connection to the Host.
func (c *Conn) accept() {
	n := c.n
	n.mu.Lock()
	fd, ok := n.open()
	if !ok {
		n.deaf = true
		n.note("no file to accept", c, 0, nil)
		n.mu.Unlock()
		n.host.AcceptFailed()
		return
	}
	c.fd, c.dialed, c.within = fd, true, true
	n.mu.Unlock()
	sink, no := n.host.Open(c.l.turner, c, fd)
	n.mu.Lock()
	c.within = false
	c.sink = sink
	doomed := c.doomed
	n.mu.Unlock()
	switch {
	case sink == nil && !doomed:
		c.turnAway(no)
	case doomed:
		c.end(netio.EndReset)
	}
}

// receive brings the Sink some of what has come.
func (c *Conn) receive() {
	n, l := c.n, c.l
	n.mu.Lock()
	most := min(len(c.in.ready), n.cfg.ReadBuffer)
	if most > 1 && n.hooks.Chance(4) {
		most = 1 + n.hooks.Choose(most)
	}
	if l.away {
		l.buf = nil // the goroutine that is held up still uses it
	}
	l.buf = append(l.buf[:0], c.in.ready[:most]...)
	c.in.ready = c.in.ready[most:]
	b, sink := l.buf, c.sink
	c.within = true
	n.note("read", c, most, b)
	n.mu.Unlock()
	sink.Received(b)
	n.mu.Lock()
	c.within = false
	doomed := c.doomed
	n.mu.Unlock()
	if doomed {
		c.end(netio.EndReset)
	}
}

// how is how the connection has ended.
func (c *Conn) how() netio.End {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	switch {
	case c.in.rst:
		return netio.EndReset
	case c.paused:
		return netio.EndHangup
	}
	return netio.EndFIN
}

// refusedExcess is how many bytes a refused connection may send before it is cut off.
const refusedExcess = 1 << 20

// refused is a connection that was turned away: what it sends is thrown away for a while,
// so that the goodbye reaches it.
type refused struct {
	c     *Conn
	since time.Time
	n     int
	due   bool // guarded by Net.mu; it has had its time
}

func (x *refused) Received(b []byte) {
	if x.n += len(b); x.n > refusedExcess {
		x.c.Close()
	}
}

func (x *refused) HungUp(bool)      {}
func (x *refused) Closed(netio.End) {}

// turnAway answers a connection that the Host did not take.
func (c *Conn) turnAway(no netio.Refusal) {
	n := c.n
	n.mu.Lock()
	if len(no.Goodbye) > 0 { // a new connection's buffer has room for it
		c.out.put(segment{b: append([]byte(nil), no.Goodbye...)}, n.takes(c.traits))
	}
	c.fin()
	kept := 0
	for _, x := range n.conns {
		if _, ok := x.sink.(*refused); ok && x.open() {
			kept++
		}
	}
	n.note("refused", c, len(no.Goodbye), no.Goodbye)
	if no.AtOnce || kept >= n.cfg.MaxRefused {
		c.in.ready = nil
		n.mu.Unlock()
		c.end(netio.EndReset)
		return
	}
	c.sink = &refused{c: c, since: time.Now()}
	n.mu.Unlock()
}
