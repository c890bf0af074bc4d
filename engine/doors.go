package engine

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"millrace/codec"
	"millrace/engine/internal/door"
	"millrace/engine/internal/gnetio"
	"millrace/engine/internal/netio"
)

// Doors configures TLS, WebSocket and the PROXY protocol, for addresses that use them. Sessions
// behave the same with each.
type Doors struct {
	// TLS is required for tls:// and wss://, and used by auto:// if it is set; a config whose
	// ClientAuth requires a certificate is not allowed with auto://, which also accepts clients
	// without TLS. The minimum version is 1.2 unless it sets another. It must not be modified
	// afterwards; to change certificates later use GetCertificate, which like its other hooks is
	// called on a goroutine of the handshake.
	TLS              *tls.Config   `json:"-"`
	HandshakeTimeout time.Duration // of TLS, from accept; 5 s
	// MaxHandshakes is how many TLS handshakes may be open; 256. While that many have unprocessed
	// input, no others are read. When more are open, those that have waited longest for their
	// clients are closed, after at least 250 ms. If one address, or many together, leave many
	// handshakes unfinished, their next ones start one at a time, with so little CPU time that
	// other clients are not affected: those that support it are first sent a HelloRetryRequest, the
	// others get some 15 turns a second.
	MaxHandshakes int
	// HandshakeRate is how many TLS handshakes one address may start in a second; more wait, or are
	// closed if they would wait for longer than HandshakeTimeout. 0 or Off = no limit. An IPv6
	// network of IPv6Prefix counts as one address.
	HandshakeRate int

	// ProxyFrom are networks whose connections must begin with a header of the PROXY protocol,
	// version 1 or 2, and are closed otherwise. The address in the header becomes RemoteAddr, and
	// is the one that MaxConnsPerIP counts. For other connections such a header is a bad frame.
	// "unix" means connections to unix sockets.
	ProxyFrom []string

	// Origins are further origins whose pages may open a WebSocket, in addition to the server's own
	// host: https://example.com, a host, or * for all.
	Origins []string
	// ForwardedFrom are networks, as in ProxyFrom, from which X-Forwarded-For in WebSocket requests
	// is trusted.
	ForwardedFrom []string
	// Deflate lets WebSocket clients that request it send and receive compressed messages
	// (permessage-deflate, RFC 7692), each compressed independently: a connection needs no memory
	// for it between messages. A message under 128 bytes, or one that compression would not
	// shorten, is sent uncompressed. It costs the loops CPU time, about 1.3 MB for each loop, and
	// 72 KiB in the memory budget for a connection in the middle of a message.
	Deflate bool
	// MaxRatio limits the ratio of inflated to compressed bytes of a client's messages, over a
	// connection and once they exceed 16 MiB inflated; 200, Off for no limit. A client above it is
	// closed with 1008.
	MaxRatio int
	// OnUpgrade may refuse a WebSocket whose request is otherwise valid: an error is answered with
	// 403, or with the status of the error's method Status() int. It runs on the loop and must not
	// block; the request has no body, and its RemoteAddr and TLS are set.
	OnUpgrade func(*http.Request) error `json:"-"`
}

// DoorStats are the statistics of the doors.
type DoorStats = door.Stats

// Transport returns the transport of the session: "tcp", "unix", "tls", "ws" or "wss".
func (s *Session) Transport() string {
	if d, ok := s.door(); ok {
		return d.Transport()
	}
	return s.conn.LocalAddr().Network()
}

// TLS returns the TLS state of the session, including the peer's certificates; nil without TLS. It
// is shared and must not be modified.
func (s *Session) TLS() *tls.ConnectionState {
	if d, ok := s.door(); ok {
		return d.TLS()
	}
	return nil
}

// sayWhy closes a WebSocket with the code for the session's reason. If a message has been sent in
// part, its rest is sent first, if the peer still reads.
func (s *Session) sayWhy() {
	if d, ok := s.door(); ok {
		why := Reason(s.closing.Load())
		d.SetCloseCode(closeCode(why))
		if n := d.Owed(); n > 0 && why != ReasonPeerReset {
			if b := s.out.Rest(&s.loop.out, n); b != nil {
				d.Finish(b)
			}
		}
	}
}

// shown returns how many bytes, already passed to the connection, the next write must begin with.
func (s *Session) shown() int {
	if d, ok := s.door(); ok {
		return d.Shown()
	}
	return 0
}

// stalled closes the connection of a session whose peer has stalled for FrameTimeout in the middle
// of a TLS record or a WebSocket header; false if the session's timeouts are suspended. Loop
// goroutine.
func stalled(k netio.Sink) bool {
	if k, ok := k.(*link); ok {
		return k.stalled()
	}
	s := behindSink(k)
	return s != nil && s.loop.stalled(s)
}

// stalled is the same for a session without resume.
func (l *loop) stalled(s *Session) bool {
	if s.rd.life != lifeOpen || s.rd.input == inputBad || s.closed() {
		return true // other timeouts apply
	}
	if s.rd.paused != 0 || l.busy(s) {
		return false
	}
	s.closeWithError(codec.Packet{}, CodeTimeout, ReasonFrame.String(), ReasonFrame)
	return true
}

