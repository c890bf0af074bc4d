package door

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strings"
	"testing"
	"unsafe"

	"github.com/gobwas/ws"

	"millrace/engine/internal/netio"
)

// heard is what a stream said beside its data.
type heard struct {
	pings []string
	code  int // of the close frame to answer; -1: none
}

func (h *heard) ping(b []byte)          { h.pings = append(h.pings, string(b)) }
func (h *heard) closeFrame(code uint16) { h.code = int(code) }

// parse feeds a stream in pieces that end at cuts.
func parse(stream []byte, cuts ...int) (payload string, h heard) {
	h.code = -1
	var w wsIn
	var room wsRoom
	for i, from := 0, 0; i <= len(cuts); i++ {
		to := len(stream)
		if i < len(cuts) {
			to = cuts[i]
		}
		b, _, ended := w.feed(bytes.Clone(stream[from:to]), &h, &room)
		payload += string(b)
		if ended {
			break
		}
		from = to
	}
	return payload, h
}

// client is a client's frame, masked; first is its first byte.
func client(first byte, body string) []byte {
	b := []byte(body)
	h := ws.Header{Fin: first&0x80 != 0, Rsv: first >> 4 & 7, OpCode: ws.OpCode(first & 15), Masked: true, Mask: [4]byte{0xa1, 2, 0x73, 4}, Length: int64(len(b))}
	ws.Cipher(b, h.Mask, 0)
	var buf bytes.Buffer
	if err := ws.WriteHeader(&buf, h); err != nil {
		panic(err)
	}
	return append(buf.Bytes(), b...)
}

func closeBody(code uint16, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, code)) + reason
}

