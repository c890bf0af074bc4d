package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"testing"
	"testing/iotest"
)

var layouts = []struct {
	name string
	l    Layout
}{
	{"default", Layout{}},
	{"little", Layout{LittleEndian: true}},
	{"short", Layout{LengthWidth: 2}},
	{"prefix", Layout{Prefix: []byte{0xCA, 0xFE}}},
	{"counts itself", Layout{LengthAdjust: -4}},
	{"counts itself and the prefix", Layout{Prefix: []byte("MR"), LengthWidth: 2, LengthAdjust: -4}},
	{"counts the body alone", Layout{LengthAdjust: 4}},
	{"bytes", Layout{Command: MainSub8}},
	{"handle little", Layout{Command: Handle32, LittleEndian: true}},
	{"seq", Layout{Seq: true}},
	{"everything", Layout{Prefix: []byte{1, 2, 3}, LengthWidth: 2, LengthAdjust: -2, Command: MainSub8, Seq: true, LittleEndian: true}},
}

func mustNew(t testing.TB, l Layout, limit int) *Codec {
	t.Helper()
	c, err := New(l, limit)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustAppend(t testing.TB, c *Codec, dst []byte, p Packet) []byte {
	t.Helper()
	dst, err := c.Append(dst, p)
	if err != nil {
		t.Fatal(err)
	}
	return dst
}

// naive reads frames the slow, plain way: one field after the other from a reader,
// with arithmetic in big enough integers. It shares no code with Codec.
func naive(l Layout, limit int, b []byte) (packets []Packet, bad bool) {
	order := binary.ByteOrder(binary.BigEndian)
	if l.LittleEndian {
		order = binary.LittleEndian
	}
	width := l.LengthWidth
	if width == 0 {
		width = 4
	}
	for {
		for i, want := range l.Prefix {
			if i >= len(b) {
				return packets, false
			}
			if b[i] != want {
				return packets, true
			}
		}
		if len(b) < len(l.Prefix)+width {
			return packets, false
		}
		b = b[len(l.Prefix):]
		length := int64(order.Uint16(b))
		if width == 4 {
			length = int64(order.Uint32(b))
		}
		b = b[width:]
		length += int64(l.LengthAdjust)
		fields := int64(4)
		if l.Command == MainSub8 {
			fields = 2
		}
		if l.Seq {
			fields += 4
		}
		if length < fields || length > int64(limit) {
			return packets, true
		}
		if int64(len(b)) < length {
			return packets, false
		}
		var p Packet
		frame := b[:length]
		b = b[length:]
		switch l.Command {
		case MainSub16:
			p.Main, p.Sub = order.Uint16(frame), order.Uint16(frame[2:])
			frame = frame[4:]
		case MainSub8:
			p.Main, p.Sub = uint16(frame[0]), uint16(frame[1])
			frame = frame[2:]
		case Handle32:
			h := order.Uint32(frame)
			p.Main, p.Sub = uint16(h>>16), uint16(h)
			frame = frame[4:]
		}
		if l.Seq {
			p.Seq = order.Uint32(frame)
			frame = frame[4:]
		}
		p.Body = frame
		packets = append(packets, p)
	}
}

// decodeAll runs the Codec over b as it arrives in two parts.
func decodeAll(t testing.TB, c *Codec, b []byte, split int) (packets []Packet, bad bool) {
	t.Helper()
	pos := 0
	for _, end := range []int{split, len(b)} {
		for {
			p, n, missing, err := c.Decode(b[pos:end])
			if err != nil {
				if !errors.Is(err, ErrBadFrame) {
					t.Fatalf("got error %v, want one that is ErrBadFrame", err)
				}
				return packets, true
			}
			if n == 0 {
				if missing <= 0 {
					t.Fatalf("nothing decoded of %d bytes, yet %d missing", end-pos, missing)
				}
				break
			}
			packets = append(packets, p)
			pos += n
		}
	}
	return packets, false
}

func samePackets(a, b []Packet) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].Handle() != b[i].Handle() || a[i].Seq != b[i].Seq || !bytes.Equal(a[i].Body, b[i].Body) {
			return false
		}
	}
	return true
}

func FuzzDecode(f *testing.F) {
	for i, l := range layouts {
		c, err := New(l.l, 512)
		if err != nil {
			f.Fatal(err)
		}
		p := Packet{Main: 1, Sub: 2, Body: []byte("hello")}
		if l.l.Seq {
			p.Seq = 7
		}
		b := mustAppend(f, c, nil, p)
		b = mustAppend(f, c, b, Packet{Main: 0, Sub: 0})
		f.Add(uint8(i), b)
	}
	for _, n := range []uint32{0, 1, 3, 4, 512, 513, 1 << 31, math.MaxUint32} {
		f.Add(uint8(0), binary.BigEndian.AppendUint32(nil, n))
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		l := layouts[int(which)%len(layouts)].l
		c := mustNew(t, l, 512)
		want, wantBad := naive(l, 512, b)
		for split := 0; split <= len(b); split++ {
			got, bad := decodeAll(t, c, b, split)
			if bad != wantBad || !samePackets(got, want) {
				t.Fatalf("%s, split at %d of %x: got %v bad=%v, want %v bad=%v",
					layouts[int(which)%len(layouts)].name, split, b, got, bad, want, wantBad)
			}
		}
		r := NewReader(iotest.OneByteReader(bytes.NewReader(b)), c)
		for i := 0; ; i++ {
			p, err := r.Next()
			if err != nil {
				if i != len(want) || errors.Is(err, ErrBadFrame) != wantBad {
					t.Fatalf("reader ended after %d packets with %v, want %d, bad=%v", i, err, len(want), wantBad)
				}
				return
			}
			if i >= len(want) || !samePackets([]Packet{p}, want[i:i+1]) {
				t.Fatalf("reader's packet %d is %v, want %v", i, p, want)
			}
		}
	})
}

