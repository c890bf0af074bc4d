package engine

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"millrace/codec"
)

// testCert is a certificate for localhost, made once.
var testCert = sync.OnceValue(func() tls.Certificate { return selfSigned("localhost") })

func selfSigned(name string) tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), BasicConstraintsValid: true, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, t, t, &key.PublicKey, key)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func serverTLS() *tls.Config { return &tls.Config{Certificates: []tls.Certificate{testCert()}} }

var clientTLS = &tls.Config{InsecureSkipVerify: true, ServerName: "localhost"}

// dialDoor dials one of the server's URLs as the scheme says; preamble goes in front of all.
func dialDoor(t testing.TB, url, scheme, preamble string) net.Conn {
	t.Helper()
	_, rest, _ := strings.Cut(url, "://")
	network := "tcp"
	if strings.Contains(url, "+unix://") {
		network = "unix"
	}
	raw := func(ctx context.Context, _, _ string) (net.Conn, error) {
		c, err := net.Dial(network, rest)
		if err == nil && preamble != "" {
			_, err = io.WriteString(c, preamble)
		}
		return c, err
	}
	switch scheme {
	case "tcp", "tls":
		c, err := raw(nil, "", "")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if scheme == "tls" {
			return tls.Client(c, clientTLS)
		}
		return c
	}
	hc := &http.Client{Transport: &http.Transport{DialContext: raw, TLSClientConfig: clientTLS}}
	c, resp, err := websocket.Dial(within(t, 20*time.Second), scheme+"://localhost/", &websocket.DialOptions{HTTPClient: hc, Subprotocols: []string{"millrace"}})
	if err != nil {
		t.Fatalf("%s: %v %v", url, err, resp)
	}
	t.Cleanup(func() { c.CloseNow(); hc.CloseIdleConnections() })
	if c.Subprotocol() != "millrace" {
		t.Errorf("subprotocol %q", c.Subprotocol())
	}
	c.SetReadLimit(-1)
	return websocket.NetConn(within(t, 40*time.Second), c, websocket.MessageBinary)
}

// everyDoor has a server listen in every way.
func everyDoor(t testing.TB, cfg *Config) {
	dir := t.TempDir()
	cfg.TLS = serverTLS()
	cfg.Addrs = []string{"tcp://127.0.0.1:0", "tls://127.0.0.1:0", "ws://127.0.0.1:0", "wss://127.0.0.1:0", "auto://127.0.0.1:0"}
	for _, s := range []string{"tls", "ws", "wss", "auto"} {
		cfg.Addrs = append(cfg.Addrs, s+"+unix://"+filepath.Join(dir, s+".sock"))
	}
}

func eachDoor(t *testing.T, srv *Server, fn func(t *testing.T, url, scheme string)) {
	for _, url := range srv.URLs() {
		scheme, _, _ := strings.Cut(url, "://")
		kinds := []string{strings.TrimSuffix(scheme, "+unix")}
		if kinds[0] == "auto" {
			kinds = []string{"tcp", "tls", "ws", "wss"}
		}
		for _, k := range kinds {
			t.Run(scheme+" "+k, func(t *testing.T) { fn(t, url, k) })
		}
	}
}

// A session is the same behind every door: its answers, large and many, its broadcasts, its
// end at the peer's, and what it says that it came through.
func TestSessionsAreTheSameBehindEveryDoor(t *testing.T) {
	for _, d := range []Dispatch{Ordered, Inline} {
		t.Run(d.String(), func(t *testing.T) {
			var srv *Server
			closed := make(chan Reason, 100)
			cfg := Config{Dispatch: d, MaxFrame: 1 << 20, Limits: Limits{MaxOutbound: 4 << 20}}
			everyDoor(t, &cfg)
			srv = serve(t, cfg, &funcs{read: func(s *Session, p codec.Packet) {
				switch p.Sub {
				case 1:
					s.Reply(p, p.Body)
				case 2:
					s.Broadcast(1, 2, p.Body)
				case 3:
					s.Reply(p, []byte(s.Transport()))
				}
			}, close: func(_ *Session, why Reason) { closed <- why }})
			eachDoor(t, srv, func(t *testing.T, url, scheme string) {
				c := dialDoor(t, url, scheme, "")
				c.SetDeadline(time.Now().Add(30 * time.Second))
				r := codec.NewReader(c, must(codec.New(codec.Layout{}, 1<<20)))
				next := func() codec.Packet {
					t.Helper()
					p, err := r.Next()
					if err != nil {
						t.Fatal(err)
					}
					return p
				}
				var out []byte
				for i := range 50 {
					out = append(out, frame(1, 1, strings.Repeat("x", i))...)
				}
				big := strings.Repeat("0123456789abcdef", 60_000)
				out = append(append(append(out, frame(1, 1, big)...), frame(1, 2, "to all")...), frame(1, 3, "")...)
				go c.Write(out)
				for i := range 50 {
					if p := next(); len(p.Body) != i {
						t.Fatalf("answer %d has %d bytes", i, len(p.Body))
					}
				}
				if p := next(); string(p.Body) != big {
					t.Fatalf("the large answer differs: %d bytes", len(p.Body))
				}
				var rest []string
				for len(rest) < 2 {
					rest = append(rest, string(next().Body))
				}
				want := scheme
				if scheme == "tcp" && strings.Contains(url, "+unix") {
					want = "unix"
				}
				if !(rest[0] == "to all" && rest[1] == want || rest[1] == "to all" && rest[0] == want) {
					t.Fatalf("got %q, want the broadcast and %q", rest, want)
				}
				c.Close()
				select {
				case why := <-closed:
					if why != ReasonPeerClosed && why != ReasonPeerReset {
						t.Errorf("closed with %v", why)
					}
				case <-time.After(20 * time.Second):
					t.Error("the session did not close")
				}
			})
		})
	}
}

