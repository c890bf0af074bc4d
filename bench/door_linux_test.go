//go:build linux

package bench

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// testTLS has a certificate made for this run.
func testTLS(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// upgraded is a listener whose connections have become WebSockets, by a library that is not ours.
type upgraded struct {
	net.Listener
	server *http.Server
	conns  chan net.Conn
	done   chan struct{}
	once   sync.Once
}

func upgrade(t *testing.T, l net.Listener) net.Listener {
	u := &upgraded{Listener: l, conns: make(chan net.Conn), done: make(chan struct{})}
	u.server = &http.Server{Handler: u}
	var all sync.WaitGroup
	all.Go(func() { _ = u.server.Serve(l) })
	t.Cleanup(all.Wait)
	return u
}

func (u *upgraded) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	c.SetReadLimit(-1)
	select {
	case u.conns <- websocket.NetConn(context.Background(), c, websocket.MessageBinary):
	case <-u.done:
	}
}

func (u *upgraded) Accept() (net.Conn, error) {
	select {
	case c := <-u.conns:
		return c, nil
	case <-u.done:
		return nil, net.ErrClosed
	}
}

func (u *upgraded) Close() error {
	u.once.Do(func() { close(u.done) })
	return u.server.Close()
}

// behindDoor is a fake server's target behind a door.
func behindDoor(t *testing.T, door string, answer reply) Target {
	t.Helper()
	l := listenLocal(t)
	if door == doorTLS || door == doorWSS {
		l = tls.NewListener(l, testTLS(t))
	}
	if door == doorWS || door == doorWSS {
		l = upgrade(t, l)
	}
	s := startFakeOn(t, l, answer)
	return Target{Name: "fake", Addr: door + "://" + s.addr, PID: os.Getpid()}
}

func TestServersBehindDoorsAreMeasured(t *testing.T) {
	for _, spec := range []string{
		"tls-echo/7x5/1000", "tls-echo/3x2/40KiB", "tls-broadcast/6x3", "tls-churn/5",
		"ws-echo/7x5/1000", "ws-echo/3x2/40KiB", "ws-broadcast/6x3", "ws-churn/5", "ws-echo/4@2000", "wss-echo/3x2/40KiB",
	} {
		t.Run(spec, func(t *testing.T) {
			door, _, _ := strings.Cut(spec, "-")
			r := measureFake(t, behindDoor(t, door, honest), spec)
			if r.Error != "" || r.Skipped != "" || r.Messages == 0 || r.Verified < r.Messages || r.Latency == nil || r.CPU == nil {
				t.Fatalf("got %+v", r)
			}
		})
	}
}

func TestIdleMemoryBehindADoor(t *testing.T) {
	r := measureFake(t, behindDoor(t, doorWSS, honest), "wss-idle/50")
	if r.Error != "" || r.Memory == nil || r.Verified != 50 {
		t.Errorf("got %+v", r)
	}
}

func TestBroadcastsReachEveryDoor(t *testing.T) {
	// Two doors of one server: what comes in by either goes out by both.
	var parts []*fakeServer
	answer := func(s *fakeServer, c *fakeConn, h uint32, b []byte) {
		if h != handleBroadcast {
			honest(s, c, h, b)
			return
		}
		for _, part := range parts {
			part.broadcast(b)
		}
	}
	plain := startFake(t, answer)
	socket := startFakeOn(t, upgrade(t, listenLocal(t)), answer)
	parts = []*fakeServer{plain, socket} // before anybody connects
	target := Target{Name: "fake", Addr: "tcp://" + plain.addr + ",ws://" + socket.addr, PID: os.Getpid()}
	r := measureFake(t, target, "tcp+ws-broadcast/6x2")
	if r.Error != "" || r.Messages == 0 {
		t.Errorf("got %+v", r)
	}
	plain.mu.Lock()
	defer plain.mu.Unlock()
	socket.mu.Lock()
	defer socket.mu.Unlock()
	if a, b := len(plain.conns), len(socket.conns); a != b || a == 0 {
		t.Errorf("one door has %d connections, the other %d, want as many", a, b)
	}
}