// The cases of the Autobahn test suite that a server without text messages has, by section.
// Not here: 1.1, 6.1 to 6.22 (text, refused with 1003), 9 (time), 12 and 13 (compression).
func TestAutobahnCases(t *testing.T) {
	const none = -1
	long := strings.Repeat("*", 65536)
	join := func(frames ...[]byte) []byte { return bytes.Join(frames, nil) }
	type testCase struct {
		name    string
		stream  []byte
		payload string
		pings   string
		code    int
	}
	cases := []testCase{
		{"1.1.1 text", client(0x81, ""), "", "", 1003},
		{"2.1 empty ping", client(0x89, ""), "", "|", none},
		{"2.2 ping", client(0x89, "Hello"), "", "Hello|", none},
		{"2.3 binary ping", client(0x89, "\x00\xff\xfe"), "", "\x00\xff\xfe|", none},
		{"2.4 ping of 125", client(0x89, long[:125]), "", long[:125] + "|", none},
		{"2.5 ping of 126", client(0x89, long[:126]), "", "", 1002},
		{"2.7 pong unasked", client(0x8a, "x"), "", "", none},
		{"2.9 pong, ping", join(client(0x8a, "x"), client(0x89, "y")), "", "y|", none},
		{"2.10 ten pings", bytes.Repeat(client(0x89, "p"), 10), "", strings.Repeat("p|", 10), none},
		{"3.1 rsv1", client(0xc2, "x"), "", "", 1002},
		{"3.2 rsv2 behind a message", join(client(0x82, "a"), client(0xa2, "x"), client(0x89, "")), "a", "", 1002},
		{"3.3 rsv3", client(0x92, "x"), "", "", 1002},
		{"3.5 rsv on a ping", client(0xf9, "x"), "", "", 1002},
		{"3.6 rsv on a close", client(0xf8, ""), "", "", 1002},
		{"5.1 fragmented ping", join(client(0x09, "a"), client(0x80, "b")), "", "", 1002},
		{"5.2 fragmented pong", join(client(0x0a, "a"), client(0x80, "b")), "", "", 1002},
		{"5.3 two fragments", join(client(0x02, "a"), client(0x80, "b")), "ab", "", none},
		{"5.6 ping between fragments", join(client(0x02, "a"), client(0x89, "p"), client(0x80, "b")), "ab", "p|", none},
		{"5.9 continuation of nothing", client(0x80, "a"), "", "", 1002},
		{"5.12 open continuation of nothing", client(0x00, "a"), "", "", 1002},
		{"5.15 continuation behind a message", join(client(0x02, "a"), client(0x80, "b"), client(0x00, "c")), "ab", "", 1002},
		{"5.18 a message inside another", join(client(0x02, "a"), client(0x82, "b")), "", "", 1002},
		{"5.19 many fragments and pings", join(client(2, "1"), client(0, "2"), client(0x89, "p"), client(0, "3"), client(0x89, "q"), client(0x80, "4")), "1234", "p|q|", none},
		{"7.1.1 close", join(client(0x82, "a"), client(0x88, closeBody(1000, ""))), "a", "", 1000},
		{"7.1.3 data behind the close", join(client(0x88, closeBody(1000, "")), client(0x82, "a"), client(0x89, "p")), "", "", 1000},
		{"7.3.1 close without a body", client(0x88, ""), "", "", closeNone},
		{"7.3.2 close of one byte", client(0x88, "x"), "", "", 1002},
		{"7.3.4 close with a reason", client(0x88, closeBody(1000, "Hello")), "", "", 1000},
		{"7.3.5 close of 125", client(0x88, closeBody(1000, long[:123])), "", "", 1000},
		{"7.3.6 close of 126", client(0x88, closeBody(1000, long[:124])), "", "", 1002},
		{"7.5.1 bad UTF-8 in the reason", client(0x88, closeBody(1000, "\xce\xba\xed\xa0\x80")), "", "", 1007},
		{"unmasked", []byte{0x82, 1, 'x'}, "", "", 1002},
		{"length with the top bit", []byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, "", "", 1002},
		{"length longer than needed", []byte{0x82, 0xfe, 0, 1, 0, 0, 0, 0, 'x'}, "x", "", none},
		{"length in 8 bytes", []byte{0x82, 0xff, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 'x'}, "x", "", none},
	}
	for _, n := range []int{0, 125, 126, 127, 128, 65535, 65536} {
		cases = append(cases, testCase{fmt.Sprintf("1.2 binary of %d", n), client(0x82, long[:n]), long[:n], "", none})
	}
	for op := byte(3); op < 16; op++ {
		if op < 8 || op > 10 {
			cases = append(cases, testCase{fmt.Sprintf("4 opcode %d", op), join(client(0x82, "a"), client(0x80|op, "x"), client(0x89, "")), "a", "", 1002})
		}
	}
	for _, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		cases = append(cases, testCase{fmt.Sprintf("7.7 code %d", code), client(0x88, closeBody(code, "")), "", "", int(code)})
	}
	for _, code := range []uint16{0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		cases = append(cases, testCase{fmt.Sprintf("7.9 code %d", code), client(0x88, closeBody(code, "")), "", "", 1002})
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			check := func(how string, payload string, h heard) {
				pings := ""
				for _, p := range h.pings {
					pings += p + "|"
				}
				if pings != c.pings || h.code != c.code {
					t.Errorf("%s: pings %q, code %d, want %q, %d", how, pings, h.code, c.pings, c.code)
				}
				// A message that turns out to be wrong is not served where that is seen in
				// time; what came of it earlier has gone on.
				if payload != c.payload && !(how != "whole" && c.code == 1002 && strings.HasPrefix(payload, c.payload)) {
					t.Errorf("%s: payload of %d bytes, want %d", how, len(payload), len(c.payload))
				}
			}
			payload, h := parse(c.stream)
			check("whole", payload, h)
			for cut := 1; cut < min(len(c.stream), 300); cut++ {
				payload, h := parse(c.stream, cut)
				check("cut", payload, h)
			}
			var all []int
			for i := 1; i < min(len(c.stream), 2000); i++ {
				all = append(all, i)
			}
			payload, h = parse(c.stream, all...)
			check("byte by byte", payload, h)
		})
	}
}

// silent is a session that only counts what it gets.
type silent struct {
	netio.Sink
	got int
}

func (s *silent) Received(b []byte) { s.got += len(b) }

func TestMessagesCostNoAllocation(t *testing.T) {
	stream := bytes.Repeat(client(0x82, strings.Repeat("x", 72)), 32)
	stream = append(stream, client(0x82, strings.Repeat("y", 4096))...)
	stream = append(stream, client(0x02, "a piece")...)
	stream = append(stream, client(0x80, "and its end")...)
	b := make([]byte, len(stream))
	s := &silent{}
	c := &conn{l: &loop{}, ws: wsLayer{on: true}, phase: open, up: true, sink: s}
	runs := 0
	if n := testing.AllocsPerRun(100, func() {
		copy(b, stream)
		c.frames(b)
		runs++
	}); n != 0 {
		t.Errorf("35 messages of one read cost %g allocations, want none", n)
	}
	if want := runs * (32*72 + 4096 + 18); s.got != want {
		t.Errorf("the session got %d bytes, want %d", s.got, want)
	}
}

