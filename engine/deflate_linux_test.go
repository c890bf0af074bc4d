package engine

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"millrace/codec"
)

// rawWS is a WebSocket client that sends what it is told to, right or wrong.
type rawWS struct {
	net.Conn
	r    *bufio.Reader
	t    testing.TB
	head http.Header // of the answer to the upgrade
}

// dialRaw opens a WebSocket; the headers are added to the request.
func dialRaw(t testing.TB, srv *Server, headers ...string) *rawWS {
	t.Helper()
	return upgradeRaw(t, srv, "ws", strings.Join(append(headers, ""), "\r\n"))
}

// upgradeRaw opens a WebSocket over TLS or without it; the headers are added to the request.
func upgradeRaw(t testing.TB, srv *Server, scheme, headers string) *rawWS {
	t.Helper()
	nc := dialDoor(t, srv.URLs()[0], map[string]string{"ws": "tcp", "wss": "tls"}[scheme], "")
	nc.SetDeadline(time.Now().Add(60 * time.Second))
	return upgradeConn(t, nc, headers)
}

// upgradeConn opens a WebSocket on a connection.
func upgradeConn(t testing.TB, nc net.Conn, headers string) *rawWS {
	t.Helper()
	io.WriteString(nc, askUpgrade+headers+"\r\n")
	return upgraded(t, nc)
}

// askUpgrade is a request for a WebSocket without the empty line behind it.
const askUpgrade = "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
	"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"

// upgraded reads the answer to a request that has been sent.
func upgraded(t testing.TB, nc net.Conn) *rawWS {
	t.Helper()
	c := &rawWS{Conn: nc, r: bufio.NewReaderSize(nc, 1<<16), t: t}
	resp, err := http.ReadResponse(c.r, nil)
	if err != nil || resp.StatusCode != 101 {
		t.Fatalf("upgrade: %v, %v", resp, err)
	}
	c.head = resp.Header
	return c
}

const offerDeflate = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"

