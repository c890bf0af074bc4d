package engine

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/codec"
)

// until polls for what must come true.
func until(t testing.TB, what string, fn func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !fn(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in 30 s: %s", what)
		}
	}
}

// A slow consumer that has part of a message gets the rest of it and then 1008, if it reads
// within Linger; what it was sent beyond that is dropped.
func TestASlowConsumerHears1008(t *testing.T) {
	for _, scheme := range []string{"ws", "wss"} {
		for _, deflated := range []bool{false, true} {
			t.Run(fmt.Sprint(scheme, deflated), func(t *testing.T) {
				noise := make([]byte, 50_000)
				for i := range noise {
					noise[i] = byte(i*i>>3 ^ i*7)
				}
				asked := make(chan *Session, 1)
				srv := serve(t, Config{Addrs: []string{scheme + "://127.0.0.1:0"}, Socket: Socket{SocketSendBuffer: 8 << 10}, Limits: Limits{MaxOutbound: 256 << 10},
					Timeouts: Timeouts{Linger: time.Minute}, Doors: Doors{TLS: serverTLS(), Deflate: deflated}},
					&funcs{read: func(s *Session, p codec.Packet) {
						s.Reply(p, nil)
						asked <- s
					}})
				raw, err := (&net.Dialer{Control: smallWindow}).Dial("tcp", srv.Addrs()[0].String())
				if err != nil {
					t.Fatal(err)
				}
				defer raw.Close()
				raw.SetDeadline(time.Now().Add(60 * time.Second))
				nc := raw
				if scheme == "wss" {
					nc = tls.Client(raw, clientTLS)
				}
				offer := ""
				if deflated {
					offer = offerDeflate + "\r\n"
				}
				w := upgradeConn(t, nc, offer)
				nc.Write(wsFrame(0x82, frame(1, 1, "")))
				s := <-asked
				until(t, "a slow consumer", func() bool {
					s.Push(1, 2, noise) // compressed, many may be on their way
					return srv.Stats().Closes[ReasonSlowConsumer] == 1
				})
				var data []byte
				for {
					first, body, err := w.next()
					if err != nil {
						t.Fatalf("behind %d bytes: %v", len(data), err)
					}
					if first == 0x88 {
						if got := binary.BigEndian.Uint16(body); got != 1008 {
							t.Errorf("got %d, want 1008", got)
						}
						break
					}
					data = append(data, body...)
				}
				if deflated {
					return // it may end between two fragments
				}
				one := frame(1, 2, string(noise))
				if data = bytes.TrimPrefix(data, frame(1, 1, "")); len(data)%len(one) != 0 || !bytes.HasPrefix(data, one) && len(data) > 0 {
					t.Errorf("%d bytes in front of the close frame, want whole frames of %d", len(data), len(one))
				}
				until(t, "bytes dropped", func() bool { return srv.Stats().LostBytes > 0 })
			})
		}
	}
}

