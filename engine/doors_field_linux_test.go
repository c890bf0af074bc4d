package engine

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"millrace/codec"
)

// What clients, proxies and browsers are known to send that other servers have stumbled over.

// A request for a WebSocket is one however it is written and cut, and what stands behind its
// header is the stream; a body is not taken for that.
func TestRequestsForWebSocketsInTheField(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"ws://127.0.0.1:0/chat"}}, &funcs{read: echo})
	const rest = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	const host, asks = "Host: a\r\n", "Connection: Upgrade\r\n" + rest
	one := wsFrame(0x82, frame(1, 1, "behind it"))
	for _, c := range []struct{ name, head, want string }{
		{"Connection in two lines", "GET /chat HTTP/1.1\r\n" + host + "Connection: keep-alive\r\n" + asks, "101"},
		{"Connection in two lines, the other way", "GET /chat HTTP/1.1\r\n" + host + asks + "Connection: keep-alive\r\n", "101"},
		{"a length of none", "GET /chat HTTP/1.1\r\n" + host + asks + "Content-Length: 0\r\n", "101"},
		{"a body", "GET /chat HTTP/1.1\r\n" + host + asks + "Content-Length: 5\r\n", "400"},
		{"a body in chunks", "GET /chat HTTP/1.1\r\n" + host + asks + "Transfer-Encoding: chunked\r\n", "400"},
		{"a body of both kinds", "GET /chat HTTP/1.1\r\n" + host + asks + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "400"},
		{"the whole URL", "GET http://a/chat HTTP/1.1\r\n" + host + asks, "101"},
		{"a large cookie", "GET /chat HTTP/1.1\r\n" + host + asks + "Cookie: " + strings.Repeat("c", 7000) + "\r\n", "101"},
		{"lines that end in LF", strings.ReplaceAll("GET /chat HTTP/1.1\r\n"+host+asks, "\r\n", "\n"), "101"},
		{"HTTP/2 without asking", "PRI * HTTP/2.0\r\n", "400"},
		{"HTTP/1.0", "GET /chat HTTP/1.0\r\n" + host + asks, "426"},
		{"two keys", "GET /chat HTTP/1.1\r\n" + host + asks + "Sec-WebSocket-Key: BBBBBBBBBBBBBBBBBBBBBB==\r\n", "400"},
	} {
		for _, cut := range []int{0, 3, len(c.head) / 2, len(c.head)} { // the first line is not one packet
			nc := must(net.Dial("tcp", srv.Addrs()[0].String()))
			nc.SetDeadline(time.Now().Add(30 * time.Second))
			io.WriteString(nc, c.head[:cut])
			io.WriteString(nc, c.head[cut:]+"\r\n"+string(one))
			got := make([]byte, 12)
			_, err := io.ReadFull(nc, got)
			if err != nil || string(got) != "HTTP/1.1 "+c.want {
				t.Errorf("%s, cut at %d: %q, %v, want %s", c.name, cut, got, err, c.want)
			}
			if c.want == "101" {
				nc.(*net.TCPConn).CloseWrite()
				if b, err := io.ReadAll(nc); err != nil || !bytes.Contains(b, append([]byte{0x82, 17}, frame(1, 1, "behind it")...)) {
					t.Errorf("%s, cut at %d: behind it %q, %v", c.name, cut, b, err)
				}
			}
			nc.Close()
		}
	}
	// Frames behind the header are not of the header, however many there are.
	head := "GET /chat HTTP/1.1\r\n" + host + asks + "X: "
	head += strings.Repeat("y", 8192-4-len(head)) + "\r\n\r\n"
	stream := bytes.Repeat(one, 8000)
	nc := must(net.Dial("tcp", srv.Addrs()[0].String()))
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(30 * time.Second))
	go func() {
		io.WriteString(nc, head[:100])
		nc.Write(append([]byte(head[100:]), stream...))
		nc.(*net.TCPConn).CloseWrite()
	}()
	w := upgraded(t, nc)
	answers := 0
	for {
		first, b, err := w.next()
		if err != nil || first == 0x88 {
			break
		}
		answers += bytes.Count(b, []byte("behind it"))
	}
	if answers != 8000 {
		t.Errorf("%d of 8000 frames behind the header are answered", answers)
	}
}