func TestLiesAreCaughtBehindDoors(t *testing.T) {
	corrupt := lieAt(9, func(_ *fakeServer, c *fakeConn, h uint32, b []byte) {
		b[40] ^= 1
		c.send(h, b)
	})
	for _, door := range []string{doorTLS, doorWS, doorWSS} {
		if r := measureFake(t, behindDoor(t, door, corrupt), door+"-echo/3x4"); !strings.Contains(r.Error, "corrupt") {
			t.Errorf("%s: got error %q, want one that says corrupt", door, r.Error)
		}
	}
}

func TestATargetWithoutTheDoorIsSkipped(t *testing.T) {
	for _, spec := range []string{"tls-echo/2", "tcp+ws-echo/2", "flood/2@100/g2"} {
		r := measureFake(t, startFake(t, honest).target(), spec)
		if !strings.HasPrefix(r.Skipped, noDoor) || r.Error != "" {
			t.Errorf("%s: got skipped %q, error %q", spec, r.Skipped, r.Error)
		}
	}
}

// answerByHand takes one WebSocket by hand: it answers the upgrade, then sends after, byte by byte where split.
func answerByHand(t *testing.T, answer func(key string) string, after func(c net.Conn, rd *bufio.Reader)) Target {
	l := listenLocal(t)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				rd := bufio.NewReader(c)
				r, err := http.ReadRequest(rd)
				if err != nil {
					return
				}
				if _, err := io.WriteString(c, answer(r.Header.Get("Sec-WebSocket-Key"))); err == nil {
					after(c, rd)
				}
			})
		}
	})
	t.Cleanup(func() { l.Close(); all.Wait() })
	return Target{Name: "fake", Addr: "ws://" + l.Addr().String(), PID: os.Getpid()}
}

func accepts(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " +
		base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"
}

func TestWrongWebSocketsAreCaught(t *testing.T) {
	says := func(b ...byte) func(net.Conn, *bufio.Reader) {
		return func(c net.Conn, rd *bufio.Reader) {
			_, _ = c.Write(b)
			_, _ = io.Copy(io.Discard, rd)
		}
	}
	cases := []struct {
		name, want string
		answer     func(string) string
		after      func(net.Conn, *bufio.Reader)
	}{
		{"no upgrade", "404 Not Found", func(string) string { return "HTTP/1.1 404 Not Found\r\n\r\n" }, says()},
		{"another key's accept", "no Sec-WebSocket-Accept", func(string) string { return accepts("dGhlIHNhbXBsZSBub25jZQ==") }, says()},
		{"an endless answer", "over 8192 bytes", func(string) string { return "HTTP/1.1 101 X\r\nX: " + strings.Repeat("x", 10000) }, says()},
		{"a masked frame", "masked", accepts, says(0x82, 0x81, 0, 0, 0, 0, 1)},
		{"a reserved bit", "reserved", accepts, says(0xC2, 0x01, 1)},
		{"text", "opcode 1", accepts, says(0x81, 0x01, 'x')},
		{"a continuation of nothing", "opcode 0", accepts, says(0x80, 0x01, 'x')},
		{"a message inside of one", "opcode 2", accepts, says(0x02, 0x00, 0x82, 0x00)},
		{"a long PING", "no short final one", accepts, says(0x89, 0x7E, 0, 200)},
		{"an unknown control frame", "opcode 11", accepts, says(0x8B, 0x00)},
		{"a huge frame", "WebSocket frame of", accepts, says(0x82, 0x7F, 0, 0, 0, 0, 0x80, 0, 0, 0)},
		{"a close frame", `closed the WebSocket with 1013 "later"`, accepts, says(0x88, 0x07, 0x03, 0xF5, 'l', 'a', 't', 'e', 'r')},
		{"not our frames", "frame of length", accepts, says(0x82, 0x08, 0xff, 0, 0, 0, 0, 1, 0, 1)},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			w, _ := ParseWorkload("ws-echo/1")
			r := measure(t.Context(), answerByHand(t, c.answer, c.after), w, timing{10 * time.Millisecond, 50 * time.Millisecond}, false, 1)
			if !strings.Contains(r.Error, c.want) {
				t.Errorf("got error %q, want one with %q", r.Error, c.want)
			}
		})
	}
}

