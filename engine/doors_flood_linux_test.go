package engine

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"testing"
	"time"
)

// helloBytes are what a client with that config begins with.
func helloBytes(cfg *tls.Config) []byte {
	here, there := net.Pipe()
	defer there.Close()
	go tls.Client(here, cfg).Handshake()
	b := make([]byte, 64<<10)
	n, _ := io.ReadAtLeast(there, b, 5)
	return b[:n] // one Write, whole in a pipe
}

// Handshakes that begin and do not go on, many from one address, have the next ones from there begin one by one, or by a
// question that is cheap; who answers it is served, who can't be asked is when it is his turn, his session's ticket holds,
// and other addresses see nothing of it.
func TestHandshakesOfAFloodBeginOneByOne(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"tls://127.0.0.1:0"}, Doors: Doors{TLS: serverTLS(), MaxHandshakes: 32, HandshakeTimeout: 20 * time.Second}}, &funcs{read: echo})
	addr := srv.Addrs()[0].String()
	one := clientTLS.Clone()
	one.CurvePreferences = []tls.CurveID{tls.X25519}
	hello := helloBytes(one)
	begin := func() net.Conn {
		c := must(net.Dial("tcp", addr))
		t.Cleanup(func() { c.Close() })
		c.SetDeadline(time.Now().Add(60 * time.Second))
		c.Write(hello)
		return c
	}
	served := func(what, from string, cfg *tls.Config, asked bool) tls.ConnectionState {
		t.Helper()
		raw, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(60 * time.Second))
		c, want := tls.Client(raw, cfg), frame(1, 1, what)
		c.Write(want)
		got := make([]byte, len(want))
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%s: got %q, %v", what, got, err)
		}
		if state := c.ConnectionState(); state.HelloRetryRequest != asked {
			t.Errorf("%s: asked for another key share: %v, want %v", what, state.HelloRetryRequest, asked)
		}
		return c.ConnectionState()
	}
	ticket := clientTLS.Clone()
	ticket.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	served("before", "127.0.0.1", ticket, false)
	if n := srv.Stats().Doors.Slowed; n != 0 {
		t.Fatalf("%d slowed, and nobody has done anything", n)
	}
	var gone []net.Conn
	for range 30 {
		gone = append(gone, begin())
	}
	for _, c := range gone {
		if _, err := c.Read(make([]byte, 1)); err != nil { // its answer was computed
			t.Fatal(err)
		}
	}
	for _, c := range gone {
		c.Close()
	}
	until(t, "they are gone", func() bool { return srv.Stats().Doors.Opening == 0 })
	before := srv.Stats().Doors.Slowed
	for range 64 {
		begin()
	}
	until(t, "a flood", func() bool { return srv.Stats().Doors.Slowed >= before+64 })
	served("in a flood", "127.0.0.1", clientTLS, true)
	if state := served("with a ticket", "127.0.0.1", ticket, true); !state.DidResume {
		t.Error("the ticket from before is worth nothing now")
	}
	old := clientTLS.Clone()
	old.MaxVersion = tls.VersionTLS12
	served("TLS 1.2", "127.0.0.1", old, false)
	served("another address", "127.0.0.2", clientTLS, false)
	if st := srv.Stats().Doors; st.Asked < 2 || st.Handshakes != 5 || st.Slowed < 67 {
		t.Errorf("got %+v, want 5 handshakes, 2 of those slowed were asked", st)
	}
}

// A client that has sent its FIN in the middle of a handshake holds no descriptor and no memory beyond Stop.
func TestHandshakesWithoutASenderEndWithStop(t *testing.T) {
	cfg := serverTLS()
	cert, hold, asked := &cfg.Certificates[0], make(chan struct{}), make(chan bool, 1)
	cfg.Certificates = nil
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		asked <- true
		<-hold
		return cert, nil
	}
	srv := serve(t, Config{Addrs: []string{"tls://127.0.0.1:0"}, Timeouts: Timeouts{FirstFrameTimeout: Off}, Doors: Doors{TLS: cfg, HandshakeTimeout: time.Hour}}, &funcs{read: echo})
	c := must(net.Dial("tcp", srv.Addrs()[0].String()))
	defer c.Close()
	c.SetDeadline(time.Now().Add(60 * time.Second))
	c.Write(helloBytes(clientTLS))
	<-asked
	c.(*net.TCPConn).CloseWrite()
	time.Sleep(20 * time.Millisecond) // until the FIN is there: nothing tells so from outside
	ended := make(chan error, 1)
	go func() { ended <- srv.Stop(within(t, time.Minute)) }()
	_, err := io.ReadAll(c)
	close(hold)
	if err, ok := err.(net.Error); ok && err.Timeout() {
		t.Error("the socket is open")
	}
	<-ended
}

// Who connects and goes, before or in the middle of a ClientHello, is gone: nothing waits for a handshake that can't come.
func TestWhoGoesBeforeAHandshakeIsGone(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"tls://127.0.0.1:0"}, Timeouts: Timeouts{FirstFrameTimeout: Off}, Doors: Doors{TLS: serverTLS(), HandshakeTimeout: time.Hour}}, &funcs{read: echo})
	hello := helloBytes(clientTLS)
	for _, n := range []int{0, 1, len(hello) / 2} {
		c := must(net.Dial("tcp", srv.Addrs()[0].String()))
		defer c.Close()
		c.SetDeadline(time.Now().Add(60 * time.Second))
		c.Write(hello[:n])
		c.(*net.TCPConn).CloseWrite()
		if _, err := io.ReadAll(c); err != nil {
			t.Errorf("behind %d bytes: %v", n, err)
		}
	}
	until(t, "no handshake is open", func() bool { return srv.Stats().Doors.Opening == 0 })
}
