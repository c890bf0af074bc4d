package bench

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// route is an address to connect to, and the protocols to use.
type route struct {
	addr    unix.Sockaddr
	family  int
	tls, ws bool
	host    string // of the upgrade request
	path    string
}

// parseRoute parses an address whose scheme is one of allDoors or unix, or that has none.
func parseRoute(addr string) (route, error) {
	scheme, rest, found := strings.Cut(addr, "://")
	if !found {
		scheme, rest = doorPlain, addr
	}
	r := route{tls: scheme == doorTLS || scheme == doorWSS, ws: scheme == doorWS || scheme == doorWSS, host: rest, path: "/"}
	if scheme != "unix" {
		var path string
		r.host, path, _ = strings.Cut(rest, "/")
		r.path += path
		rest = r.host
	} else {
		rest = addr
	}
	var err error
	r.addr, r.family, err = sockaddr(rest)
	return r, err
}

// door is the client's side of TLS and WebSocket on a connection. Owned by the loop's goroutine.
type door struct {
	tls     *tlsClient
	ws      *wsClient
	wire    []byte // bytes to write to the socket
	kept    []byte // bytes of a read not yet used by the WebSocket
	message []byte // WebSocket over TLS: messages to be encrypted
	ended   error  // set when the end was received
}

// newDoor returns the protocol state for a connection of r; nil if none is needed.
func (l *loop) newDoor(r *route) *door {
	if !r.tls && !r.ws {
		return nil
	}
	d := &door{}
	if r.tls {
		d.tls = newTLSClient(l.tlsConfig, &d.wire)
	}
	if r.ws {
		d.ws = newWSClient(r)
	}
	return d
}

// clientTLS is the same for every server: full handshakes (no tickets), a curve that all support,
// full records.
func clientTLS() *tls.Config {
	return &tls.Config{
		ServerName: "localhost", InsecureSkipVerify: true, // their certificates are self-signed
		SessionTicketsDisabled: true, CurvePreferences: []tls.CurveID{tls.X25519}, DynamicRecordSizingDisabled: true,
	}
}

// knock begins the handshake of c. The socket is connected.
func (l *loop) knock(c *conn) error {
	d := c.door
	if d.tls != nil {
		d.tls.step() // the ClientHello
	} else {
		d.wire = d.ws.request(d.wire)
	}
	if err := l.flush(c); err != nil {
		return l.lose(c, err)
	}
	return nil
}

// pass processes what a read has returned. The first kept bytes of buf are what the WebSocket left
// of the last read; without TLS, raw follows them. It returns the bytes of the frames, which are at
// the beginning of buf.
func (l *loop) pass(c *conn, raw, buf []byte, kept int) ([]byte, error) {
	d := c.door
	b := buf[:kept+len(raw)]
	if d.tls != nil {
		n, err := l.decrypt(c, raw, buf[kept:])
		if err != nil || d.tls.shaking {
			return nil, err
		}
		b = buf[:kept+n]
	}
	if d.ws == nil {
		return b, nil
	}
	if d.ws.accept != "" {
		rest, err := d.ws.answered(b)
		if err != nil {
			return nil, err
		}
		if d.ws.accept != "" {
			d.kept = append(d.kept[:0], b...)
			return nil, nil
		}
		b = buf[:copy(buf, rest)]
		if err := l.entered(c); err != nil || c.fd < 0 {
			return nil, err
		}
	}
	payload, rest, err := d.ws.feed(b)
	d.kept = append(d.kept[:0], rest...)
	if errors.Is(err, io.EOF) {
		d.ended, err = err, nil
	}
	return payload, err
}

// decrypt processes records and puts the plain text into buf; before that it continues the
// handshake.
func (l *loop) decrypt(c *conn, raw, buf []byte) (int, error) {
	t := c.door.tls
	t.in = raw
	if t.shaking {
		t.step()
		if t.err != nil {
			_ = l.flush(c) // the alert
			return 0, fmt.Errorf("bench: TLS handshake of connection %d: %w", c.id, t.err)
		}
		if t.shaking {
			return 0, l.flush(c)
		}
		if c.door.ws != nil {
			c.door.message = c.door.ws.request(c.door.message)
		}
		if err := l.flush(c); err != nil {
			return 0, err
		}
		if c.door.ws == nil {
			if err := l.entered(c); err != nil || c.fd < 0 {
				return 0, err
			}
		}
	}
	n, err := t.read(buf)
	if errors.Is(err, io.EOF) {
		c.door.ended, err = err, nil
	}
	return n, err
}

// seal encodes the frames in out, and pending control messages, into wire.
func (d *door) seal(out []byte) error {
	if d.ws == nil {
		return d.tls.write(out)
	}
	if d.tls == nil {
		d.wire = d.ws.messages(d.wire, out)
		return nil
	}
	if d.tls.shaking {
		return nil
	}
	d.message = d.ws.messages(d.message, out)
	err := d.tls.write(d.message)
	d.message = d.message[:0]
	return err
}

// afterDoor sends pending control messages, and ends a connection whose end was received.
func (l *loop) afterDoor(c *conn) error {
	d := c.door
	if d.ws != nil && len(d.ws.control) > 0 {
		if err := l.flush(c); err != nil {
			return l.lose(c, err)
		}
	}
	if d.ended != nil {
		return l.lose(c, d.ended)
	}
	return nil
}

// leave closes c properly: it sends the close of WebSocket and TLS first, as far as the socket
// accepts them.
func (l *loop) leave(c *conn) {
	if d := c.door; d != nil && c.fd >= 0 {
		if d.ws != nil {
			d.ws.bye()
		}
		_ = d.seal(nil)
		if d.tls != nil {
			d.tls.bye()
		}
		_ = l.flush(c)
	}
	l.hangUp(c)
}
