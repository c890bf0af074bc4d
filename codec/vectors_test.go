package codec

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/vectors.json anew")

// hexBytes is written as hexadecimal digits.
type hexBytes []byte

func (h hexBytes) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h)), nil }
func (h *hexBytes) UnmarshalText(b []byte) (err error) {
	*h, err = hex.DecodeString(string(b))
	return err
}

type vectorLayout struct {
	Prefix       hexBytes `json:"prefix"`
	LengthWidth  int      `json:"lengthWidth"`
	LengthAdjust int      `json:"lengthAdjust"`
	Command      string   `json:"command"`
	Seq          bool     `json:"seq"`
	LittleEndian bool     `json:"littleEndian"`
}

type vectorPacket struct {
	Main uint16   `json:"main"`
	Sub  uint16   `json:"sub"`
	Seq  uint32   `json:"seq"`
	Body hexBytes `json:"body"`
}

// vectorFrame is a packet as bytes, or one that can't be written.
type vectorFrame struct {
	Packet vectorPacket `json:"packet"`
	Bytes  hexBytes     `json:"bytes,omitempty"`
	Error  string       `json:"error,omitempty"` // handle, seq, size or body
}

// vectorStream is bytes that may come in pieces of any size. The first ends[i] bytes hold
// packet i whole. What is behind the last one is the beginning of a frame, or bad from its
// first refusedAt bytes on.
type vectorStream struct {
	Name      string         `json:"name"`
	Bytes     hexBytes       `json:"bytes"`
	Packets   []vectorPacket `json:"packets"`
	Ends      []int          `json:"ends"`
	Error     string         `json:"error,omitempty"` // prefix, length or overlong
	RefusedAt int            `json:"refusedAt,omitempty"`
}

type vectorFraming struct {
	Name     string         `json:"name"`
	Layout   *vectorLayout  `json:"layout,omitempty"`  // one of these two
	Framing  string         `json:"framing,omitempty"` // as ParseFramer reads it
	MaxFrame int            `json:"maxFrame"`
	Frames   []vectorFrame  `json:"frames"`
	Streams  []vectorStream `json:"streams"`
}

// vectorSystem is a whole frame of the default layout.
type vectorSystem struct {
	Name   string         `json:"name"`
	Bytes  hexBytes       `json:"bytes"`
	Sub    uint16         `json:"sub"`
	Body   hexBytes       `json:"body"`
	Fields map[string]any `json:"fields"`
}

type vectors struct {
	About    string          `json:"about"`
	Framings []vectorFraming `json:"framings"`
	System   []vectorSystem  `json:"system"`
}

var commandNames = map[Command]string{MainSub16: "mainsub16", MainSub8: "mainsub8", Handle32: "handle32"}

// open makes what reads and writes v's frames.
func (v vectorFraming) open(t testing.TB) (decode func(b []byte) (Packet, int, int, error), app func([]byte, Packet) ([]byte, error)) {
	t.Helper()
	if v.Layout == nil {
		f := mustFramer(t, func() (Framer, error) { return ParseFramer(v.Framing, v.MaxFrame) })
		return func(b []byte) (Packet, int, int, error) { return Decode(f, b, 0) }, f.Append
	}
	l := Layout{Prefix: v.Layout.Prefix, LengthWidth: v.Layout.LengthWidth, LengthAdjust: v.Layout.LengthAdjust,
		Seq: v.Layout.Seq, LittleEndian: v.Layout.LittleEndian}
	for c, name := range commandNames {
		if name == v.Layout.Command {
			l.Command = c
		}
	}
	c := mustNew(t, l, v.MaxFrame)
	return c.Decode, c.Append
}

// errorName is how vectors call an error.
func errorName(err error) string {
	var bad *FrameError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &bad) && bad.Prefix:
		return "prefix"
	case errors.As(err, &bad) && bad.Overlong:
		return "overlong"
	case errors.As(err, &bad):
		return "length"
	case errors.Is(err, ErrBadHandle):
		return "handle"
	case errors.Is(err, ErrBadSeq):
		return "seq"
	case errors.Is(err, ErrBodyTooLarge):
		return "size"
	case errors.Is(err, ErrBadBody):
		return "body"
	}
	return err.Error()
}

func (v *vectorFraming) stream(t testing.TB, name string, b []byte) {
	t.Helper()
	decode, _ := v.open(t)
	s := vectorStream{Name: name, Bytes: b, Packets: []vectorPacket{}, Ends: []int{}}
	for pos := 0; ; {
		p, n, _, err := decode(b[pos:])
		if err != nil {
			s.Error = errorName(err)
			for s.RefusedAt = pos; ; s.RefusedAt++ {
				if _, _, _, err := decode(b[pos:s.RefusedAt]); err != nil {
					break
				}
			}
			break
		}
		if n == 0 {
			break
		}
		pos += n
		s.Packets = append(s.Packets, vectorPacket{p.Main, p.Sub, p.Seq, bytes.Clone(p.Body)})
		s.Ends = append(s.Ends, pos)
	}
	v.Streams = append(v.Streams, s)
}