// closeCode returns the code of a WebSocket's close frame (RFC 6455, section 7.4).
func closeCode(why Reason) uint16 {
	switch why {
	case ReasonBadFrame:
		return 1002
	case ReasonDrain, ReasonStopped:
		return 1001
	case ReasonFirstFrame, ReasonFrame, ReasonIdle, ReasonSlowConsumer, ReasonOverflow, ReasonRefused, ReasonMemory, ReasonKicked:
		return 1008
	case ReasonPanic:
		return 1011
	case ReasonRate:
		return 1013
	}
	return 1000
}

// wholeFrames returns how many bytes at the start of b are complete frames of a session, and the
// length of the next frame; 0 if unknown. k is nil for a connection that is being accepted or was
// refused. Loop goroutine.
func (srv *Server) wholeFrames(conn netio.Conn, k netio.Sink, b []byte) (whole, next int) {
	f := srv.framingAt(conn, k)
	for whole < len(b) {
		size, missing, err := f.codec.Frame(b[whole:])
		if err != nil {
			size, missing, err = f.brief.Frame(b[whole:])
		}
		switch {
		case err != nil:
			return whole, 0
		case size == 0:
			return whole, 0
		case missing > 0:
			return whole, len(b) - whole + missing
		}
		whole += size
	}
	return whole, 0
}

// framingAt returns the framing of the next bytes that a session writes; without a session, that of
// the connection's address.
func (srv *Server) framingAt(conn netio.Conn, k netio.Sink) *framing {
	if s := behindSink(k); s != nil {
		return s.written()
	}
	return srv.framingOf(conn)
}

// URLs returns the listen addresses, in the form of Config.Addrs, with the bound ports.
func (srv *Server) URLs() []string { return srv.net.URLs() }

func sources(list []string) (s door.Sources) {
	for _, x := range list {
		if x == "unix" {
			s.Unix = true
		} else if p, err := parseNetwork(x); err == nil {
			s.Prefixes = append(s.Prefixes, p)
		}
	}
	return s
}

// parseNetwork parses a network in CIDR notation, or a single address.
func parseNetwork(s string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, errors.New("must be a network such as 10.0.0.0/8, an address, or unix")
	}
	if p.Addr().Is4In6() { // it contains no IPv4 address, and mapped peers are treated as IPv4
		if p.Bits() < 96 {
			return p, errors.New("must be an IPv4 network such as 10.0.0.0/8, not a part of ::ffff:0:0/96")
		}
		p = netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96)
	}
	return p.Masked(), nil
}

// parseAddr checks a listen address.
func parseAddr(s string) (door.Addr, error) {
	a, err := door.ParseAddr(s)
	if err == nil {
		_, err = gnetio.ParseAddr(a.Socket)
	}
	return a, err
}

// validateDoors reports invalid addresses and settings of the doors.
func (c *Config) validateDoors(bad func(field string, v any, why string)) {
	for _, s := range c.Addrs {
		a, err := parseAddr(s)
		switch {
		case err != nil:
			bad("Addrs", s, err.Error())
		case a.TLS && c.TLS == nil:
			bad("Addrs", s, "needs a certificate: set TLS")
		case a.Auto && c.Framer != nil:
			bad("Addrs", s, "needs frames that begin with their length, to distinguish them from TLS and HTTP: use separate addresses")
		case a.Auto && c.TLS != nil && (c.TLS.ClientAuth == tls.RequireAnyClientCert || c.TLS.ClientAuth == tls.RequireAndVerifyClientCert):
			bad("Addrs", s, "also accepts clients without TLS, which would bypass TLS.ClientAuth: use tls://, or wss:// on a separate address")
		case a.Auto:
			if b, ok := c.ambiguous(); ok {
				bad("Addrs", s, fmt.Sprintf("a frame of this layout may begin with the byte %#02x, as TLS or HTTP do: use separate addresses", b))
			}
		}
	}
	if t := c.TLS; t != nil && len(t.Certificates) == 0 && t.GetCertificate == nil && t.GetConfigForClient == nil {
		bad("TLS", "no certificate", "set Certificates or GetCertificate")
	}
	for _, x := range []struct {
		field string
		list  []string
	}{{"ProxyFrom", c.ProxyFrom}, {"ForwardedFrom", c.ForwardedFrom}} {
		for _, s := range x.list {
			if _, err := parseNetwork(s); err != nil && s != "unix" {
				bad(x.field, s, err.Error())
			}
		}
	}
	for _, s := range c.Origins {
		if err := door.CheckOrigin(s); err != nil {
			bad("Origins", s, err.Error())
		}
	}
}

// ambiguous finds a byte with which both a frame and TLS or HTTP may begin.
func (c *Config) ambiguous() (b byte, ok bool) {
	frames, err := codec.New(c.Layout, c.MaxFrame)
	if err != nil {
		return 0, false // reported elsewhere
	}
	for i := range 256 {
		if b := byte(i); door.Ambiguous(b) && frames.MayBegin(b) {
			return b, true
		}
	}
	return 0, false
}