// wsFrame is a client's frame, with a mask of zeros; first is its first byte.
func wsFrame(first byte, body []byte) []byte {
	b := []byte{first}
	switch n := len(body); {
	case n <= 125:
		b = append(b, 0x80|byte(n))
	case n <= 0xffff:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	return append(append(b, 0, 0, 0, 0), body...)
}

// next reads one frame of the server's.
func (c *rawWS) next() (first byte, body []byte, err error) {
	var h [10]byte
	if _, err := io.ReadFull(c.r, h[:2]); err != nil {
		return 0, nil, err
	}
	n := uint64(h[1])
	switch n {
	case 126:
		_, err = io.ReadFull(c.r, h[2:4])
		n = uint64(binary.BigEndian.Uint16(h[2:]))
	case 127:
		_, err = io.ReadFull(c.r, h[2:])
		n = binary.BigEndian.Uint64(h[2:])
	}
	if err == nil {
		body = make([]byte, n)
		_, err = io.ReadFull(c.r, body)
	}
	return h[0], body, err
}

// deflate is p compressed by itself, as a message's payload.
func deflate(p []byte) []byte {
	var b bytes.Buffer
	w, _ := flate.NewWriter(&b, flate.BestSpeed)
	w.Write(p)
	w.Flush()
	return bytes.TrimSuffix(b.Bytes(), []byte{0, 0, 0xff, 0xff})
}

// inflate undoes deflate.
func inflate(t testing.TB, p []byte) []byte {
	t.Helper()
	b, err := io.ReadAll(flate.NewReader(bytes.NewReader(append(bytes.Clone(p), 0, 0, 0xff, 0xff, 1, 0, 0, 0xff, 0xff))))
	if err != nil {
		t.Fatalf("a message of %d bytes does not inflate: %v", len(p), err)
	}
	return b
}

// closing reads until the close frame and returns its code, or -1 for an end without one.
func (c *rawWS) closing() int {
	for {
		first, body, err := c.next()
		if err != nil {
			return -1
		}
		if first == 0x88 {
			if len(body) < 2 {
				return 0
			}
			return int(binary.BigEndian.Uint16(body))
		}
	}
}

// A client of coder/websocket, in each of its modes, gets every answer and each broadcast,
// which is compressed once.
func TestCompressedSessions(t *testing.T) {
	for _, scheme := range []string{"ws", "wss"} {
		for _, d := range []Dispatch{Inline, Ordered} {
			cfg := Config{Dispatch: d, Addrs: []string{scheme + "://127.0.0.1:0"}, MaxFrame: 1 << 20, Limits: Limits{MaxOutbound: 8 << 20}, Doors: Doors{TLS: serverTLS(), Deflate: true}}
			srv := serve(t, cfg, &funcs{read: func(s *Session, p codec.Packet) {
				if p.Sub == 2 {
					s.Broadcast(1, 2, p.Body)
					return
				}
				s.Reply(p, p.Body)
			}})
			hc := &http.Client{Transport: &http.Transport{TLSClientConfig: clientTLS}}
			defer hc.CloseIdleConnections()
			var conns []*codec.Reader
			var last net.Conn
			for _, mode := range []websocket.CompressionMode{websocket.CompressionDisabled, websocket.CompressionNoContextTakeover, websocket.CompressionContextTakeover} {
				c, resp, err := websocket.Dial(within(t, 20*time.Second), scheme+"://"+srv.Addrs()[0].String(), &websocket.DialOptions{HTTPClient: hc, CompressionMode: mode, CompressionThreshold: 1})
				if err != nil {
					t.Fatal(err)
				}
				defer c.CloseNow()
				if agreed := resp.Header.Get("Sec-WebSocket-Extensions"); (agreed != "") != (mode != websocket.CompressionDisabled) {
					t.Errorf("mode %d: agreed on %q", mode, agreed)
				}
				c.SetReadLimit(-1)
				nc := websocket.NetConn(within(t, 60*time.Second), c, websocket.MessageBinary)
				r := codec.NewReader(nc, must(codec.New(codec.Layout{}, 1<<20)))
				conns, last = append(conns, r), nc
				var sizes []int
				for n := 0; n < 300; n += 17 {
					sizes = append(sizes, n)
				}
				sizes = append(sizes, 5000, 40_000, 70_000, 900_000, 1)
				text := strings.Repeat("a text that can be compressed, ", 40_000)
				go func() {
					for _, n := range sizes {
						nc.Write(frame(1, 1, text[:n]))
					}
				}()
				for _, n := range sizes {
					p, err := r.Next()
					if err != nil || string(p.Body) != text[:n] {
						t.Fatalf("mode %d: got %d bytes, %v, want %d", mode, len(p.Body), err, n)
					}
				}
			}
			before := srv.Stats().Doors
			last.Write(frame(1, 2, strings.Repeat("to all ", 100)))
			for i, r := range conns {
				if p, err := r.Next(); err != nil || p.Sub != 2 || len(p.Body) != 700 {
					t.Fatalf("client %d: %d bytes, %v", i, len(p.Body), err)
				}
			}
			st := srv.Stats().Doors
			if st.Deflated-before.Deflated != 2 || st.DeflateShared-before.DeflateShared != 1 && len(srv.Stats().Loops) == 1 {
				t.Errorf("a broadcast to two: %d compressed, %d of them shared", st.Deflated-before.Deflated, st.DeflateShared-before.DeflateShared)
			}
			if st.Inflated == 0 || st.DeflatedTo == 0 || st.DeflatedTo > st.DeflatedFrom/10 {
				t.Errorf("got %+v", st)
			}
		}
	}
}

// What RSV1 may stand on, and what a message that does not inflate is closed with.
func TestCompressionHasItsRules(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"ws://127.0.0.1:0"}, Doors: Doors{Deflate: true}}, &funcs{read: echo})
	good := deflate(frame(1, 1, strings.Repeat("good ", 100)))
	join := func(frames ...[]byte) []byte { return bytes.Join(frames, nil) }
	for _, c := range []struct {
		name   string
		stream []byte
		code   int
	}{
		{"good", join(wsFrame(0xc2, good), wsFrame(0x88, []byte{3, 0xe8})), 1000},
		{"good, in fragments", join(wsFrame(0x42, good[:5]), wsFrame(0x89, nil), wsFrame(0x00, good[5:]), wsFrame(0x80, nil), wsFrame(0x88, []byte{3, 0xe8})), 1000},
		{"good, behind an empty fragment", join(wsFrame(0x42, nil), wsFrame(0x80, good), wsFrame(0x88, []byte{3, 0xe8})), 1000},
		{"RSV1 on a continuation", join(wsFrame(0x42, good[:5]), wsFrame(0xc0, good[5:])), 1002},
		{"RSV1 on a continuation of what is not compressed", join(wsFrame(0x02, good[:5]), wsFrame(0xc0, good[5:])), 1002},
		{"RSV1 on a PING", wsFrame(0xc9, nil), 1002},
		{"RSV1 on a close", wsFrame(0xc8, nil), 1002},
		{"RSV2", wsFrame(0xe2, good), 1002},
		{"RSV3 alone", wsFrame(0x92, good), 1002},
		{"text", wsFrame(0xc1, good), 1003},
		{"no deflate stream", wsFrame(0xc2, []byte{7, 7, 7, 7}), 1007},
		{"cut short", wsFrame(0xc2, good[:len(good)-3]), 1007},
		{"no bytes at all", wsFrame(0xc2, nil), 1007},
	} {
		w := dialRaw(t, srv, offerDeflate)
		w.Write(c.stream)
		if got := w.closing(); got != c.code {
			t.Errorf("%s: got %d, want %d", c.name, got, c.code)
		}
	}
	bad := uint64(3)
	for n := 1; n < len(good); n++ { // cut short anywhere: some of these are no blocks, some have no end
		w := dialRaw(t, srv, offerDeflate)
		w.Write(wsFrame(0xc2, good[:n]))
		if got := w.closing(); got != 1007 {
			t.Errorf("cut short at %d of %d: got %d, want 1007", n, len(good), got)
		}
		w.Close()
		bad++
	}
	plain := dialRaw(t, srv)
	if got := plain.head.Get("Sec-WebSocket-Extensions"); got != "" {
		t.Errorf("without an offer: %q", got)
	}
	plain.Write(wsFrame(0xc2, good))
	if got := plain.closing(); got != 1002 {
		t.Errorf("RSV1 without compression: got %d, want 1002", got)
	}
	if n := srv.Stats().Doors.BadDeflates; n != bad {
		t.Errorf("%d bad streams counted, want %d", n, bad)
	}
}

