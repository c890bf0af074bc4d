package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"testing"
	"testing/iotest"
)

const framerLimit = 20

// mqtt frames: a type byte, a varint of up to four bytes, so many bytes.
func mqtt(b []byte, _ int) (size, missing int, err error) {
	length := 0
	for i := 1; i <= 4; i++ {
		if i >= len(b) {
			return 0, i + 1 - len(b), nil
		}
		length |= int(b[i]&0x7f) << (7 * (i - 1))
		if b[i] < 0x80 {
			size = 1 + i + length
			return size, max(0, size-len(b)), nil
		}
	}
	return 0, 0, errors.New("no end of the length")
}

// framing is a Framer with a slow and plain reading of it, which tells the first
// frame's size and body, and whether b is bad; size 0 is a frame that isn't all there.
type framing struct {
	name  string
	make  func() (Framer, error)
	naive func(b []byte) (size int, p Packet, bad bool)
}

var framers = []framing{
	{"varint", func() (Framer, error) { return Varint(framerLimit) }, func(b []byte) (int, Packet, bool) {
		length, head := binary.Uvarint(b[:min(len(b), 5)])
		switch {
		case head <= 0 && len(b) >= 5:
			return 0, Packet{}, true
		case head <= 0:
			return 0, Packet{}, false
		case length < 4 || length > framerLimit:
			return 0, Packet{}, true
		case uint64(len(b)-head) < length:
			return 0, Packet{}, false
		}
		b = b[head : head+int(length)]
		return head + int(length), Packet{Main: uint16(b[0])<<8 | uint16(b[1]), Sub: uint16(b[2])<<8 | uint16(b[3]), Body: b[4:]}, false
	}},
	{"line", func() (Framer, error) { return Line(framerLimit) }, func(b []byte) (int, Packet, bool) {
		line, _, found := bytes.Cut(b, []byte("\n"))
		if len(line) > framerLimit {
			return 0, Packet{}, true
		}
		if !found {
			return 0, Packet{}, false
		}
		return len(line) + 1, Packet{Body: bytes.TrimSuffix(line, []byte("\r"))}, false
	}},
	{"delimiter", func() (Framer, error) { return Delimiter([]byte("aab"), framerLimit) }, naiveDelimiter("aab")},
	{"one byte", func() (Framer, error) { return Delimiter([]byte{0}, framerLimit) }, naiveDelimiter("\x00")},
	{"overlapping", func() (Framer, error) { return Delimiter([]byte("aa"), framerLimit) }, naiveDelimiter("aa")},
	{"fixed", func() (Framer, error) { return Fixed(7, framerLimit) }, func(b []byte) (int, Packet, bool) {
		if len(b) < 7 {
			return 0, Packet{}, false
		}
		return 7, Packet{Body: b[:7]}, false
	}},
	{"splitter", func() (Framer, error) { return Splitter(mqtt, framerLimit) }, func(b []byte) (int, Packet, bool) {
		length := uint64(0)
		for i, c := range b {
			if i == 0 {
				continue
			}
			length += uint64(c%128) << (7 * (i - 1))
			if c < 128 {
				size := 1 + i + int(length)
				if size > framerLimit {
					return 0, Packet{}, true
				}
				if len(b) < size {
					return 0, Packet{}, false
				}
				return size, Packet{Body: b[:size]}, false
			}
			if i == 4 {
				return 0, Packet{}, true
			}
		}
		return 0, Packet{}, false
	}},
}

// naiveDelimiter cuts at end, and refuses when more than the limit must stand before it.
func naiveDelimiter(end string) func(b []byte) (int, Packet, bool) {
	return func(b []byte) (int, Packet, bool) {
		for at := 0; at <= len(b); at++ {
			rest := b[at:]
			if bytes.HasPrefix(rest, []byte(end)) {
				return at + len(end), Packet{Body: b[:at]}, at > framerLimit
			}
			if len(rest) < len(end) && bytes.HasPrefix([]byte(end), rest) {
				return 0, Packet{}, at > framerLimit // it may end here
			}
		}
		return 0, Packet{}, false
	}
}