// A peer that sleeps is pushed back on and gets every byte once it reads again.
func TestSleepersBehindDoorsGetEverything(t *testing.T) {
	cfg := Config{Dispatch: Inline, Socket: Socket{SocketSendBuffer: 8 << 10}, Limits: Limits{MaxOutbound: 64 << 10}}
	everyDoor(t, &cfg)
	srv := serve(t, cfg, &funcs{read: echo})
	eachDoor(t, srv, func(t *testing.T, url, scheme string) {
		c := dialDoor(t, url, scheme, "")
		c.SetDeadline(time.Now().Add(30 * time.Second))
		const n = 400
		body := strings.Repeat("y", 5000)
		go func() {
			for range n {
				if _, err := c.Write(frame(1, 1, body)); err != nil {
					return
				}
			}
		}()
		for end := time.Now().Add(time.Minute); srv.Stats().Loops[0].Pauses+srv.Stats().Loops[1%len(srv.Stats().Loops)].Pauses == 0; {
			if time.Now().After(end) {
				t.Fatal("reading was never paused")
			}
			time.Sleep(5 * time.Millisecond)
		}
		r := codec.NewReader(c, must(codec.New(codec.Layout{}, 0)))
		for i := range n {
			p, err := r.Next()
			if err != nil || string(p.Body) != body {
				t.Fatalf("answer %d: %d bytes, %v", i, len(p.Body), err)
			}
		}
	})
}

// The address in a PROXY header is the session's; a trusted source without one gets none.
func TestProxyHeadersNameThePeer(t *testing.T) {
	cfg := Config{Dispatch: Inline, Doors: Doors{ProxyFrom: []string{"127.0.0.0/8", "unix"}}}
	everyDoor(t, &cfg)
	srv := serve(t, cfg, &funcs{read: func(s *Session, p codec.Packet) {
		s.Reply(p, []byte(s.RemoteAddr().String()))
	}})
	v2 := "\r\n\r\n\x00\r\nQUIT\n\x21\x21\x00\x24" + string(net.ParseIP("2001:db8::1")) + string(net.ParseIP("::1")) + "\x01\xbb\x00\x01"
	for header, want := range map[string]string{"PROXY TCP4 203.0.113.9 127.0.0.1 5000 7000\r\n": "203.0.113.9:5000", v2: "[2001:db8::1]:443"} {
		eachDoor(t, srv, func(t *testing.T, url, scheme string) {
			c := dialDoor(t, url, scheme, header)
			c.SetDeadline(time.Now().Add(20 * time.Second))
			c.Write(frame(1, 1, "who"))
			p, err := codec.NewReader(c, must(codec.New(codec.Layout{}, 0))).Next()
			if err != nil || string(p.Body) != want {
				t.Fatalf("got %q, %v, want %q", p.Body, err, want)
			}
		})
	}
	c := dialDoor(t, srv.URLs()[0], "tcp", "")
	c.SetDeadline(time.Now().Add(20 * time.Second))
	c.Write(frame(1, 1, "no header"))
	if b, err := io.ReadAll(c); len(b) > 0 || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without a header: got %x, %v, want the end", b, err)
	}
	if n := srv.Stats().Doors.BadProxies; n != 1 {
		t.Errorf("counted %d bad headers, want 1", n)
	}
}

// The end of a TLS stream is a FIN: what came before is answered, then the close_notify comes.
func TestCloseNotifyIsAFin(t *testing.T) {
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		srv := serve(t, Config{Addrs: []string{"tls://127.0.0.1:0"}, Doors: Doors{TLS: serverTLS()}}, &funcs{read: func(s *Session, p codec.Packet) {
			time.Sleep(20 * time.Millisecond) // a handler that takes its time
			s.Reply(p, p.Body)
		}})
		raw, err := net.Dial("tcp", srv.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		c := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, MaxVersion: version})
		c.SetDeadline(time.Now().Add(20 * time.Second))
		want := bytes.Repeat(frame(1, 1, "owed"), 5)
		c.Write(want)
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c) // io.EOF only behind a close_notify
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: got %q, %v, want %q and a close_notify", tls.VersionName(version), got, err, want)
		}
		if n := srv.Stats().Doors.Truncated; n != 0 {
			t.Errorf("%d truncated", n)
		}
	}
}