// A few kilobytes that become gigabytes of requests are inflated no faster than their sender
// reads the answers; every one is answered; and another session is served meanwhile.
func TestABombIsInflatedPieceByPiece(t *testing.T) {
	for _, scheme := range []string{"ws"} {
		srv := serve(t, Config{Loops: 1, Dispatch: Inline, Addrs: []string{scheme + "://127.0.0.1:0"}, Limits: Limits{MaxOutbound: 64 << 10}, Socket: Socket{SocketSendBuffer: 16 << 10},
			Doors: Doors{Deflate: true, MaxRatio: Off}}, &funcs{read: echo})
		one := frame(1, 1, string(make([]byte, 60_000)))
		const frames = 150 // 9 MB
		bomb := deflate(bytes.Repeat(one, frames))
		w := dialRaw(t, srv, offerDeflate+"; server_max_window_bits=9")
		if len(bomb) > 200<<10 {
			t.Fatalf("the bomb has %d bytes", len(bomb))
		}
		half := len(bomb) / 2
		w.Write(wsFrame(0x42, bomb[:half]))
		w.Write(append(wsFrame(0x80, bomb[half:]), wsFrame(0x88, []byte{3, 0xe8})...))
		for end := time.Now().Add(20 * time.Second); srv.Stats().Loops[0].Pauses == 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("reading was never paused")
			}
		}
		other := dialRaw(t, srv)
		other.Write(wsFrame(0x82, frame(1, 1, "served")))
		if _, b, err := other.next(); err != nil || !strings.HasSuffix(string(b), "served") {
			t.Fatalf("another session: %q, %v", b, err)
		}
		if n := srv.budget.Used(); n > 4<<20 {
			t.Errorf("%d bytes are held", n)
		}
		got, packed := 0, []byte(nil)
		for {
			first, body, err := w.next()
			if err != nil {
				t.Fatalf("behind %d bytes: %v", got, err)
			}
			if first == 0x88 {
				break
			}
			packed = append(packed, body...)
			if first&0x80 != 0 {
				got += len(inflate(t, packed))
				packed = packed[:0]
			}
		}
		if got != frames*len(one) {
			t.Errorf("answers of %d bytes, want %d", got, frames*len(one))
		}
	}
}