// Compressed messages as compressors write them that know nothing of the message's end.
func TestCompressedMessagesInTheField(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"ws://127.0.0.1:0"}, Doors: Doors{Deflate: true}}, &funcs{read: echo})
	text := frame(1, 1, strings.Repeat("a message ", 30))
	packed := deflate(text)
	tail := []byte{0, 0, 0xff, 0xff}
	empty := []byte{0}
	for _, c := range []struct {
		name   string
		stream [][]byte
		want   int // answers
	}{
		// RFC 7692, section 7.2.3.6: all is flushed, and then the message turns out to be over.
		{"a flush, and then the end", [][]byte{wsFrame(0x42, append(bytes.Clone(packed), tail...)), wsFrame(0x80, empty)}, 1},
		{"the same with an empty block", [][]byte{wsFrame(0x42, append(bytes.Clone(packed), tail...)), wsFrame(0x80, []byte{2, 0})}, 1},
		{"flushes inside", [][]byte{wsFrame(0x42, append(deflate(text[:20]), tail...)), wsFrame(0x00, append(deflate(text[20:50]), tail...)), wsFrame(0x80, deflate(text[50:]))}, 1},
		{"an empty message between two", [][]byte{wsFrame(0xc2, packed), wsFrame(0xc2, empty), wsFrame(0xc2, packed)}, 2},
		{"one as it is between two", [][]byte{wsFrame(0xc2, packed), wsFrame(0x82, text), wsFrame(0xc2, packed), wsFrame(0x82, text)}, 4},
		{"one as it is, empty", [][]byte{wsFrame(0xc2, packed), wsFrame(0x82, nil), wsFrame(0xc2, packed)}, 2},
		{"a message cut inside a frame", [][]byte{wsFrame(0xc2, deflate(text[:100])), wsFrame(0xc2, deflate(text[100:]))}, 1},
	} {
		stream := append(bytes.Join(c.stream, nil), wsFrame(0x88, []byte{3, 0xe8})...)
		for _, step := range []int{1, 7, len(stream)} {
			w := dialRaw(t, srv, offerDeflate)
			for from := 0; from < len(stream); from += step {
				w.Write(stream[from:min(from+step, len(stream))])
			}
			var got []byte
			for {
				first, b, err := w.next()
				if err != nil {
					t.Fatalf("%s, in steps of %d: %v", c.name, step, err)
				}
				if first == 0x88 {
					if code := binary.BigEndian.Uint16(b); code != 1000 {
						t.Errorf("%s, in steps of %d: closed with %d", c.name, step, code)
					}
					break
				}
				if first&0x40 != 0 {
					b = inflate(t, b)
				}
				got = append(got, b...)
			}
			if !bytes.Equal(got, bytes.Repeat(text, c.want)) {
				t.Errorf("%s, in steps of %d: got %d bytes, want %d answers of %d", c.name, step, len(got), c.want, len(text))
			}
			w.Close()
		}
	}
}

// The code of a close frame arrives although its client goes on sending for a while.
func TestTheCloseCodeReachesWhoSendsOn(t *testing.T) {
	for _, scheme := range []string{"ws", "wss"} {
		srv := serve(t, Config{Addrs: []string{scheme + "://127.0.0.1:0"}, Doors: Doors{TLS: serverTLS()}}, &funcs{read: echo})
		w := upgradeRaw(t, srv, scheme, "")
		w.Write(wsFrame(0x82, frame(1, 1, "asked")))
		w.Write(wsFrame(0x81, []byte("text")))
		for range 12 {
			w.Write(wsFrame(0x82, make([]byte, 64<<10))) // 768 KiB that nobody wants
		}
		if got := w.closing(); got != 1003 {
			t.Errorf("%s: got %d, want 1003", scheme, got)
		}
	}
}

// recordsOf sends a client's first message in records of that many bytes.
type recordsOf struct {
	net.Conn
	size int
	sent bool
}

func (c *recordsOf) Write(b []byte) (int, error) {
	if c.sent {
		return c.Conn.Write(b)
	}
	c.sent = true
	var out []byte
	for body := b[5:]; len(body) > 0; {
		n := min(c.size, len(body))
		out = binary.BigEndian.AppendUint16(append(out, b[:3]...), uint16(n))
		out = append(out, body[:n]...)
		body = body[n:]
	}
	if _, err := c.Conn.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// A ClientHello may come in many records, and then in many packets.
func TestAClientHelloInManyRecords(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"tls://127.0.0.1:0", "auto://127.0.0.1:0"}, Doors: Doors{TLS: serverTLS()}}, &funcs{read: echo})
	hello := frame(1, 1, "hello")
	for _, addr := range srv.Addrs() {
		for _, size := range []int{1, 5, 200} {
			for _, step := range []int{1 << 20, 11} {
				raw := must(net.Dial("tcp", addr.String()))
				raw.SetDeadline(time.Now().Add(30 * time.Second))
				c := tls.Client(&recordsOf{Conn: &pieces{Conn: raw, n: step}, size: size}, clientTLS)
				c.Write(hello)
				expect(t, c, hello)
				raw.Close()
			}
		}
	}
}