func mustFramer(t testing.TB, make func() (Framer, error)) Framer {
	t.Helper()
	f, err := make()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// framerAll runs a Framer over b as it arrives in two parts, telling it what it has
// seen, and checks that it never asks for more than there is to a frame.
func framerAll(t testing.TB, f Framer, b []byte, split int) (packets []Packet, bad bool) {
	t.Helper()
	pos, seen := 0, 0
	for _, end := range []int{split, len(b)} {
		for {
			p, n, missing, err := Decode(f, b[pos:end], seen)
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
				seen = end - pos
				break
			}
			packets = append(packets, p)
			pos += n
			seen = 0
		}
	}
	return packets, false
}

func FuzzFramer(f *testing.F) {
	for i := range framers {
		for _, seed := range []string{
			"", "\x05\x00\x01\x00\x02x\x04\x00\x00\x00\x01", "\x85\x80\x80\x80\x00\x00\x01\x00\x02x", "\xff\xff\xff\xff\xff\x00", "\x84\x80\x80\x80\x80\x00\x00\x01\x00\x02",
			"one\r\ntwo\r\r\n\n\r\n", "01234567890123456789\n", "0123456789012345678\r\r\n", "aaabaab", "aaaaa", "x\x00\x00",
			"\x10\x03abc\x20\x00", "\x10\x80\x80\x80\x80\x01", "012345678901234567890aab", "0123456789012345678aab",
		} {
			f.Add(uint8(i), []byte(seed))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, b []byte) {
		tt := framers[int(which)%len(framers)]
		fr := mustFramer(t, tt.make)
		var want []Packet
		wantBad := false
		for rest := b; ; {
			size, p, bad := tt.naive(rest)
			if wantBad = bad; bad || size == 0 {
				break
			}
			want = append(want, p)
			rest = rest[size:]
		}
		for split := 0; split <= len(b); split++ {
			got, bad := framerAll(t, fr, b, split)
			if bad != wantBad || !samePackets(got, want) {
				t.Fatalf("%s, split at %d of %q: got %v bad=%v, want %v bad=%v", tt.name, split, b, got, bad, want, wantBad)
			}
		}
		r := NewFramerReader(iotest.OneByteReader(bytes.NewReader(b)), fr)
		for i := 0; ; i++ {
			p, err := r.Next()
			if err != nil {
				if i != len(want) || errors.Is(err, ErrBadFrame) != wantBad {
					t.Fatalf("%s: reader ended after %d packets of %q with %v, want %d, bad=%v", tt.name, i, b, err, len(want), wantBad)
				}
				break
			}
			if i >= len(want) || !samePackets([]Packet{p}, want[i:i+1]) {
				t.Fatalf("%s: reader's packet %d of %q is %v", tt.name, i, b, p)
			}
		}
		// What it takes to write is read back, alone and whole.
		for _, p := range append(want, Packet{Body: b}) {
			wire, err := fr.Append([]byte("x"), p)
			if err != nil {
				if string(wire) != "x" {
					t.Fatalf("%s: a refused packet left %q", tt.name, wire)
				}
				continue
			}
			if tt.name == "splitter" {
				continue // its bodies are frames or not by the caller's word
			}
			if tt.name == "line" {
				p.Body = bytes.TrimSuffix(p.Body, []byte("\r"))
			}
			if got, bad := framerAll(t, fr, wire[1:], 0); bad || !samePackets(got, []Packet{p}) {
				t.Fatalf("%s: %v was written as %q and read as %v, bad=%v", tt.name, p, wire, got, bad)
			}
		}
	})
}

func TestFramersAllocateNothing(t *testing.T) {
	for _, tt := range framers {
		f := mustFramer(t, tt.make)
		p := Packet{Body: []byte("1234567")}
		if tt.name == "splitter" {
			p.Body = []byte("\x10\x05hello")
		}
		wire, err := f.Append(nil, p)
		if err != nil {
			t.Fatal(err)
		}
		dst := make([]byte, 0, 64)
		n := testing.AllocsPerRun(100, func() {
			for end := range len(wire) + 1 {
				got, n, _, err := Decode(f, wire[:end], end/2)
				if err != nil || (n > 0) != (end == len(wire)) {
					panic("wrong")
				}
				if n > 0 {
					dst, _ = f.Append(dst[:0], got)
				}
			}
		})
		if n != 0 || !bytes.Equal(dst, wire) {
			t.Errorf("%s: %v allocations a frame, want 0; wrote %q, want %q", tt.name, n, dst, wire)
		}
	}
}

