package simnet

import (
	"errors"
	"net"
	"syscall"
	"time"

	"millrace/engine/internal/netio"
)

// Conn is one connection. The methods of netio.Conn are the server's end; those of client.go
// the other.
type Conn struct {
	n             *Net
	l             *Loop
	id            int
	traits        Traits
	local, remote *net.TCPAddr

	// Guarded by n.mu.
	in, out  pipe // to the server, and from it
	syn      time.Time
	dialed   bool // the server has accepted it, or closed it before
	fd       int
	sink     netio.Sink
	watched  bool
	watchID  uint64
	paused   bool
	within   bool // inside a call of the Host or Sink
	doomed   bool // it is to be closed when that call returns
	ending   bool // inside Sink.Closed, or behind it
	detached bool
	closed   bool // the server has closed its descriptor
	aborted  bool
	told     bool // Sink.HungUp has been called
	finSent  bool
	refused  bool // what came to the closed descriptor was answered with a reset
	shut     bool // the client has closed: nobody reads
	stalled  bool // the client does not read now
	broken   bool // it has sent a reset
	limited  bool // only limit bytes more of it arrive
	limit    int
	lost     bool // more were sent
	got      []byte
}

var (
	_ netio.Conn   = (*Conn)(nil)
	_ netio.Joiner = (*Conn)(nil)
)

// ID numbers the network's connections from 1 on.
func (c *Conn) ID() int { return c.id }

func (c *Conn) Write(p []byte) (int, error) {
	n := c.n
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case c.closed:
		return 0, net.ErrClosed
	case c.in.rst:
		return 0, syscall.ECONNRESET
	case c.out.ended:
		return 0, syscall.EPIPE
	}
	most := min(len(p), c.traits.SendBuffer-c.out.bytes)
	if most <= 0 {
		return 0, nil
	}
	if n.hooks.Chance(8) {
		most = n.hooks.Choose(most + 1)
	}
	if most > 0 {
		c.out.put(segment{b: append([]byte(nil), p[:most]...)}, n.takes(c.traits))
	}
	n.note("write", c, most, p[:most])
	return most, nil
}

// WriteJoined is Write for two pieces.
func (c *Conn) WriteJoined(head, body []byte) (int, error) {
	return c.Write(append(append([]byte(nil), head...), body...))
}

func (c *Conn) NotifyWritable(id uint64) error {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.watched, c.watchID = true, id
	return nil
}

func (c *Conn) PauseReading(pause bool) bool {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.paused = pause
	return true
}

func (c *Conn) ReadRest(take func([]byte)) bool {
	c.n.mu.Lock()
	b, broken := c.in.ready, c.in.rst
	c.in.ready = nil
	c.n.mu.Unlock()
	if len(b) > 0 {
		take(b)
	}
	return !broken
}

func (c *Conn) Unread() int {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	return len(c.in.ready)
}

func (c *Conn) Unacked() int {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	return c.out.unacked()
}

// probeAfter is when what is owed has been asked for again.
const probeAfter = 300 * time.Millisecond

func (c *Conn) Acks() netio.Acks {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	a := netio.Acks{Owed: c.out.unacked() > 0, Ago: time.Since(c.out.acked), Reset: c.in.rst}
	a.Missed = a.Owed && c.out.silent && a.Ago > probeAfter
	if !c.out.silent {
		a.Ago = min(a.Ago, probeAfter) // a closed window is probed, and the peer answers
	}
	return a
}

func (c *Conn) CloseWrite() {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.fin()
}

// fin sends the FIN. mu is held.
func (c *Conn) fin() {
	if !c.finSent && !c.closed {
		c.finSent = true
		c.out.put(segment{fin: true}, c.n.takes(c.traits))
		c.n.note("fin", c, 0, nil)
	}
}

func (c *Conn) Abort() {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	c.aborted = true
}

// Detach needs one more descriptor for a moment, as the real one does.
func (c *Conn) Detach() bool {
	c.n.mu.Lock()
	defer c.n.mu.Unlock()
	if !c.ending || c.detached || c.closed {
		return false
	}
	fd, ok := c.n.open()
	if !ok {
		c.n.note("no file", c, 0, nil)
		return false
	}
	c.n.free(c.fd)
	c.fd, c.detached, c.watched = fd, true, false
	c.n.note("detach", c, 0, nil)
	return true
}

func (c *Conn) Close() {
	c.n.mu.Lock()
	switch {
	case c.closed:
	case c.detached:
		c.shutDown()
	case c.ending: // it is being closed
	case c.within:
		c.doomed = true
	default:
		c.n.mu.Unlock()
		c.end(netio.EndReset)
		return
	}
	c.n.mu.Unlock()
}

// end tells the Sink its end, and closes the descriptor unless it was detached. It is called
// on the loop's goroutine without mu.
func (c *Conn) end(how netio.End) {
	c.n.mu.Lock()
	if c.ending {
		c.n.mu.Unlock()
		return
	}
	c.ending = true
	c.n.note("closed", c, int(how), nil)
	sink := c.sink
	c.n.mu.Unlock()
	if sink != nil {
		sink.Closed(how)
	}
	c.n.mu.Lock()
	if !c.detached {
		c.shutDown()
	}
	c.n.mu.Unlock()
}

// shutDown closes the descriptor: with a reset where input is unread, as the kernel does.
// mu is held.
func (c *Conn) shutDown() {
	if c.closed {
		return
	}
	reset := c.aborted || len(c.in.ready) > 0 && !c.in.rst
	if reset {
		c.out.ended = false // also behind a FIN
		c.out.put(segment{rst: true}, c.n.takes(c.traits))
	} else {
		c.fin()
	}
	c.closed, c.watched = true, false
	c.in.ready = nil
	c.n.free(c.fd)
	what := "close"
	if reset {
		what = "close, reset"
	}
	c.n.note(what, c, 0, nil)
}

func (c *Conn) LocalAddr() net.Addr  { return c.local }
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SyscallConn: there is no descriptor.
func (c *Conn) SyscallConn() (syscall.RawConn, error) { return nil, errors.ErrUnsupported }

// note shows an event of a connection's.
func (n *Net) note(what string, c *Conn, count int, b []byte) {
	n.hooks.Note(Event{What: what, Conn: c.id, Loop: c.l.index, N: count, B: b})
}