// A client of TLS 1.3 that sends and goes has not read the tickets that came to it, so that its
// kernel resets the connection. What it had sent runs.
func TestWhoSendsOverTLSAndGoesIsServed(t *testing.T) {
	for _, d := range []Dispatch{Inline, Ordered} {
		var ran atomic.Int64
		srv := serve(t, Config{Dispatch: d, Addrs: []string{"tls://127.0.0.1:0"}, Doors: Doors{TLS: serverTLS()}}, &funcs{read: func(*Session, codec.Packet) { ran.Add(1) }})
		const clients, each = 40, 5
		for range clients {
			raw := must(net.Dial("tcp", srv.Addrs()[0].String()))
			raw.SetDeadline(time.Now().Add(30 * time.Second))
			c := tls.Client(raw, clientTLS)
			if err := c.Handshake(); err != nil {
				t.Fatal(err)
			}
			c.Write(bytes.Repeat(frame(1, 1, "x"), each))
			c.CloseWrite()
			raw.Close()
		}
		for end := time.Now().Add(20 * time.Second); ran.Load() < clients*each; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%v: %d of %d requests ran", d, ran.Load(), clients*each)
			}
		}
	}
}

// A session to which nothing was ever sent goes on, and again, and one whose frames of a long
// time are all acknowledged.
func TestSessionsGoOnWithNothingToSendAgain(t *testing.T) {
	h := newResumable()
	cfg := resumeConfig("tcp://127.0.0.1:0")
	cfg.ResumeBytes = 8 << 10
	srv := serve(t, cfg, h)
	p := hello(t, srv)
	for range 4 {
		p.close()
		waiting(t, srv, 1)
		p.reconnect(t)
	}
	for n := 1; n <= 3; n++ { // many times what the ring holds
		for i := range 100 {
			p.ask(1, 1, strings.Repeat("x", 1000))
			if p.want(t, len(p.got)+1); i%4 == 3 {
				p.ackNow(t)
			}
		}
		for range 3 {
			p.close()
			waiting(t, srv, 1)
			p.reconnect(t)
		}
		p.ask(1, 1, fmt.Sprint("round ", n))
		p.want(t, len(p.got)+1)
		if last := p.got[len(p.got)-1]; string(last.Body) != fmt.Sprint("round ", n) {
			t.Fatalf("got %q", last.Body)
		}
	}
	if st := srv.Stats(); st.Resumed != 13 || st.Conns != 1 || h.ran.Load() != 303 {
		t.Errorf("%d resumed, %d sessions, %d requests ran", st.Resumed, st.Conns, h.ran.Load())
	}
}

// Bytes that begin like an older TLS, and HTTP in the clear, end an address that wants TLS: no
// session is seen, and nothing waits for its time to be over.
func TestOldHellosAndPlainRequestsOnTLS(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"tls://127.0.0.1:0", "wss://127.0.0.1:0"}, Timeouts: Timeouts{FirstFrameTimeout: time.Minute}, Doors: Doors{TLS: serverTLS(), HandshakeTimeout: time.Minute}}, &funcs{read: echo})
	ssl2 := "\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + strings.Repeat("x", 37)
	for i, addr := range srv.Addrs() {
		for _, b := range []string{ssl2, askUpgrade + "\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n", string(frame(1, 1, "a frame")) + "more"} {
			nc := must(net.Dial("tcp", addr.String()))
			nc.SetDeadline(time.Now().Add(30 * time.Second))
			io.WriteString(nc, b)
			if got, err := io.ReadAll(nc); errors.Is(err, os.ErrDeadlineExceeded) || len(got) > 7 {
				t.Errorf("address %d, %.10q: got %q, %v, want an alert at most, and the end", i, b, got, err)
			}
			nc.Close()
		}
	}
	until(t, "all have failed", func() bool { return srv.Stats().Doors.BadHandshakes == 8 })
	if n := srv.Stats().Accepts; n != 0 {
		t.Errorf("%d sessions", n)
	}
}

// Networks are what they are in either way of writing IPv4, and what would match nothing is
// refused.
func TestNetworksAndOriginsThatMatchNothing(t *testing.T) {
	for network, want := range map[string]bool{"10.0.0.0/8": true, "10.1.2.3": true, "::ffff:10.0.0.0/104": true, "::ffff:10.1.2.3": true, "::/0": false, "11.0.0.0/8": false} {
		for _, ip := range []string{"10.1.2.3", "::ffff:10.1.2.3"} {
			if got := sources([]string{network}).Has(&net.TCPAddr{IP: net.ParseIP(ip)}); got != want {
				t.Errorf("%s has %s: %v", network, ip, got)
			}
		}
	}
	for origin, ok := range map[string]bool{"*": true, "https://example.com": true, "https://example.com/": true, "http://[::1]:8080": true, "example.com": true, "example.com:8443": true, "[::1]": true,
		"*.example.com": false, "https://*.example.com": false, "null": false, "example.com:99999": false, "https://example.com:0": false, "https://example.com/a": false, "example.com/": false, "https://": false, "a b": false, "https://u@example.com": false, "https://example.com?x": false} {
		if err := (Config{Addrs: []string{"tcp://:0"}, Doors: Doors{Origins: []string{origin}}}).WithDefaults().validate(); (err == nil) != ok {
			t.Errorf("%s: %v", origin, err)
		}
	}
}
