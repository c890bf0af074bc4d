package door

import (
	"crypto/tls"
	"net"
	"time"

	"github.com/gobwas/ws"

	"millrace/engine/internal/netio"
)

// phase is how far a connection has come.
type phase uint8

const (
	proxyHeader phase = iota // the PROXY header is to come
	firstByte                // it says whether TLS follows
	handshake                // of TLS
	innerByte                // the first byte inside says whether HTTP follows
	upgrade                  // the request that becomes WebSocket
	open                     // there is a session, or there was one that still sends
	closing                  // nothing is sent but what ends the layers; input is thrown away
	gone                     // the socket is closed
)

// conn is a connection with layers: a netio.Sink of the socket's, and a netio.Door for the
// Host. Loop goroutine only, but for what netio.Conn says. There are many, and a broadcast
// goes through each: so it is kept to 144 bytes, and what a connection has only for a while
// is in extra.
type conn struct {
	netio.Conn // the socket's
	l          *loop
	sink       netio.Sink   // the session's
	x          *extra       // nil: nothing of it
	tls        *tlsLayer    // nil: none
	remote     *net.TCPAddr // what a header said; nil: the socket's
	ws         wsLayer

	excess int32  // bytes thrown away
	code   uint16 // of the WebSocket close frame that we send
	phase  phase

	inside  bool // a call of the layers is under way, which others must not disturb
	up      bool // there is a session, and it has not been told its Closed
	kept    bool // it has, and goes on sending
	ended   bool // the socket's end has been told
	own     bool // after that: the descriptor is still ours
	aborted bool
	finWait bool // the FIN follows when what ends the layers is written
	finSent bool
	masked  bool // the session has paused reading
	stuffed bool // the layers have: they have too much to send by themselves
	halved  bool // it is one of loop.halves
	hasCode bool
}

var (
	_ netio.Door = (*conn)(nil)
	_ netio.Sink = (*conn)(nil)
)

// wsLayer is the WebSocket of a connection. Of what is sent it holds nothing: of a message
// that has begun the rest is given to it again.
type wsLayer struct {
	in     wsIn
	left   int  // payload bytes of the message that has begun and is not through
	closed bool // a close frame has been queued: nothing follows it
	on     bool // false: there is none
}

// closingExcess is how much input a connection that closes throws away before it is cut.
const closingExcess = 1 << 20

// Received takes what the socket has brought.
func (c *conn) Received(b []byte) {
	c.inside = true
	if c.phase < open {
		c.queue()
	}
	c.raw(b)
	if c.phase == open {
		c.noteHalf()
	}
	c.leave()
}

// leave ends what inside protects, and does what was put off meanwhile.
func (c *conn) leave() {
	c.inside = false
	for c.x != nil && len(c.x.later) > 0 {
		fn := c.x.later[0]
		c.x.later = c.x.later[1:]
		fn(c)
		c.less()
	}
}

// raw takes bytes of the socket.
func (c *conn) raw(b []byte) {
	for c.phase < handshake && len(b) > 0 {
		if c.phase == firstByte {
			if a := c.x.addr; a.TLS || a.Auto && b[0] == tlsByte && c.l.h.cfg.TLS != nil {
				c.beginTLS()
			} else {
				c.phase = innerByte
			}
			break
		}
		if b = c.proxy(b); c.phase == proxyHeader {
			return
		}
	}
	switch {
	case len(b) == 0:
	case c.phase >= closing || c.phase == open && !c.up && !c.taking():
		c.discard(len(b))
	case c.tls != nil:
		c.tls.received(b)
	default:
		c.inner(b)
	}
}

// proxy takes bytes of the PROXY header and returns what is behind it.
func (c *conn) proxy(b []byte) []byte {
	c.hold(b, maxProxyV2+len(b))
	addr, size, err := parseProxy(c.x.head)
	if err == nil && size == 0 {
		return nil
	}
	rest := c.x.head[max(size, 0):]
	c.drop()
	if err != nil {
		c.l.h.st.proxies.Add(1)
		c.refuse(nil)
		return nil
	}
	if addr.IsValid() {
		c.remote = net.TCPAddrFromAddrPort(addr)
	}
	c.phase = firstByte
	if a := c.x.addr; !a.layered() {
		c.phase = innerByte
		if len(rest) == 0 {
			c.offer() // a plain client may only want to listen
		}
	} else if !a.Auto && !a.TLS {
		c.phase = innerByte
	}
	return rest
}

// layered tells whether TLS or WebSocket may stand in front of the address.
func (a *Addr) layered() bool { return a.TLS || a.WS || a.Auto }

// hold keeps bytes of a header, until there are most of them.
func (c *conn) hold(b []byte, most int) {
	x := c.more()
	before := cap(x.head)
	x.head = append(x.head, b[:min(len(b), max(most-len(x.head), 0))]...)
	c.l.h.cfg.Budget.Add(cap(x.head) - before)
}