func TestFragmentsAndPINGsAreUnderstood(t *testing.T) {
	// What the generator gets: a PING, and each reply in three fragments with a PING between, a byte a segment.
	got := make(chan string, 100)
	target := answerByHand(t, accepts, func(c net.Conn, rd *bufio.Reader) {
		for {
			op, payload, err := readMasked(rd)
			if err != nil {
				return
			}
			if op == opPong {
				select {
				case got <- string(payload):
				default:
				}
				continue
			}
			out := []byte{0x89, 2, 'h', 'i', 0x02, 3}
			out = append(append(out, payload[:3]...), 0x89, 3, 'y', 'o', 'u', 0x00, 0, 0x80, 126, 0, byte(len(payload)-3))
			for _, b := range append(out, payload[3:]...) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
			}
		}
	})
	r := measureFake(t, target, "ws-echo/1x1/100")
	if r.Error != "" || r.Messages == 0 {
		t.Fatalf("got %+v", r)
	}
	var pongs []string
	for range 4 {
		select {
		case s := <-got:
			pongs = append(pongs, s)
		case <-time.After(time.Minute):
			t.Fatalf("got the PONGs %q only", pongs)
		}
	}
	if !slices.Equal(pongs, []string{"hi", "you", "hi", "you"}) {
		t.Errorf("got the PONGs %q", pongs)
	}
}

// readMasked reads a client's frame as RFC 6455 says, byte by byte.
func readMasked(rd *bufio.Reader) (op byte, payload []byte, err error) {
	var head [14]byte
	if _, err = io.ReadFull(rd, head[:2]); err != nil {
		return 0, nil, err
	}
	if head[0]&0xF0 != 0x80 || head[1]&0x80 == 0 {
		return 0, nil, io.ErrNoProgress // fragmented, or not masked
	}
	n := int(head[1] & 0x7f)
	if n == 126 {
		if _, err = io.ReadFull(rd, head[2:4]); err != nil {
			return 0, nil, err
		}
		n = int(head[2])<<8 | int(head[3])
	}
	mask := head[10:14]
	if _, err = io.ReadFull(rd, mask); err != nil {
		return 0, nil, err
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(rd, payload)
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return head[0] & 0xf, payload, err
}

func TestMasksAreThoseOfTheRFC(t *testing.T) {
	b := []byte("Hello") // section 5.7: the mask 37 fa 21 3d
	xorMask(b, 0x3d21fa37)
	if string(b) != "\x7f\x9f\x4d\x51\x58" {
		t.Errorf("got % x", b)
	}
	for n := range 40 {
		long := make([]byte, n)
		xorMask(long, 0x04030201)
		for i, x := range long {
			if int(x) != i%4+1 {
				t.Fatalf("byte %d of %d was masked with %d", i, n, x)
			}
		}
	}
}

func TestAFloodStandsHalfOpen(t *testing.T) {
	const slots = 12
	var mu sync.Mutex
	standing, most, hellos := 0, 0, 0
	secure := testTLS(t)
	hello := make(chan struct{}, 1000)
	secure.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
		hello <- struct{}{}
		return nil, nil
	}
	l := listenLocal(t)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer c.Close()
				mu.Lock()
				hellos++
				sheds := hellos <= 3 // these are ended by the server
				standing++
				most = max(most, standing)
				mu.Unlock()
				defer func() { mu.Lock(); standing--; mu.Unlock() }()
				if sheds {
					_ = c.SetDeadline(time.Now().Add(20 * time.Millisecond))
				}
				if err := tls.Server(c, secure).Handshake(); err == nil {
					t.Error("a handshake of the flood was finished")
				}
			})
		}
	})
	plain := startFake(t, honest)
	target := Target{Name: "fake", Addr: "tcp://" + plain.addr + ",tls://" + l.Addr().String(), PID: os.Getpid()}
	r := measureFake(t, target, "flood/3@500/g12")
	l.Close()
	all.Wait()
	if r.Error != "" || r.Messages == 0 || len(r.Streams) != 2 {
		t.Fatalf("got %+v", r)
	}
	if most < slots || most > slots+3 || len(hello) < slots+3 {
		t.Errorf("%d stood at once of %d, and %d sent a ClientHello; want all, and 3 more in place of those that the server ended", most, slots, len(hello))
	}
}