func (v *vectorFraming) frame(t testing.TB, p Packet) []byte {
	t.Helper()
	_, app := v.open(t)
	b, err := app(nil, p)
	v.Frames = append(v.Frames, vectorFrame{vectorPacket{p.Main, p.Sub, p.Seq, p.Body}, b, errorName(err)})
	return b
}

func makeVectors(t testing.TB) vectors {
	v := vectors{About: "Frames as bytes, in hexadecimal. Made by go test ./codec -run Vectors -update; vectors_test.go beside them says what the fields mean."}
	body := make([]byte, 96)
	for i := range body {
		body[i] = byte(i * 7)
	}
	for _, tt := range layouts {
		f := vectorFraming{Name: tt.name, MaxFrame: 100, Layout: &vectorLayout{tt.l.Prefix, tt.l.LengthWidth, tt.l.LengthAdjust,
			commandNames[tt.l.Command], tt.l.Seq, tt.l.LittleEndian}}
		if f.Layout.LengthWidth == 0 {
			f.Layout.LengthWidth = 4
		}
		var all []byte
		for _, p := range []Packet{{Main: 1, Sub: 2, Body: []byte("hello")}, {}, {Main: 0xfe, Sub: 0xff, Body: body[:90]},
			{Main: 0xfedc, Sub: 0x8001, Body: body[:3]}, {Main: 3, Sub: 1, Seq: 0xfffffffe, Body: body[:1]}, {Main: 4, Sub: 4, Body: body}, {Main: 5, Body: append(body, 1, 2, 3, 4)}} {
			all = append(all, f.frame(t, p)...)
		}
		f.stream(t, "all of them", all)
		f.stream(t, "cut in the last", all[:len(all)-1])
		c := mustNew(t, tt.l, 100)
		good := mustAppend(t, c, nil, Packet{Main: 1, Sub: 1})
		for _, n := range []struct {
			name   string
			length int64
		}{{"shorter than its fields", int64(c.fields) - 1}, {"at the limit", 100}, {"over the limit", 101},
			{"the largest", int64(1)<<(8*c.width) - 1 + c.adjust}, {"zero", c.adjust}} {
			b := append(bytes.Clone(good), c.prefix...)
			f.stream(t, n.name, append(c.appendUint(b, uint32(n.length-c.adjust), c.width), body[:8]...))
		}
		for i := range c.prefix {
			b := append(bytes.Clone(good), good...)
			b[len(good)+i] ^= 0x20
			f.stream(t, "a wrong byte in the prefix", b)
		}
		v.Framings = append(v.Framings, f)
	}
	packets := []Packet{{Main: 1, Sub: 2, Body: []byte("hello")}, {Body: []byte("hello")}, {}, {Body: body[:20]}, {Body: body[:21]},
		{Body: []byte("a\nb")}, {Body: []byte("a\r")}, {Body: []byte("x\r\ny")}, {Body: []byte("12345678")}, {Seq: 1}}
	for _, name := range []string{"varint", "line", "delimiter=0d0a", "delimiter=00", "delimiter=616162", "fixed=8"} {
		f := vectorFraming{Name: name, Framing: name, MaxFrame: 20}
		if name == "varint" {
			f.MaxFrame = 200
			f.frame(t, Packet{Main: 0xfedc, Sub: 0xba98, Body: append(bytes.Clone(body), body...)})
			f.frame(t, Packet{Body: make([]byte, 197)})
		}
		for _, p := range packets {
			f.frame(t, p)
		}
		for _, s := range []string{
			"one\ntwo\r\n\n\r\n\r\r\nlast", "01234567890123456789\n", "0123456789012345678\r\n", "01234567890123456789\r\n", "012345678901234567890",
			"a\r\r\nb\r", "\x00x\x00\x00", "aaabaabab", "01234567890123456789aab", "01234567890123456789aaaab", "12345678abcdefgh1",
			"\x04\x00\x01\x00\x02\x05\x00\x01\x00\x02x", "\x85\x80\x80\x80\x00\x00\x01\x00\x02x", "\x85\x80\x80\x80\x80\x00\x00\x01\x00\x02x",
			"\x84\x00\x00\x01\x00\x02", "\x03\x00\x01\x00", "\x00", "\xc8\x01\x00\x01", "\xc9\x01\x00\x01", "\xff\xff\xff\xff\x0f", "\xff\xff\xff\xff\x7f",
		} {
			f.stream(t, strings.Trim(strings.ToValidUTF8(s, "."), ""), []byte(s))
		}
		v.Framings = append(v.Framings, f)
	}
	token := hexBytes("0123456789abcdef")
	u64 := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	fault := func(code uint16, handle uint32, text string) []byte {
		return append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(nil, code), handle), text...)
	}
	for _, s := range []vectorSystem{
		{Name: "PING", Sub: 1, Body: []byte("are you there")}, {Name: "PING", Sub: 1}, {Name: "PONG", Sub: 2, Body: body[:64]},
		{Name: "ERROR", Sub: 3, Body: fault(1, 0, "length 3"), Fields: map[string]any{"code": 1, "handle": 0, "text": "length 3"}},
		{Name: "ERROR", Sub: 3, Body: fault(9, 0xfedc0001, "schön"), Fields: map[string]any{"code": 9, "handle": uint32(0xfedc0001), "text": "schön"}},
		{Name: "ERROR", Sub: 3, Body: fault(12, 0x10001, ""), Fields: map[string]any{"code": 12, "handle": 0x10001, "text": ""}},
		{Name: "GOAWAY", Sub: 4, Body: []byte{0, 0, 0x75, 0x30}, Fields: map[string]any{"grace": 30000, "address": ""}},
		{Name: "GOAWAY", Sub: 4, Body: append([]byte{0xff, 0xff, 0xff, 0xff}, "tls://[2001:db8::1]:443"...), Fields: map[string]any{"grace": uint32(0xffffffff), "address": "tls://[2001:db8::1]:443"}},
		{Name: "HELLO", Sub: 5, Body: []byte{1, 0}, Fields: map[string]any{}},
		{Name: "HELLO", Sub: 5, Body: append(append([]byte{1, 0}, token...), u64(1<<33+5)...), Fields: map[string]any{"token": token, "received": int64(1<<33 + 5)}},
		{Name: "WELCOME", Sub: 6, Body: append(append([]byte{0}, token...), u64(0)...), Fields: map[string]any{"resumed": false, "token": token, "received": 0}},
		{Name: "WELCOME", Sub: 6, Body: append(append([]byte{1}, token...), u64(1<<53-1)...), Fields: map[string]any{"resumed": true, "token": token, "received": int64(1<<53 - 1)}},
		{Name: "ACK", Sub: 7, Body: u64(64), Fields: map[string]any{"received": 64}},
		{Name: "ACK", Sub: 7, Body: u64(1<<32 - 1), Fields: map[string]any{"received": int64(1<<32 - 1)}},
		{Name: "BYE", Sub: 8},
	} {
		s.Bytes = Packet{Sub: s.Sub, Body: s.Body}.Append(nil)
		v.System = append(v.System, s)
	}
	return v
}