// Half-open handshakes are closed at their deadline or when others want the place, and a
// good client is served meanwhile.
func TestHalfOpenHandshakesHoldNobodyUp(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"tls://127.0.0.1:0"}, Doors: Doors{TLS: serverTLS(), MaxHandshakes: 64, HandshakeTimeout: 2 * time.Second}}, &funcs{read: echo})
	var conns []net.Conn
	for i := range 300 {
		c, err := net.Dial("tcp", srv.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i%2 == 0 {
			c.Write([]byte("\x16\x03\x01\x02\x00\x01\x00")) // half a ClientHello
		}
		conns = append(conns, c)
	}
	good := dialDoor(t, srv.URLs()[0], "tls", "")
	good.SetDeadline(time.Now().Add(30 * time.Second))
	good.Write(frame(1, 1, "served"))
	if _, err := codec.NewReader(good, must(codec.New(codec.Layout{}, 0))).Next(); err != nil {
		t.Fatalf("a good client: %v", err)
	}
	for _, c := range conns {
		c.SetDeadline(time.Now().Add(30 * time.Second))
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Fatal("a half-open handshake got an answer")
		}
	}
	if st := srv.Stats().Doors; st.Shed == 0 || st.Late == 0 {
		t.Errorf("got %+v, want some shed and some late", st)
	}
}

// What a WebSocket client is refused with: a status, an ERROR and a code, each by its rule.
func TestRefusedWebSocketsAreToldWhy(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"ws://127.0.0.1:0/chat"}, Limits: Limits{MaxConns: 1},
		Doors: Doors{OnUpgrade: func(r *http.Request) error {
			if r.URL.Query().Get("token") == "bad" {
				return errors.New("no")
			}
			return nil
		}}}, &funcs{read: echo})
	host := srv.Addrs()[0].String()
	const key = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	ask := func(first, rest string) string {
		c, err := net.Dial("tcp", host)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		io.WriteString(c, first+" HTTP/1.1\r\nHost: "+host+"\r\n"+rest+"\r\n")
		b, _ := io.ReadAll(c)
		return string(b)
	}
	for _, c := range []struct{ first, rest, want string }{
		{"GET /chat", "", "426"},
		{"GET /other", "", "426"},
		{"GET /chat", key + "Sec-WebSocket-Version: 8\r\n", "426"},
		{"GET /chat", "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n", "400"},
		{"POST /chat", key + "Sec-WebSocket-Version: 13\r\n", "426"},
		{"GET /other", key + "Sec-WebSocket-Version: 13\r\n", "404"},
		{"GET /chat", key + "Sec-WebSocket-Version: 13\r\nOrigin: https://evil.example\r\n", "403"},
		{"GET /chat?token=bad", key + "Sec-WebSocket-Version: 13\r\n", "403"},
		{"GET /chat", strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 9) + key, "431"},
		{"nonsense", "", "400"},
	} {
		if got := ask(c.first, c.rest); !strings.HasPrefix(got, "HTTP/1.1 "+c.want+" ") || !strings.Contains(got, "Connection: close") {
			t.Errorf("%s %.60q: got %.60q, want %s", c.first, c.rest, got, c.want)
		}
	}
	for first, rest := range map[string]string{"HEAD /chat": "", "HEAD /other": key + "Sec-WebSocket-Version: 13\r\n", "HEAD /long": strings.Repeat("X: "+strings.Repeat("y", 1000)+"\r\n", 9)} {
		got, like := ask(first, rest), ask("POST"+strings.TrimPrefix(first, "HEAD"), rest)
		if head, body, ok := strings.Cut(like, "\r\n\r\n"); !ok || body == "" || got != head+"\r\n\r\n" {
			t.Errorf("%s: got %q, want what POST gets without the body: %q", first, got, like)
		}
	}
	open := func() *websocket.Conn {
		c, _, err := websocket.Dial(within(t, 20*time.Second), "ws://"+host+"/chat", nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.CloseNow() })
		return c
	}
	first := open()
	first.Write(within(t, 20*time.Second), websocket.MessageBinary, frame(1, 1, "in"))
	if _, b, err := first.Read(within(t, 20*time.Second)); err != nil || !bytes.HasSuffix(b, []byte("in")) {
		t.Fatalf("%q, %v", b, err)
	}
	second := open()
	if _, b, err := second.Read(within(t, 20*time.Second)); err != nil || !bytes.Contains(b, []byte("\x00\x00\x00\x03\x00\x0c")) {
		t.Errorf("over the limit: got %q, %v, want ERROR 12", b, err)
	}
	if _, _, err := second.Read(within(t, 20*time.Second)); websocket.CloseStatus(err) != 1013 {
		t.Errorf("over the limit: got %v, want 1013", err)
	}
	first.Write(within(t, 20*time.Second), websocket.MessageBinary, []byte{0, 0, 0, 1})
	if _, b, err := first.Read(within(t, 20*time.Second)); err != nil || !bytes.Contains(b, []byte("\x00\x00\x00\x03\x00\x01")) {
		t.Errorf("a bad length: got %q, %v, want ERROR 1", b, err)
	}
	if _, _, err := first.Read(within(t, 20*time.Second)); websocket.CloseStatus(err) != 1002 {
		t.Errorf("a bad length: got %v, want 1002", err)
	}
}