// Who stops in the middle of a TLS record or of a WebSocket header has FrameTimeout, however
// quiet he was allowed to be; who stops between two has not.
func TestHalfRecordsAndHeadersHaveATime(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"tls://127.0.0.1:0", "ws://127.0.0.1:0", "wss://127.0.0.1:0"}, Timeouts: Timeouts{FrameTimeout: 400 * time.Millisecond},
		Doors: Doors{TLS: serverTLS(), Deflate: true}}, &funcs{read: echo})
	hello := frame(1, 1, "hello")
	open := func(nc net.Conn) *rawWS {
		w := upgradeConn(t, nc, offerDeflate+"\r\n")
		nc.Write(wsFrame(0x82, hello))
		if _, b, err := w.next(); err != nil || !bytes.Equal(b, hello) {
			t.Fatal(b, err)
		}
		return w
	}
	whole := dialDoor(t, srv.URLs()[0], "tls", "") // stands between two records
	whole.SetDeadline(time.Now().Add(60 * time.Second))
	whole.Write(hello)
	expect(t, whole, hello)
	between := open(must(net.Dial("tcp", srv.Addrs()[1].String()))) // and between two headers
	defer between.Close()
	between.Write(wsFrame(0x02, hello)) // in the middle of a message
	if _, b, err := between.next(); err != nil || !bytes.Equal(b, hello) {
		t.Fatal(b, err)
	}

	for _, i := range []int{0, 2} { // half a record
		pipe := &halfConn{Conn: must(net.Dial("tcp", srv.Addrs()[i].String()))}
		defer pipe.Close()
		pipe.SetDeadline(time.Now().Add(60 * time.Second))
		c := tls.Client(pipe, clientTLS)
		if i == 0 {
			c.Write(hello)
			expect(t, c, hello)
			pipe.half = true
			c.Write(hello)
			b, err := io.ReadAll(c)
			if err != nil || !bytes.Contains(b, []byte("\x00\x00\x00\x03\x00\x05")) {
				t.Errorf("half a record: got %q, %v, want ERROR 5 and the end", b, err)
			}
			continue
		}
		w := open(c)
		pipe.half = true
		w.Write(wsFrame(0x82, hello))
		if got := w.closing(); got != 1008 {
			t.Errorf("half a record of a WebSocket: got %d, want 1008", got)
		}
	}
	packed := deflate([]byte(strings.Repeat("a frame that does not end ", 50)))
	for name, b := range map[string][]byte{
		"half a header": {0x82}, "half a length": {0x82, 0xfe, 1}, "half a mask": {0x82, 0x85, 1, 2}, "half a PING": {0x89, 0x85, 0, 0, 0, 0, 'x'},
		"half a compressed message": wsFrame(0x42, packed[:5]),
	} {
		w := open(must(net.Dial("tcp", srv.Addrs()[1].String())))
		defer w.Close()
		w.SetDeadline(time.Now().Add(60 * time.Second))
		w.Write(b)
		if got := w.closing(); got != 1008 {
			t.Errorf("%s: got %d, want 1008", name, got)
		}
	}
	whole.Write(hello)
	expect(t, whole, hello)
	between.SetDeadline(time.Now().Add(60 * time.Second))
	between.Write(wsFrame(0x80, hello))
	if _, b, err := between.next(); err != nil || !bytes.Equal(b, hello) {
		t.Errorf("between two frames: %q, %v", b, err)
	}
	if n := srv.Stats().Closes[ReasonFrame]; n != 7 {
		t.Errorf("%d closed for half of something, want 7", n)
	}
}

// halfConn writes the first half only of what it is given.
type halfConn struct {
	net.Conn
	half bool
}

func (c *halfConn) Write(b []byte) (int, error) {
	if c.half {
		_, err := c.Conn.Write(b[:len(b)/2])
		return len(b), err
	}
	return c.Conn.Write(b)
}