// The file of test vectors and the codec agree, in every framing and with the stream split at every byte.
func TestVectors(t *testing.T) {
	path := filepath.Join("testdata", "vectors.json")
	if *update {
		b, err := json.MarshalIndent(makeVectors(t), "", " ")
		if err == nil {
			err = os.WriteFile(path, append(b, '\n'), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Framings) != len(layouts)+6 || len(v.System) == 0 {
		t.Fatalf("%d framings and %d system frames; run with -update", len(v.Framings), len(v.System))
	}
	for _, f := range v.Framings {
		decode, app := f.open(t)
		for _, fr := range f.Frames {
			got, err := app(nil, Packet{fr.Packet.Main, fr.Packet.Sub, fr.Packet.Seq, fr.Packet.Body})
			if errorName(err) != fr.Error || !bytes.Equal(got, fr.Bytes) {
				t.Errorf("%s: %v is %x, %v, want %x, %q", f.Name, fr.Packet, got, err, fr.Bytes, fr.Error)
			}
		}
		for _, s := range f.Streams {
			pos, n := 0, 0
			for end := 0; end <= len(s.Bytes); end++ {
				p, size, _, err := decode(s.Bytes[pos:end])
				if refused := s.Error != "" && end >= s.RefusedAt; refused != (err != nil) || errorName(err) != s.Error && refused {
					t.Fatalf("%s, %q: after %d bytes %v, want %q from %d on", f.Name, s.Name, end, err, s.Error, s.RefusedAt)
				}
				if err != nil {
					break
				}
				for ; size > 0; p, size, _, _ = decode(s.Bytes[pos:end]) {
					w := s.Packets[n]
					if pos += size; pos != s.Ends[n] || end != pos || !samePackets([]Packet{p}, []Packet{{w.Main, w.Sub, w.Seq, w.Body}}) {
						t.Fatalf("%s, %q: after %d bytes %v, want %v after %d", f.Name, s.Name, end, p, w, s.Ends[n])
					}
					n++
				}
			}
			if n != len(s.Packets) {
				t.Errorf("%s, %q: %d packets, want %d", f.Name, s.Name, n, len(s.Packets))
			}
		}
	}
	for _, s := range v.System {
		p, n, _, err := Default().Decode(s.Bytes)
		if err != nil || n != len(s.Bytes) || p.Main != 0 || p.Sub != s.Sub || !bytes.Equal(p.Body, s.Body) {
			t.Errorf("%s: %x is %v, %v", s.Name, s.Bytes, p, err)
		}
	}
}
