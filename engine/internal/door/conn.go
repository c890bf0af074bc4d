package door

import (
	"crypto/tls"
	"net"
	"time"

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
// Host. Loop goroutine only, but for what netio.Conn says.
type conn struct {
	netio.Conn // the socket's
	h          *Host
	l          *loop
	addr       *Addr
	fd         int
	since      time.Time
	remote     net.Addr
	forwarded  bool // remote is what a header said

	phase  phase
	inside bool // a call of the layers is under way, which others must not disturb
	later  []func(*conn)
	head   []byte // what has come of a header; of a session that has gone, the rest of a message that it had begun
	timer  *time.Timer

	sink    netio.Sink   // the session's
	up      bool         // there is a session, and it has not been told its Closed
	kept    bool         // it has, and goes on sending
	take    func([]byte) // in ReadRest: who gets what is read
	ended   bool         // the socket's end has been told
	own     bool         // after that: the descriptor is still ours
	aborted bool
	notify  uint64 // the id that the session waits with; 0: it does not
	id      uint32 // that of the layers; 0: none
	finWait bool   // the FIN follows when what ends the layers is written
	finSent bool

	masked  bool   // the session has paused reading
	stuffed bool   // the layers have: they have too much to send by themselves
	excess  int    // bytes thrown away
	halfOf  uint32 // how much the peer had ended before what it has begun and not ended
	halfAt  int64  // since when it has not, in nanoseconds of Host.now; 0: it has
	code    uint16 // of the WebSocket close frame that we send
	hasCode bool

	tls *tlsLayer
	ws  *wsLayer
}

var (
	_ netio.Door = (*conn)(nil)
	_ netio.Sink = (*conn)(nil)
)

// wsLayer is the WebSocket of a connection.
type wsLayer struct {
	in  wsIn
	out wsOut
	got bool      // the client's close frame
	z   *deflated // nil: messages are not compressed
}

// closingExcess is how much input a connection that closes throws away before it is cut.
const closingExcess = 1 << 20

// Received takes what the socket has brought.
func (c *conn) Received(b []byte) {
	c.inside = true
	c.raw(b)
	if c.phase == open {
		c.noteHalf()
	}
	c.leave()
}

// leave ends what inside protects, and does what was put off meanwhile.
func (c *conn) leave() {
	c.inside = false
	for len(c.later) > 0 {
		fn := c.later[0]
		c.later = c.later[1:]
		fn(c)
	}
}

// raw takes bytes of the socket.
func (c *conn) raw(b []byte) {
	for c.phase < handshake && len(b) > 0 {
		if c.phase == firstByte {
			if c.addr.TLS || c.addr.Auto && b[0] == tlsByte && c.h.cfg.TLS != nil {
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
	case c.phase >= closing || c.phase == open && !c.up && c.take == nil:
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
	addr, size, err := parseProxy(c.head)
	if err == nil && size == 0 {
		return nil
	}
	rest := c.head[max(size, 0):]
	c.drop()
	if err != nil {
		c.h.st.proxies.Add(1)
		c.refuse(nil)
		return nil
	}
	if addr.IsValid() {
		c.remote, c.forwarded = net.TCPAddrFromAddrPort(addr), true
	}
	c.phase = firstByte
	if !c.addr.layered() {
		c.phase = innerByte
		if len(rest) == 0 {
			c.offer() // a plain client may only want to listen
		}
	} else if !c.addr.Auto && !c.addr.TLS {
		c.phase = innerByte
	}
	return rest
}

// layered tells whether TLS or WebSocket may stand in front of the address.
func (a *Addr) layered() bool { return a.TLS || a.WS || a.Auto }

// hold keeps bytes of a header, until there are most of them.
func (c *conn) hold(b []byte, most int) {
	before := cap(c.head)
	c.head = append(c.head, b[:min(len(b), max(most-len(c.head), 0))]...)
	c.h.cfg.Budget.Add(cap(c.head) - before)
}

// drop counts no longer what hold kept; its bytes are the caller's.
func (c *conn) drop() {
	c.h.cfg.Budget.Add(-cap(c.head))
	c.head = nil
}

// inner takes the bytes inside of TLS, or those of the socket where there is none.
func (c *conn) inner(b []byte) {
	if c.phase == innerByte && len(b) > 0 {
		if c.addr.WS || c.addr.Auto && methodByte(b[0]) {
			c.phase = upgrade
		} else if !c.offer() {
			return
		}
	}
	switch {
	case len(b) == 0:
	case c.phase == upgrade:
		c.upgrade(b)
	case c.phase != open || !c.up && c.take == nil:
		c.discard(len(b))
	case c.ws != nil:
		c.frames(b)
	default:
		c.deliver(b)
	}
}

// deliver brings the session its bytes.
func (c *conn) deliver(b []byte) {
	switch {
	case len(b) == 0:
	case c.take != nil:
		c.take(b)
	case c.up:
		c.sink.Received(b)
	}
}

// frames takes bytes of the WebSocket stream.
func (c *conn) frames(b []byte) {
	if c.ws.z != nil {
		c.deflatedFrames(b)
		return
	}
	e := &c.l.end
	*e = wsEnd{c: c}
	payload, _, ended := c.ws.in.feed(b, e, &c.l.rd, c.l.small[:])
	code := e.code // while the session has its bytes another connection may use e
	c.deliver(payload)
	if ended {
		if !c.hasCode {
			c.code, c.hasCode = code, true
		}
		c.peerDone()
	} else if len(c.ws.out.ctl) > 0 || len(c.ws.out.pre) > 0 {
		c.flush()
	}
}

// wsEnd takes what the stream of one read says beside its data.
type wsEnd struct {
	c    *conn
	code uint16
}

func (e *wsEnd) ping(body []byte) {
	if o := &e.c.ws.out; !o.closed {
		o.ctl = append(appendHeader(o.ctl, 0xA, len(body)), body...)
	}
}

func (e *wsEnd) closeFrame(code uint16) { e.code, e.c.ws.got = code, true }

// maxControl is how many bytes of answers to PINGs may wait before their sender is not read
// from.
const maxControl = 1 << 10

// offer opens the session of a connection that has passed its layers.
func (c *conn) offer() bool {
	c.stopTimer()
	c.h.passed(c)
	c.phase = open
	sink, no := c.h.host.Open(c.l.turner, c, c.fd)
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
		c.ws.z.fin = true // behind that
		return
	}
	if c.take != nil {
		c.take = func([]byte) {} // what follows is nobody's; the end itself is being told
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
	if c.take != nil {
		c.take = func([]byte) {}
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
	c.stopTimer()
	c.h.passed(c)
	c.phase = open
	if len(answer) > 0 {
		_, _ = c.lower(answer)
	}
	c.finish()
}

// Transport names what the peer came through.
func (c *conn) Transport() string {
	switch {
	case c.ws != nil && c.tls != nil:
		return "wss"
	case c.ws != nil:
		return "ws"
	case c.tls != nil:
		return "tls"
	}
	return c.Conn.LocalAddr().Network()
}

// TLS is the state of the connection's TLS; nil: it has none.
func (c *conn) TLS() *tls.ConnectionState {
	if c.tls == nil || c.tls.state == nil {
		return nil
	}
	return c.tls.state
}

// Since is when the socket was accepted.
func (c *conn) Since() time.Time { return c.since }

// RemoteAddr is the peer's address, behind the proxies that are believed.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetCloseCode says with which WebSocket code the connection is to close, unless that has
// been said, or the peer's own close frame has come.
func (c *conn) SetCloseCode(code uint16) { c.setCode(code) }

func (c *conn) setCode(code uint16) {
	if !c.hasCode && code != 0 {
		c.code, c.hasCode = code, true
	}
}