// While as many handshakes as MaxHandshakes are worked at the next is not read, and is served
// when its turn comes.
func TestHandshakesWaitUnread(t *testing.T) {
	hold := make(chan struct{})
	cfg := serverTLS()
	cert := &cfg.Certificates[0]
	cfg.Certificates = nil
	cfg.GetCertificate = func(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
		<-hold
		return cert, nil
	}
	srv := serve(t, Config{Addrs: []string{"tls://127.0.0.1:0"}, Doors: Doors{TLS: cfg, MaxHandshakes: 2, HandshakeTimeout: time.Minute}}, &funcs{read: echo})
	hello := frame(1, 1, "hello")
	done := make(chan error, 8)
	begin := func() {
		c := dialDoor(t, srv.URLs()[0], "tls", "")
		c.SetDeadline(time.Now().Add(60 * time.Second))
		go func() {
			c.Write(hello)
			_, err := io.ReadFull(c, make([]byte, len(hello)))
			done <- err
		}()
	}
	begin()
	begin()
	until(t, "two handshakes are worked at", func() bool { return srv.budget.Used() > 0 && srv.Stats().Doors.Handshaking == 2 })
	time.Sleep(20 * time.Millisecond) // both hellos are there: nothing tells so from outside
	before := srv.budget.Used()
	for range 6 {
		begin()
	}
	until(t, "the others are open", func() bool { return srv.Stats().Doors.Handshaking == 8 })
	if n := srv.budget.Used(); n != before {
		t.Errorf("%d bytes are held of handshakes, %d with two: the others were read", n, before)
	}
	close(hold)
	for range 8 {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	if st := srv.Stats().Doors; st.Shed != 0 || st.Handshakes != 8 {
		t.Errorf("got %+v, want 8 done and none shed", st)
	}
}

// One address begins HandshakeRate in a second: more wait, and those for which that would
// be too long are closed; another address is not held up.
func TestHandshakesHaveARate(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"tls://127.0.0.1:0"}, Doors: Doors{TLS: serverTLS(), HandshakeRate: 5, HandshakeTimeout: time.Second}}, &funcs{read: echo})
	hello := frame(1, 1, "hello")
	done := make(chan error, 64)
	began := time.Now()
	begin := func(from string) {
		raw, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).Dial("tcp", srv.Addrs()[0].String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { raw.Close() })
		raw.SetDeadline(time.Now().Add(30 * time.Second))
		go func() {
			c := tls.Client(raw, clientTLS)
			c.Write(hello)
			_, err := io.ReadFull(c, make([]byte, len(hello)))
			done <- err
		}()
	}
	for range 30 {
		begin("127.0.0.1")
	}
	good := 0
	for range 30 {
		if err := <-done; err == nil {
			good++
		}
	}
	// Five at once, and five for each second of the timeout and of the dialing.
	if most := 5 + int(5*(time.Since(began)+time.Second)/time.Second); good < 5 || good > most {
		t.Errorf("%d of 30 were served in %v, want 5 to %d", good, time.Since(began), most)
	}
	if n := srv.Stats().Doors.Limited; n == 0 {
		t.Error("none was refused")
	}
	begin("127.0.0.2")
	if err := <-done; err != nil {
		t.Errorf("another address: %v", err)
	}
}

// During a drain a request for a WebSocket gets 503, and a frame ERROR 7.
func TestUpgradesDuringADrain(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"ws://127.0.0.1:0"}}, &funcs{read: echo})
	stay := dialRaw(t, srv)
	stay.Write(wsFrame(0x82, frame(1, 1, "x")))
	if _, _, err := stay.next(); err != nil {
		t.Fatal(err)
	}
	nc := must(net.Dial("tcp", srv.Addrs()[0].String())) // accepted before the drain
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	io.WriteString(nc, "GET / HTTP/1.1\r\nHost: localhost\r\n")
	until(t, "the request is open", func() bool { return srv.Stats().Doors.Opening == 1 })
	srv.draining.Store(true) // as Stop does first
	io.WriteString(nc, "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	if b, err := io.ReadAll(nc); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 503 ") || !strings.Contains(string(b), "Connection: close") {
		t.Errorf("got %.60q, %v, want 503", b, err)
	}
	srv.draining.Store(false)
}

