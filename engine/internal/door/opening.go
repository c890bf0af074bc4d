package door

import (
	"bytes"
	"net"
	"net/netip"
)

// upgrade takes bytes of the request that becomes WebSocket.
func (c *conn) upgrade(b []byte) {
	held, from := len(c.x.head) > 0, 0
	if held { // it has come in pieces
		from = max(len(c.x.head)-3, 0)
		c.hold(b, maxHead+len(b))
		b = c.x.head
	}
	end := headEnd(b[from:])
	if end == 0 && len(b) <= maxHead {
		if !held {
			c.hold(b, maxHead)
		}
		return
	}
	head, rest := b[:from+end], b[from+end:]
	c.drop()
	if no := c.tryUpgrade(head, end == 0 || len(head) > maxHead); no != nil {
		c.l.h.st.upgrades.Add(1)
		c.refuse(no.answer(bytes.HasPrefix(head, []byte("HEAD "))))
		return
	}
	if !c.offer() {
		return
	}
	c.inner(rest)
}

// tryUpgrade answers the request, if nothing is wrong with it.
func (c *conn) tryUpgrade(head []byte, tooLong bool) *refusal {
	if tooLong {
		return errHead
	}
	cfg := &c.l.h.cfg
	forwarded := cfg.ForwardedFor.Has(c.RemoteAddr())
	if !forwarded && cfg.OnUpgrade == nil {
		if key, offered, ok := quickUpgrade(head, cfg, c.x.addr.Path, c.tls != nil); ok {
			if cfg.Draining() {
				return errDraining
			}
			c.accept(key, offered, deflateTerms{})
			return nil
		}
	}
	r, no := readRequest(head)
	if no == nil {
		no = checkUpgrade(r, c.x.addr.Path, cfg.Origins, c.tls != nil)
	}
	if no != nil {
		return no
	}
	if cfg.Draining() {
		return errDraining
	}
	if forwarded {
		if ip := forwardedFor(r, cfg.ForwardedFor); ip.IsValid() {
			c.remote = net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 0))
		}
	}
	if hook := cfg.OnUpgrade; hook != nil {
		r.RemoteAddr = c.RemoteAddr().String()
		r.TLS = c.TLS()
		if err := hook(r); err != nil {
			no := &refusal{403, "refused"}
			if s, ok := err.(StatusError); ok && s.Status() >= 400 && s.Status() < 600 {
				no = &refusal{s.Status(), s.Error()}
			}
			return no
		}
	}
	terms := deflateTerms{}
	if cfg.Deflate {
		terms = agree(r.Header)
	}
	c.accept([]byte(r.Header.Get("Sec-Websocket-Key")), hasToken(r.Header, "Sec-Websocket-Protocol", Subprotocol), terms)
	return nil
}

// accept makes the connection a WebSocket, and tells the client.
func (c *conn) accept(key []byte, protocol bool, terms deflateTerms) {
	c.ws.on = true
	if terms.on {
		c.x.z = &deflated{window: 1 << terms.bits}
		c.ws.in.inflate = true
	}
	c.l.h.st.webSockets.Add(1)
	b := accepted(c.l.gather[:0], key, protocol, terms)
	c.l.gather = b
	if n, _ := c.lower(b); n < len(b) { // a broken socket is told by its Closed
		c.x.pre = bytes.Clone(b[n:])
	}
	c.flush()
}
