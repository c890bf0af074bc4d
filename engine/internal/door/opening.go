package door

import (
	"net"
	"net/netip"
)

// upgrade takes bytes of the request that becomes WebSocket.
func (c *conn) upgrade(b []byte) {
	scanned := max(len(c.head)-3, 0)
	c.hold(b, maxHead+len(b))
	end := headEnd(c.head[scanned:])
	if end == 0 && len(c.head) <= maxHead {
		return
	}
	end += scanned
	head, rest := c.head, c.head[end:]
	c.drop()
	if no := c.tryUpgrade(head[:end], end == scanned || end > maxHead); no != nil {
		c.h.st.upgrades.Add(1)
		c.refuse(no.answer())
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
	r, no := readRequest(head)
	if no == nil {
		no = checkUpgrade(r, c.addr.Path, c.h.cfg.Origins, c.tls != nil)
	}
	if no != nil {
		return no
	}
	if c.h.cfg.Draining() {
		return &refusal{503, "the server is going away"}
	}
	if c.h.cfg.ForwardedFor.Has(c.remote) {
		if ip := forwardedFor(r, c.h.cfg.ForwardedFor); ip.IsValid() {
			c.remote = net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, 0))
		}
	}
	if hook := c.h.cfg.OnUpgrade; hook != nil {
		r.RemoteAddr = c.remote.String()
		r.TLS = c.TLS()
		if err := hook(r); err != nil {
			no := &refusal{403, "refused"}
			if s, ok := err.(StatusError); ok && s.Status() >= 400 && s.Status() < 600 {
				no = &refusal{s.Status(), s.Error()}
			}
			return no
		}
	}
	c.ws = &wsLayer{}
	var terms deflateTerms
	if c.h.cfg.Deflate {
		if terms = agree(r.Header); terms.on {
			c.ws.z = &deflated{window: 1 << terms.bits}
			c.ws.in.inflate = true
		}
	}
	c.ws.out.pre = accepted(r, terms)
	c.h.st.webSockets.Add(1)
	c.flush()
	return nil
}