// Past MaxRatio a client is closed; what it asked for before is answered.
func TestTheRatioHasALimit(t *testing.T) {
	srv := serve(t, Config{Addrs: []string{"ws://127.0.0.1:0"}, Doors: Doors{Deflate: true, MaxRatio: 100}, Limits: Limits{MaxOutbound: 64 << 20}}, &funcs{read: func(s *Session, p codec.Packet) {
		s.Reply(p, nil)
	}})
	one := frame(1, 1, string(make([]byte, 60_000)))
	bomb := wsFrame(0xc2, deflate(bytes.Repeat(one, 320)))
	w := dialRaw(t, srv, offerDeflate)
	w.Write(bomb)
	answers := 0
	for {
		first, body, err := w.next()
		if err != nil {
			t.Fatal(err)
		}
		if first == 0x88 {
			if got := binary.BigEndian.Uint16(body); got != 1008 {
				t.Errorf("got %d, want 1008", got)
			}
			break
		}
		if first&0x40 != 0 {
			body = inflate(t, body)
		}
		answers += len(body) / 8
	}
	if st := srv.Stats(); t.Failed() || st.Doors.BadDeflates != 1 {
		t.Errorf("closes %v, doors %+v", st.Closes, st.Doors)
	}
	if least := 16 << 20 / len(one); answers < least || answers > least+5 {
		t.Errorf("%d requests were answered, want %d", answers, least)
	}
}

// A client that has sent its FIN behind a message that is still being inflated gets all of
// its answers.
func TestAFINBehindWhatStillInflates(t *testing.T) {
	for _, scheme := range []string{"ws", "wss"} {
		srv := serve(t, Config{Loops: 1, Dispatch: Inline, Addrs: []string{scheme + "://127.0.0.1:0"}, Limits: Limits{MaxOutbound: 64 << 10}, Doors: Doors{TLS: serverTLS(), Deflate: true}}, &funcs{read: echo})
		one := frame(1, 1, string(make([]byte, 30_000)))
		const frames = 150
		bomb := wsFrame(0xc2, deflate(bytes.Repeat(one, frames)))
		w := upgradeRaw(t, srv, scheme, offerDeflate+"\r\n")
		w.Write(bomb)
		w.Conn.(interface{ CloseWrite() error }).CloseWrite()
		got := 0
		var packed []byte
		for {
			first, body, err := w.next()
			if err != nil {
				t.Fatalf("%s: behind %d bytes: %v", scheme, got, err)
			}
			if first == 0x88 {
				break
			}
			packed = append(packed, body...)
			if first&0x80 != 0 {
				got += len(inflate(t, packed))
				packed = packed[:0]
			}
		}
		if got != frames*len(one) {
			t.Errorf("%s: answers of %d bytes, want %d", scheme, got, frames*len(one))
		}
	}
}