func TestEveryLayoutDecodesWhatItEncodes(t *testing.T) {
	for _, tt := range layouts {
		t.Run(tt.name, func(t *testing.T) {
			c := mustNew(t, tt.l, 0)
			var b []byte
			var want []Packet
			for n := 0; n < 40; n++ {
				p := Packet{Main: uint16(n), Sub: uint16(2 * n), Body: bytes.Repeat([]byte{byte(n)}, n)}
				if tt.l.Seq {
					p.Seq = uint32(n) << 20
				}
				before := len(b)
				b = mustAppend(t, c, b, p)
				if got := len(b) - before - n; got != c.Overhead() {
					t.Fatalf("overhead is %d, want %d", got, c.Overhead())
				}
				want = append(want, p)
			}
			for split := 0; split <= len(b); split++ {
				if got, bad := decodeAll(t, c, b, split); bad || !samePackets(got, want) {
					t.Fatalf("split at %d: got %d packets, bad=%v", split, len(got), bad)
				}
			}
		})
	}
}

func TestDefaultFrameOnTheWire(t *testing.T) {
	got := Packet{Main: 1, Sub: 2, Body: []byte("hi")}.Append([]byte("x"))
	want := []byte{'x', 0, 0, 0, 6, 0, 1, 0, 2, 'h', 'i'}
	if !bytes.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	if h := (Packet{Main: 0x1234, Sub: 0x5678}).Handle(); h != 0x12345678 {
		t.Fatalf("handle is %#x", h)
	}
}

func TestLengthLimits(t *testing.T) {
	c := Default()
	for _, tt := range []struct {
		length uint32
		ok     bool
	}{{0, false}, {1, false}, {3, false}, {4, true}, {65536, true}, {65537, false}, {1 << 31, false}, {math.MaxUint32, false}} {
		t.Run(fmt.Sprint(tt.length), func(t *testing.T) {
			b := binary.BigEndian.AppendUint32(nil, tt.length)
			_, missing, err := c.Frame(b)
			if (err == nil) != tt.ok {
				t.Fatalf("got error %v, want accepted=%v", err, tt.ok)
			}
			if tt.ok && missing != int(tt.length) {
				t.Fatalf("missing %d, want %d", missing, tt.length)
			}
		})
	}
}

func TestWrongPrefixIsSeenAtItsFirstWrongByte(t *testing.T) {
	c := mustNew(t, Layout{Prefix: []byte("MILL")}, 0)
	if _, missing, err := c.Frame([]byte("MI")); err != nil || missing != 6 {
		t.Fatalf("got missing %d, %v; want 6, nil", missing, err)
	}
	if _, _, err := c.Frame([]byte("MX")); !errors.Is(err, ErrBadFrame) {
		t.Fatalf("got %v, want ErrBadFrame", err)
	}
}

func TestBadHeaderAllocatesOnlyItsError(t *testing.T) {
	b := binary.BigEndian.AppendUint32(nil, math.MaxUint32)
	if n := testing.AllocsPerRun(100, func() { Default().Decode(b) }); n > 1 {
		t.Fatalf("%v allocations for a bad header, want at most 1", n)
	}
	good := Packet{Main: 1, Body: make([]byte, 64)}.Append(nil)
	dst := make([]byte, 0, 128)
	if n := testing.AllocsPerRun(100, func() {
		p, _, _, _ := Default().Decode(good)
		dst = p.Append(dst[:0])
	}); n != 0 {
		t.Fatalf("%v allocations for a good frame, want 0", n)
	}
}

func TestBadLayoutsAreRefusedWithEveryFault(t *testing.T) {
	for _, tt := range []struct {
		name  string
		l     Layout
		limit int
	}{
		{"width", Layout{LengthWidth: 3}, 0},
		{"prefix", Layout{Prefix: make([]byte, 33)}, 0},
		{"command", Layout{Command: 9}, 0},
		{"limit over the field", Layout{LengthWidth: 2}, 1 << 20},
		{"limit under a frame", Layout{}, 3},
		{"adjust", Layout{LengthAdjust: 5}, 0},
		{"limit negative", Layout{}, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := New(tt.l, tt.limit); err == nil {
				t.Fatal("accepted")
			}
		})
	}
}