func TestWhatAFramingCannotSayIsRefused(t *testing.T) {
	long := make([]byte, framerLimit+1)
	for _, tt := range []struct {
		framer string
		p      Packet
		want   error
	}{
		{"varint", Packet{Seq: 1}, ErrBadSeq},
		{"varint", Packet{Body: long[:framerLimit-3]}, ErrBodyTooLarge},
		{"line", Packet{Main: 1}, ErrBadHandle},
		{"line", Packet{Seq: 1}, ErrBadSeq},
		{"line", Packet{Body: long}, ErrBodyTooLarge},
		{"line", Packet{Body: []byte("a\nb")}, ErrBadBody},
		{"delimiter", Packet{Body: []byte("xaabx")}, ErrBadBody},
		{"overlapping", Packet{Body: []byte("xa")}, ErrBadBody}, // xa aa: the end would be found one byte early
		{"fixed", Packet{Body: []byte("six...")}, ErrBadBody},
		{"fixed", Packet{Body: []byte("eight...")}, ErrBodyTooLarge},
		{"splitter", Packet{}, ErrBadBody},
	} {
		i := slices.IndexFunc(framers, func(f framing) bool { return f.name == tt.framer })
		got, err := mustFramer(t, framers[i].make).Append([]byte("x"), tt.p)
		if !errors.Is(err, tt.want) || string(got) != "x" {
			t.Errorf("%s, %v: got %v and %q, want %v", tt.framer, tt.p, err, got, tt.want)
		}
	}
}

// A Splitter function that returns impossible counts ends the stream: nothing hangs or reads beyond b.
func TestAFramerThatCountsWrongEndsTheStream(t *testing.T) {
	for _, tt := range []struct{ size, missing int }{{0, 0}, {-1, 0}, {5, 0}, {2, 1}, {0, -1}, {5, 2}, {-3, 1}} {
		f := mustFramer(t, func() (Framer, error) {
			return Splitter(func([]byte, int) (int, int, error) { return tt.size, tt.missing, nil }, framerLimit)
		})
		if _, _, _, err := Decode(f, []byte("abcd"), 0); !errors.Is(err, ErrBadFramer) {
			t.Errorf("size %d, missing %d of 4 bytes: got %v, want ErrBadFramer", tt.size, tt.missing, err)
		}
	}
}

func TestParseFramer(t *testing.T) {
	for _, s := range []string{"varint", "line", "delimiter=0D0a", "fixed=16"} {
		if f, err := ParseFramer(s, 0); f == nil || err != nil {
			t.Errorf("%s: got %v, %v", s, f, err)
		}
	}
	if f, err := ParseFramer("length", 0); f != nil || err != nil {
		t.Errorf("length: got %v, %v, want neither framer nor error", f, err)
	}
	for _, s := range []string{"", "lines", "delimiter", "delimiter=", "delimiter=0", "delimiter=xy", "fixed", "fixed=0", "fixed=-1",
		"fixed=65537", "fixed=x", "line=1", "varint=32", "delimiter=" + string(bytes.Repeat([]byte("00"), 33))} {
		if f, err := ParseFramer(s, 0); err == nil {
			t.Errorf("%q: accepted as %v", s, f)
		}
	}
	if _, err := ParseFramer("line", -1); err == nil {
		t.Error("a negative limit was accepted")
	}
}

// Bytes that have been searched are not searched again: a line that arrives byte by
// byte costs as much as one that arrives whole, but for the calls.
func BenchmarkLineByteByByte(b *testing.B) {
	f := mustFramer(b, func() (Framer, error) { return Line(0) })
	line := append(bytes.Repeat([]byte("x"), 60<<10), '\n')
	b.ReportAllocs()
	for b.Loop() {
		for end := 1; end <= len(line); end++ {
			if _, n, _, err := Decode(f, line[:end], end-1); err != nil || (n > 0) != (end == len(line)) {
				b.Fatal(n, err)
			}
		}
	}
}