// drop counts no longer what hold kept; its bytes are the caller's.
func (c *conn) drop() {
	if c.x != nil {
		c.l.h.cfg.Budget.Add(-cap(c.x.head))
		c.x.head = nil
	}
}

// inner takes the bytes inside of TLS, or those of the socket where there is none.
func (c *conn) inner(b []byte) {
	if c.phase == innerByte && len(b) > 0 {
		if a := c.x.addr; a.WS || a.Auto && methodByte(b[0]) {
			c.phase = upgrade
		} else if !c.offer() {
			return
		}
	}
	switch {
	case len(b) == 0:
	case c.phase == upgrade:
		c.upgrade(b)
	case c.phase != open || !c.up && !c.taking():
		c.discard(len(b))
	case c.ws.on:
		c.frames(b)
	default:
		c.deliver(b)
	}
}

// deliver brings the session its bytes.
func (c *conn) deliver(b []byte) {
	switch {
	case len(b) == 0:
	case c.taking():
		c.x.take(b)
	case c.up:
		c.sink.Received(b)
	}
}

// frames takes bytes of the WebSocket stream.
func (c *conn) frames(b []byte) {
	if c.deflated() != nil {
		c.deflatedFrames(b)
		return
	}
	e := &c.l.end
	*e = wsEnd{c: c}
	payload, _, ended := c.ws.in.feed(b, e, &c.l.room)
	code := e.code // while the session has its bytes another connection may use e
	c.deliver(payload)
	if ended {
		if !c.hasCode {
			c.code, c.hasCode = code, true
		}
		c.peerDone()
	} else if c.x.waits() {
		c.flush()
	}
}

// wsEnd takes what the stream of one read says beside its data.
type wsEnd struct {
	c    *conn
	code uint16
}

func (e *wsEnd) ping(body []byte) {
	if c := e.c; !c.ws.closed {
		x := c.more()
		x.ctl = append(appendHeader(x.ctl, ws.OpPong, len(body)), body...)
	}
}

func (e *wsEnd) closeFrame(code uint16) { e.code = code }

// maxControl is how many bytes of answers to PINGs may wait before their sender is not read
// from.
const maxControl = 1 << 10

// offer opens the session of a connection that has passed its layers.
func (c *conn) offer() bool {
	c.l.h.passed(c)
	c.phase = open
	sink, no := c.l.h.host.Open(c.l.turner, c, c.x.fd)
	if c.x != nil {
		c.x.opening = opening{}
		c.less()
	}
	if sink != nil {
		c.sink, c.up = sink, c.phase == open
		return c.up
	}
	if c.phase == open {
		c.setCode(no.Code)
		if len(no.Goodbye) > 0 {
			_, _ = c.Write(no.Goodbye)
		}
		c.finish()
	}
	return false
}

// peerDone is the end of the peer's stream inside the layers: a FIN, for the session.
func (c *conn) peerDone() {
	if c.inflateWaits() {
		c.x.z.fin = true // behind that
		return
	}
	if c.taking() {
		c.noTake() // the end itself is being told
		return
	}
	if c.up {
		c.up = false
		c.sink.Closed(netio.EndFIN)
	}
	if !c.kept {
		c.finish()
	}
}

// broken ends a connection whose layers can't go on.
func (c *conn) broken() {
	if c.taking() {
		c.noTake()
		return
	}
	if c.up {
		c.up = false
		c.aborted = true // nothing is owed any more
		c.sink.Closed(netio.EndReset)
	}
	c.finish()
}

// refuse ends a connection that got no session.
func (c *conn) refuse(answer []byte) {
	c.l.h.passed(c)
	c.phase = open
	if len(answer) > 0 {
		_, _ = c.lower(answer)
	}
	c.finish()
}

// Transport names what the peer came through.
func (c *conn) Transport() string {
	switch {
	case c.ws.on && c.tls != nil:
		return "wss"
	case c.ws.on:
		return "ws"
	case c.tls != nil:
		return "tls"
	}
	return c.Conn.LocalAddr().Network()
}

// TLS is the state of the connection's TLS; nil: it has none.
func (c *conn) TLS() *tls.ConnectionState {
	if c.tls == nil {
		return nil
	}
	return c.tls.state()
}

// Since is when the socket was accepted.
func (c *conn) Since() (t time.Time) {
	if c.x != nil {
		t = c.x.since
	}
	return t
}

// RemoteAddr is the peer's address, behind the proxies that are believed.
func (c *conn) RemoteAddr() net.Addr {
	if c.remote != nil {
		return c.remote
	}
	return c.Conn.RemoteAddr()
}

// SetCloseCode says with which WebSocket code the connection is to close, unless that has
// been said, or the peer's own close frame has come.
func (c *conn) SetCloseCode(code uint16) { c.setCode(code) }

func (c *conn) setCode(code uint16) {
	if !c.hasCode && code != 0 {
		c.code, c.hasCode = code, true
	}
}
