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

// Doors are what stands between a socket and its session where an address asks for it. A
// session is the same behind each of them.
type Doors struct {
	// TLS is needed by tls:// and wss://, and used by auto:// where it is set; one whose
	// ClientAuth requires a certificate can't be with auto://, which takes clients without TLS
	// too. The least version is 1.2 unless it says another. It must not be changed any more; for other
	// certificates later give it a GetCertificate, which like its other hooks is called on a
	// goroutine of the handshake's.
	TLS              *tls.Config   `json:"-"`
	HandshakeTimeout time.Duration // of TLS, from accept; 5 s
	// MaxHandshakes is how many TLS handshakes may be open; 256. While so many have bytes that
	// wait to be worked at, no others are read. When more are open, those are closed that
	// have waited longest for their clients, but for 250 ms at least. Where one address, or many
	// together, leave many answered ones unended, their next ones begin one after the other, in so little
	// time that others see nothing of it: those that can be are asked for another key share first (HelloRetryRequest), the
	// others have some 15 turns a second.
	MaxHandshakes int
	// HandshakeRate is how many TLS handshakes one address may begin in a second; more wait,
	// or are closed if they would wait for longer than HandshakeTimeout. 0 or Off = no limit.
	// An IPv6 network of IPv6Prefix counts as one address.
	HandshakeRate int

	// ProxyFrom are networks whose connections begin with a header of the PROXY protocol,
	// version 1 or 2, and are closed if they don't. The address in it is RemoteAddr, and what
	// MaxConnsPerIP counts. In all others such a header is no frame. "unix" stands for whoever
	// connects to a unix socket.
	ProxyFrom []string

	// Origins are the pages that browsers may open a WebSocket from, beside those of the
	// host itself: https://example.com, a host, or * for all.
	Origins []string
	// ForwardedFrom are networks, as in ProxyFrom, whose X-Forwarded-For is believed in the
	// request of a WebSocket.
	ForwardedFrom []string
	// Deflate lets WebSocket clients that ask for it send and get compressed messages
	// (permessage-deflate, RFC 7692), each compressed by itself: a connection holds nothing
	// for it between two messages. A message under 128 bytes, and one that would get no
	// shorter, is sent as it is. It costs the loops time, about 1.3 MB for each loop, and 72
	// KiB in the memory budget for a connection in the middle of a message.
	Deflate bool
	// MaxRatio is how many bytes a client's compressed messages may become for each byte of
	// them, over a connection and once they have become 16 MiB; 200, Off for no limit. A
	// client past it is closed with 1008.
	MaxRatio int
	// OnUpgrade may refuse a WebSocket whose request is right otherwise: an error is answered
	// with 403, or as the error's method Status() int says. It runs on the loop and must not
	// block; the request has no body, and its RemoteAddr and TLS are set.
	OnUpgrade func(*http.Request) error `json:"-"`
}

// DoorStats are counts of the doors.
type DoorStats = door.Stats

// Transport names what the peer came through: "tcp", "unix", "tls", "ws" or "wss".
func (s *Session) Transport() string {
	if d, ok := s.door(); ok {
		return d.Transport()
	}
	return s.conn.LocalAddr().Network()
}

// TLS is the state of the session's TLS, the peer's certificates included; nil where it has
// none. It does not change and is shared.
func (s *Session) TLS() *tls.ConnectionState {
	if d, ok := s.door(); ok {
		return d.TLS()
	}
	return nil
}

// sayWhy has a WebSocket close with the code that the session's reason stands for. Where a
// message is in its way the rest of that goes first, if the peer still takes it.
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

// shown is with how many bytes that the connection has been given the next write must begin.
func (s *Session) shown() int {
	if d, ok := s.door(); ok {
		return d.Shown()
	}
	return 0
}

// stalled ends the connection of a session whose peer has stood still for FrameTimeout in the
// middle of a TLS record or a WebSocket header; false: its clocks stand still. Loop goroutine.
func stalled(k netio.Sink) bool {
	if k, ok := k.(*link); ok {
		return k.stalled()
	}
	s := behindSink(k)
	return s != nil && s.loop.stalled(s)
}

// stalled is the function of that name for a session without resume.
func (l *loop) stalled(s *Session) bool {
	if s.rd.life != lifeOpen || s.rd.input == inputBad || s.closed() {
		return true // other clocks run
	}
	if s.rd.paused != 0 || l.busy(s) {
		return false
	}
	s.closeWithError(codec.Packet{}, CodeTimeout, ReasonFrame.String(), ReasonFrame)
	return true
}

// closeCode is the code of a WebSocket's close frame (RFC 6455, section 7.4).
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

// wholeFrames is how many bytes at the start of b are whole frames of a session's, and how
// long the frame behind them is; 0: that is not known. k is nil for
// one that is being accepted or was refused. Loop goroutine.
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

// framingAt is the framing of what a session writes next; where there is no session yet, that
// of the connection's address.
func (srv *Server) framingAt(conn netio.Conn, k netio.Sink) *framing {
	if s := behindSink(k); s != nil {
		return s.written()
	}
	return srv.framingOf(conn)
}

// URLs are the addresses that are listened on, as Config.Addrs takes them, with the ports
// that were bound.
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

// parseNetwork reads a network in CIDR notation, or one address.
func parseNetwork(s string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, errors.New("must be a network such as 10.0.0.0/8, an address, or unix")
	}
	if p.Addr().Is4In6() { // it has no IPv4 address, and such peers are that here
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

// validateDoors reports what is wrong with the addresses and what stands in front of them.
func (c *Config) validateDoors(bad func(field string, v any, why string)) {
	for _, s := range c.Addrs {
		a, err := parseAddr(s)
		switch {
		case err != nil:
			bad("Addrs", s, err.Error())
		case a.TLS && c.TLS == nil:
			bad("Addrs", s, "needs a certificate: set TLS")
		case a.Auto && c.Framer != nil:
			bad("Addrs", s, "needs frames that begin with their length, which tells them from TLS and HTTP: give each its own address")
		case a.Auto && c.TLS != nil && (c.TLS.ClientAuth == tls.RequireAnyClientCert || c.TLS.ClientAuth == tls.RequireAndVerifyClientCert):
			bad("Addrs", s, "takes clients without TLS too, who would get past TLS.ClientAuth: give tls://, or wss:// on an address of its own")
		case a.Auto:
			if b, ok := c.ambiguous(); ok {
				bad("Addrs", s, fmt.Sprintf("a frame of this layout may begin with the byte %#02x, as TLS or HTTP do: give each its own address", b))
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

// ambiguous finds a byte that a frame may begin with as well as TLS or HTTP.
func (c *Config) ambiguous() (b byte, ok bool) {
	frames, err := codec.New(c.Layout, c.MaxFrame)
	if err != nil {
		return 0, false // told elsewhere
	}
	for i := range 256 {
		if b := byte(i); door.Ambiguous(b) && frames.MayBegin(b) {
			return b, true
		}
	}
	return 0, false
}