// The limits of each field of a layout: a value at the limit is encoded and decoded unchanged; a
// value one above it is refused, and dst is not changed.
func TestWhatALayoutCannotSayIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name  string
		l     Layout
		limit int
		p     Packet
		want  error
	}{
		{"main in a byte", Layout{Command: MainSub8}, 0, Packet{Main: 255}, nil},
		{"main over a byte", Layout{Command: MainSub8}, 0, Packet{Main: 256}, ErrBadHandle},
		{"main that would be cut to 44", Layout{Command: MainSub8}, 0, Packet{Main: 300, Sub: 1}, ErrBadHandle},
		{"sub in a byte", Layout{Command: MainSub8}, 0, Packet{Sub: 255}, nil},
		{"sub over a byte", Layout{Command: MainSub8}, 0, Packet{Sub: 256}, ErrBadHandle},
		{"largest handle", Layout{}, 0, Packet{Main: 65535, Sub: 65535}, nil},
		{"largest handle in one field", Layout{Command: Handle32}, 0, Packet{Main: 65535, Sub: 65535}, nil},
		{"seq without a field", Layout{}, 0, Packet{Seq: 1}, ErrBadSeq},
		{"seq without a field, slow layout", Layout{LittleEndian: true}, 0, Packet{Seq: 1 << 31}, ErrBadSeq},
		{"largest seq", Layout{Seq: true}, 0, Packet{Seq: math.MaxUint32}, nil},
		{"body at the default limit", Layout{}, 0, Packet{Body: make([]byte, 65532)}, nil},
		{"body over the default limit", Layout{}, 0, Packet{Body: make([]byte, 65533)}, ErrBodyTooLarge},
		{"body at a short length", Layout{LengthWidth: 2}, 0, Packet{Body: make([]byte, 65531)}, nil},
		{"body over a short length", Layout{LengthWidth: 2}, 0, Packet{Body: make([]byte, 65532)}, ErrBodyTooLarge},
		{"body at a short length that counts itself", Layout{LengthWidth: 2, LengthAdjust: -2}, 0, Packet{Body: make([]byte, 65529)}, nil},
		{"body over a short length that counts itself", Layout{LengthWidth: 2, LengthAdjust: -2}, 0, Packet{Body: make([]byte, 65530)}, ErrBodyTooLarge},
		{"body at the frame limit", Layout{Seq: true}, 20, Packet{Body: make([]byte, 12)}, nil},
		{"body over the frame limit", Layout{Seq: true}, 20, Packet{Body: make([]byte, 13)}, ErrBodyTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := mustNew(t, tt.l, tt.limit)
			b, err := c.Append([]byte("before"), tt.p)
			if !errors.Is(err, tt.want) {
				t.Fatalf("Append: got %v, want %v", err, tt.want)
			}
			if check := c.Check(tt.p); fmt.Sprint(check) != fmt.Sprint(err) || c.Fits(tt.p) != (err == nil) {
				t.Fatalf("Check says %v, Fits %v, Append %v", check, c.Fits(tt.p), err)
			}
			var wire bytes.Buffer
			w := NewWriter(&wire, c)
			if err := w.Write(tt.p); !errors.Is(err, tt.want) {
				t.Fatalf("Writer: got %v, want %v", err, tt.want)
			}
			if tt.want != nil {
				if string(b) != "before" || w.Buffered() != 0 {
					t.Fatalf("a refused packet left %q, and %d bytes in the Writer", b, w.Buffered())
				}
				return
			}
			if got, bad := naive(tt.l, c.MaxFrame(), b[len("before"):]); bad || !samePackets(got, []Packet{tt.p}) {
				t.Fatalf("read back as %d packets, bad=%v", len(got), bad)
			}
		})
	}
}

func TestPacketAppendPanicsRatherThanDropASeq(t *testing.T) {
	defer func() {
		if err, _ := recover().(error); !errors.Is(err, ErrBadSeq) {
			t.Fatalf("got %v, want a panic with ErrBadSeq", err)
		}
	}()
	t.Fatalf("got frame %x", Packet{Seq: 1}.Append(nil))
}

func TestNobodyChangesTheDefault(t *testing.T) {
	*Default() = *mustNew(t, Layout{LittleEndian: true}, 0)
	if got := mustAppend(t, Default(), nil, Packet{Main: 1}); !bytes.Equal(got, Packet{Main: 1}.Append(nil)) {
		t.Fatalf("the default codec now writes %x", got)
	}
}

func BenchmarkDecodeAppend(b *testing.B) {
	for _, tt := range layouts {
		b.Run(tt.name, func(b *testing.B) {
			c := mustNew(b, tt.l, 0)
			frame := mustAppend(b, c, nil, Packet{Main: 1, Sub: 1, Body: make([]byte, 64)})
			dst := make([]byte, 0, 256)
			b.ReportAllocs()
			b.SetBytes(int64(len(frame)))
			for b.Loop() {
				p, _, _, err := c.Decode(frame)
				if err != nil {
					b.Fatal(err)
				}
				dst, _ = c.Append(dst[:0], p)
			}
		})
	}
}