// Of several faults of a request the first of 431, 400, 426, 404 and 403 is told.
func TestTheFirstFaultIsTold(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"ws://127.0.0.1:0/chat"}}, &funcs{read: echo})
	const asks = "Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n"
	const key = "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	const evil = "Origin: http://evil.example\r\n"
	const v13, v8 = "Sec-WebSocket-Version: 13\r\n", "Sec-WebSocket-Version: 8\r\n"
	pad := "X: " + strings.Repeat("y", 9000) + "\r\n"
	for _, c := range []struct{ request, want string }{
		{"GET /other HTTP/1.1\r\nHost: a\r\n" + asks + v8 + evil + pad, "431"},
		{"POST /other HTTP/1.1\r\nHost: a\r\n" + asks + v8 + evil, "400"}, // no key
		{"GET /other HTTP/1.1\r\nHost: a\r\n" + asks + v8 + evil + "Sec-WebSocket-Key: AAAA\r\n", "400"},
		{"GET /other HTTP/1.1\r\n" + asks + v8 + key, "400"}, // no Host
		{"GET /other HTTP/1.1\r\nHost: a\r\n" + asks + v8 + key + evil, "426"},
		{"PUT /other HTTP/1.1\r\nHost: a\r\n" + asks + v13 + key + evil, "426"},
		// What may be there once is there twice, as two lines or as one.
		{"GET /chat HTTP/1.1\r\nHost: a\r\nHost: a\r\n" + asks + v13 + key, "400"},
		{"GET /chat HTTP/1.1\r\nHost: a\r\n" + asks + v13 + key + key, "400"},
		{"GET /chat HTTP/1.1\r\nHost: a\r\n" + asks + v13 + v8 + key, "426"},
		{"GET /chat HTTP/1.1\r\nHost: a\r\n" + asks + v13 + v13 + key, "426"},
		{"GET /chat HTTP/1.1\r\nHost: a\r\n" + asks + "Sec-WebSocket-Version: 13, 8\r\n" + key, "426"},
		{"GET /chat HTTP/1.1\r\nHost: a\r\n" + asks + v13 + key + "Origin: http://a\r\nOrigin: http://a\r\n", "403"},
		// What is a list may come in several lines.
		{"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nUpgrade: WebSocket\r\n" + v13 + key, "101"},
		{"GET /other HTTP/1.1\r\nHost: a\r\n" + evil, "426"},                                      // asks for nothing
		{"GET /other HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n" + v13 + evil, "426"},          // nor here
		{"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n" + v13, "426"}, // for something else
		{"GET /other HTTP/1.1\r\nHost: a\r\n" + asks + v13 + key + evil, "404"},
		{"GET /chat/ HTTP/1.1\r\nHost: a\r\n" + asks + v13 + key, "404"},
		{"GET /chat?x=/other HTTP/1.1\r\nHost: a\r\n" + asks + v13 + key + evil, "403"},
		{"GET /chat HTTP/1.1\r\nHost: a\r\n" + asks + v13 + key + "Origin: https://a\r\n", "403"}, // 443 is not 80
		{"GET /chat HTTP/1.1\r\nHost: a\r\n" + asks + v13 + key + "Origin: null\r\n", "403"},
		{"GET /chat HTTP/1.1\r\nHost: A:80\r\n" + asks + v13 + key + "Origin: http://a\r\n", "101"},
		{"GET /chat HTTP/1.1\r\nHost: a\r\n" + asks + v13 + key + "Origin: HTTP://A:80\r\n", "101"},
		{"GET /chat?token=1 HTTP/1.1\r\nHost: a\r\n" + asks + v13 + key, "101"},
	} {
		nc := must(net.Dial("tcp", srv.Addrs()[0].String()))
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(30 * time.Second))
		io.WriteString(nc, c.request+"\r\n")
		got, err := bufio.NewReader(nc).ReadString('\n')
		if err != nil || !strings.HasPrefix(got, "HTTP/1.1 "+c.want+" ") {
			t.Errorf("%.70q: got %q, %v, want %s", c.request, got, err, c.want)
		}
	}
	long := "GET /chat HTTP/1.1\r\nHost: a\r\n" + asks + v13 + key
	for n, want := range map[int]string{8192: "101", 8193: "431"} { // the empty line included
		nc := must(net.Dial("tcp", srv.Addrs()[0].String()))
		defer nc.Close()
		nc.SetDeadline(time.Now().Add(30 * time.Second))
		io.WriteString(nc, long+"X: "+strings.Repeat("y", n-len(long)-7)+"\r\n\r\n")
		if got, err := bufio.NewReader(nc).ReadString('\n'); err != nil || !strings.HasPrefix(got, "HTTP/1.1 "+want+" ") {
			t.Errorf("a header of %d bytes: got %q, %v, want %s", n, got, err, want)
		}
	}
}

// smallWindow gives a client's socket little room for what it does not read.
func smallWindow(_, _ string, raw syscall.RawConn) error {
	var err error
	if e := raw.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 8<<10) }); e != nil {
		return e
	}
	return err
}