// messages feeds a stream whose messages may be compressed in pieces of step bytes, and returns
// these, each with a P in front if it is, and the last one as far as it goes.
func messages(stream []byte, step int) (list []string, h heard) {
	h.code = -1
	w := wsIn{inflate: true}
	var room wsRoom
	some := false
	for from := 0; from < len(stream); from += step {
		for b := bytes.Clone(stream[from:min(from+step, len(stream))]); len(b) > 0; {
			payload, used, ended := w.feed(b, &h, &room)
			if len(payload) > 0 || w.over {
				if !some {
					list, some = append(list, map[bool]string{true: "P", false: "-"}[w.packed]), true
				}
				list[len(list)-1] += string(payload)
			}
			if w.over {
				some = false
			}
			if ended {
				return list, h
			}
			b = b[used:]
		}
	}
	return list, h
}

// taker takes what is written, and counts it.
type taker struct {
	netio.Conn
	writes, bytes int
}

func (w *taker) Write(p []byte) (int, error) {
	w.writes++
	w.bytes += len(p)
	return len(p), nil
}

// There are many connections that wait, and most of them are small: so is a door.
func TestAnOpenDoorIsSmall(t *testing.T) {
	if n := unsafe.Sizeof(conn{}); n > 144 {
		t.Errorf("a connection holds %d bytes, want 144 at most", n)
	}
	w := &taker{}
	h := &Host{cfg: Config{Frames: func(_ netio.Conn, _ netio.Sink, b []byte) (int, int) { return len(b), 0 }, Framing: func(netio.Conn, netio.Sink) any { return nil }}}
	c := &conn{Conn: w, l: &loop{h: h}, ws: wsLayer{on: true}, phase: open, up: true, sink: &silent{}}
	p, ping := make([]byte, 300), client(0x89, "are you there?")
	b := make([]byte, len(ping))
	if n := testing.AllocsPerRun(100, func() {
		if n, err := c.Write(p); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
	}); n != 0 {
		t.Errorf("a message that is sent costs %g allocations, want none", n)
	}
	for cut := range ping { // half a header, half a body, and its answer
		copy(b, ping)
		c.frames(b[:cut])
		c.frames(b[cut:])
	}
	if w.writes != 101+len(ping) {
		t.Errorf("%d writes, want %d messages and %d PONGs", w.writes, 101, len(ping))
	}
	if c.x != nil || c.ws.in.part != nil {
		t.Error("a connection at rest holds what it needs for a while only")
	}
}

// What is sent to one after the other is put together once, and never for a session whose
// frames end elsewhere.
func TestTheSameMessageForMany(t *testing.T) {
	size := map[netio.Sink]int{}
	frames := 0
	h := &Host{cfg: Config{
		Frames: func(_ netio.Conn, k netio.Sink, b []byte) (int, int) {
			frames++
			return len(b) / size[k] * size[k], size[k]
		},
		Framing: func(_ netio.Conn, k netio.Sink) any { return size[k] },
	}}
	l := &loop{h: h}
	open := func(n int) (*conn, *keeper) {
		w, s := &keeper{}, &silent{}
		size[s] = n
		return &conn{Conn: w, l: l, ws: wsLayer{on: true}, phase: open, up: true, sink: s}, w
	}
	a, atA := open(10)
	b, atB := open(10)
	c, atC := open(8)
	for _, p := range []string{"0123456789", "0123456789", "9876543210", strings.Repeat("x", 20)} {
		for _, to := range []*conn{a, b, c} {
			if n, err := to.Write([]byte(p)); n != len(p) || err != nil {
				t.Fatal(n, err)
			}
		}
	}
	const want = "\x82\x0a0123456789\x82\x0a0123456789\x82\x0a9876543210\x82\x14xxxxxxxxxxxxxxxxxxxx"
	if got := string(atA.b); got != want || string(atB.b) != want {
		t.Errorf("got %q and %q, want %q", got, atB.b, want)
	}
	if !strings.HasPrefix(string(atC.b), "\x82\x0801234567\x82\x08") {
		t.Errorf("frames of 8 were sent as %q", atC.b)
	}
	frames = 0
	for _, to := range []*conn{a, b, a, b} {
		to.Write([]byte("aaaaaaaaaa"))
	}
	if frames != 1 {
		t.Errorf("one message for four was looked at %d times, want once", frames)
	}
}

