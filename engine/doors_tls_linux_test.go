package engine

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"millrace/codec"
)

// pieces writes what it is given in pieces of n bytes, each a write of its own, and the
// first piece as long as first says.
type pieces struct {
	net.Conn
	n, first int
}

func (c *pieces) Write(b []byte) (done int, err error) {
	for done < len(b) {
		n := min(c.n, len(b)-done)
		if c.first > 0 {
			n = min(c.first, len(b)-done)
			c.first = 0
		}
		m, err := c.Conn.Write(b[done : done+n])
		if done += m; err != nil {
			return done, err
		}
	}
	return done, nil
}

// A handshake and records that come byte by byte, or cut anywhere, are what they are whole.
func TestTLSAtEverySplit(t *testing.T) {
	srv := serve(t, Config{Dispatch: Inline, Addrs: []string{"tls://127.0.0.1:0", "auto://127.0.0.1:0"}, Doors: Doors{TLS: serverTLS()}}, &funcs{read: echo})
	hello, large := frame(1, 1, "hello"), frame(1, 1, strings.Repeat("x", 20_000))
	stride := 61
	if *long {
		stride = 1
	}
	try := func(addr net.Addr, version uint16, c *pieces) {
		t.Helper()
		raw, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(60 * time.Second))
		n, first := c.n, c.first
		c.Conn = raw
		tc := tls.Client(c, &tls.Config{InsecureSkipVerify: true, MinVersion: version, MaxVersion: version})
		tc.Write(append(bytes.Clone(hello), hello...))
		expect(t, tc, append(bytes.Clone(hello), hello...))
		c.n, c.first = max(n, 100), first // the first write of the next record is cut there
		tc.Write(large)
		expect(t, tc, large)
		if err := tc.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if rest, err := io.ReadAll(tc); err != nil || len(rest) > 0 {
			t.Fatalf("pieces of %d, first %d: %d bytes behind the answers, %v", n, first, len(rest), err)
		}
	}
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, addr := range srv.Addrs() {
			try(addr, version, &pieces{n: 1})
		}
		for first := 1; first < 600; first += stride {
			try(srv.Addrs()[0], version, &pieces{n: 1 << 20, first: first})
		}
	}
	if n := srv.Stats().Doors.Truncated; n != 0 {
		t.Errorf("%d streams are truncated", n)
	}
}

// A client certificate is asked for, checked, and there for the handler; without one, or
// with somebody else's, no session is seen.
func TestClientCertificates(t *testing.T) {
	mine, theirs := testCert(), selfSigned("them")
	pool := x509.NewCertPool()
	leaf, err := x509.ParseCertificate(mine.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(leaf)
	cfg := serverTLS()
	cfg.ClientAuth, cfg.ClientCAs = tls.RequireAndVerifyClientCert, pool
	for auth, refused := range map[tls.ClientAuthType]bool{tls.RequireAnyClientCert: true, tls.RequireAndVerifyClientCert: true, tls.RequestClientCert: false, tls.VerifyClientCertIfGiven: false} {
		x := cfg.Clone()
		x.ClientAuth = auth
		for addr, both := range map[string]bool{"auto://127.0.0.1:0": true, "auto+unix:///a.sock": true, "wss://127.0.0.1:0": false} {
			var bad *ConfigError
			if _, err := New(Config{Addrs: []string{"tls://127.0.0.1:0", addr}, Doors: Doors{TLS: x, ProxyFrom: []string{"unix"}}}, &funcs{}); (err != nil) != (refused && both) || err != nil && (!errors.As(err, &bad) || bad.Value != addr) {
				t.Errorf("%s with %v: got %v", addr, auth, err)
			}
		}
	}
	srv := serve(t, Config{Addrs: []string{"tls://127.0.0.1:0"}, Doors: Doors{TLS: cfg}}, &funcs{read: func(s *Session, p codec.Packet) {
		s.Reply(p, []byte(s.TLS().PeerCertificates[0].Subject.CommonName))
	}})
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for name, certs := range map[string][]tls.Certificate{"mine": {mine}, "none": nil, "theirs": {theirs}} {
			raw := must(net.Dial("tcp", srv.Addrs()[0].String()))
			defer raw.Close()
			raw.SetDeadline(time.Now().Add(30 * time.Second))
			c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, Certificates: certs, MaxVersion: version})
			c.Write(frame(1, 1, "who"))
			got, err := codec.NewReader(c, nil).Next()
			if name == "mine" && (err != nil || string(got.Body) != "localhost") || name != "mine" && err == nil {
				t.Errorf("%s, %s: got %q, %v", tls.VersionName(version), name, got.Body, err)
			}
		}
	}
	until(t, "four bad handshakes", func() bool { return srv.Stats().Doors.BadHandshakes == 4 })
	if n := srv.Stats().Accepts; n != 2 {
		t.Errorf("%d sessions, want 2", n)
	}
}

// Who sends PINGs and reads no PONG is not read from; others are served, and he gets all once
// he reads.
func TestAPingFloodIsNotReadFrom(t *testing.T) {
	for _, scheme := range []string{"ws", "wss"} {
		srv := serve(t, Config{Loops: 1, Addrs: []string{scheme + "://127.0.0.1:0"}, Socket: Socket{SocketSendBuffer: 8 << 10, SocketRecvBuffer: 8 << 10}, Doors: Doors{TLS: serverTLS(), Deflate: true}}, &funcs{read: echo})
		hello := frame(1, 1, "hello")
		w := upgradeRaw(t, srv, scheme, "")
		ping := bytes.Repeat(wsFrame(0x89, []byte(strings.Repeat("p", 125))), 100)
		sent := 0
		for blocked := false; !blocked; {
			w.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
			n, err := w.Conn.Write(ping)
			if sent += n; err != nil {
				blocked = true
			}
			if sent > 64<<20 {
				t.Fatalf("%s: 64 MiB of PINGs were taken", scheme)
			}
		}
		if n := srv.budget.Used(); n > 1<<20 {
			t.Errorf("%s: %d bytes are held", scheme, n)
		}
		other := upgradeRaw(t, srv, scheme, "")
		other.Conn.Write(wsFrame(0x82, hello))
		if _, b, err := other.next(); err != nil || !bytes.Equal(b, hello) {
			t.Fatalf("%s: another session: %q, %v", scheme, b, err)
		}
		if scheme == "wss" {
			continue // a timeout within a record ends the client's TLS
		}
		w.SetDeadline(time.Now().Add(60 * time.Second))
		pongs := 0
		for ; pongs < sent/131; pongs++ {
			first, b, err := w.next()
			if err != nil || first != 0x8a || len(b) != 125 {
				t.Fatalf("PONG %d of %d: %#x, %d bytes, %v", pongs, sent/131, first, len(b), err)
			}
		}
	}
}