// keeper takes what is written, and keeps it.
type keeper struct {
	netio.Conn
	b []byte
}

func (w *keeper) Write(p []byte) (int, error) {
	w.b = append(w.b, p...)
	return len(p), nil
}

// However a stream is cut it says the same, and its headers are what gobwas/ws makes of them.
func FuzzWebSocketStream(f *testing.F) {
	f.Add(bytes.Join([][]byte{client(0xc2, "compressed"), client(0x82, "it is not"), client(0x42, "a"), client(0x80, "b"), client(0x82, "c")}, nil), 5)
	f.Add(append(client(0x02, "ab"), client(0x80, "c")...), 3)
	f.Add(append(client(0x89, "ping"), client(0x88, closeBody(1000, "bye"))...), 7)
	f.Fuzz(func(t *testing.T, stream []byte, cut int) {
		payload, h := parse(stream)
		if cut > 0 && cut < len(stream) {
			cutPayload, cutHeard := parse(stream, cut)
			if fmt.Sprint(h) != fmt.Sprint(cutHeard) {
				t.Fatalf("whole %v, cut at %d %v", h, cut, cutHeard)
			}
			if cutPayload != payload && !(h.code >= 1002 && strings.HasPrefix(cutPayload, payload)) {
				t.Fatalf("whole %q, cut at %d %q", payload, cut, cutPayload)
			}
		}
		pieces, piecesHeard := messages(stream, 1)
		for _, step := range []int{len(stream), cut} {
			list, h := messages(stream, max(step, 1))
			got, all := strings.Join(list, "|"), strings.Join(pieces, "|")
			same := got == all || h.code >= 1002 && strings.HasPrefix(all, got)
			if !same || fmt.Sprint(h) != fmt.Sprint(piecesHeard) {
				t.Fatalf("in steps of %d %q, %v, of 1 %q, %v", step, got, h, all, piecesHeard)
			}
		}
		want, ok := reference(stream)
		if ok && want != payload {
			t.Fatalf("got %q, want %q", payload, want)
		}
	})
}

// reference reads a stream of whole, right frames with gobwas's own reader.
func reference(stream []byte) (payload string, ok bool) {
	r := bytes.NewReader(stream)
	state := ws.StateServerSide
	for r.Len() > 0 {
		h, err := ws.ReadHeader(r)
		if err != nil || h.Length > int64(r.Len()) || ws.CheckHeader(h, state) != nil || h.OpCode == ws.OpText || h.OpCode == ws.OpClose {
			return "", false
		}
		body := make([]byte, h.Length)
		_, _ = r.Read(body)
		ws.Cipher(body, h.Mask, 0)
		if h.OpCode.IsControl() {
			continue
		}
		payload += string(body)
		state = state.Set(ws.StateFragmented)
		if h.Fin {
			state = state.Clear(ws.StateFragmented)
		}
	}
	return payload, true
}

// A header is taken the same however it is cut, and what is no header is refused at once.
func FuzzProxy(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"))
	f.Add([]byte("PROXY TCP6 2001:db8::1 ::1 65535 2\r\nrest"))
	f.Add([]byte("PROXY UNKNOWN whatever\r\n"))
	f.Add([]byte("PROXY UNKNOWN \n\r\n"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x00\x02"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		addr, size, err := parseProxy(b)
		if size > len(b) || size > maxProxyV2 {
			t.Fatalf("size %d of %d", size, len(b))
		}
		if err == nil && size == 0 && len(b) > maxProxyV2 {
			t.Fatalf("%d bytes, and no end", len(b))
		}
		for i := range b {
			at, n, e := parseProxy(b[:i])
			switch {
			case e != nil && err == nil:
				t.Fatalf("%q is refused, but its first part %d was not to be", b, i)
			case n > 0 && (n != size || at != addr):
				t.Fatalf("the first %d bytes give %v, %d, all %v, %d", i, at, n, addr, size)
			}
		}
	})
}
