package capture

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math"
	"net/netip"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"millrace/codec"
)

// sample is a small recording, written by hand.
func sample() []byte {
	a, b := netip.MustParseAddrPort("192.0.2.1:1234"), netip.MustParseAddrPort("192.0.2.2:7000")
	at := time.Unix(1_700_000_000, 123456789)
	frame := codec.Packet{Main: 1, Sub: 1, Body: []byte("hello")}.Append(nil)
	f := appendHead(nil, form{1, "length", codec.Layout{}, codec.DefaultMaxFrame, ""})
	f = appendPacket(f, at, true, packet{from: a, to: b, flags: flagSYN}, "session 1.1")
	f = appendPacket(f, at, true, packet{from: a, to: b, seq: 1, ack: 1, flags: flagACK | flagPSH, payload: frame}, "")
	f = appendPacket(f, at.Add(time.Second), false, packet{from: b, to: a, seq: 1, ack: 14, flags: flagACK | flagPSH, payload: frame}, "")
	f = appendPacket(f, at.Add(time.Second), true, packet{from: a, to: b, seq: 14, ack: 14, flags: flagACK | flagFIN}, "closed: peer_closed")
	return appendStats(f, at, 4, 0)
}

// turned is a recording as a machine of the other byte order writes it.
func turned(b []byte) []byte {
	b = bytes.Clone(b)
	swap := func(at, n int) {
		for i, j := at, at+n-1; i < j; i, j = i+1, j-1 {
			b[i], b[j] = b[j], b[i]
		}
	}
	for at := 0; at < len(b); {
		typ, size := le.Uint32(b[at:]), int(le.Uint32(b[at+4:]))
		body, end := at+8, at+size-4
		switch typ {
		case blockSection:
			swap(body, 4)
			swap(body+4, 2)
			swap(body+6, 2)
			body += 16
		case blockInterface:
			swap(body, 2)
			swap(body+4, 4)
			body += 8
		case blockPacket:
			n := int(le.Uint32(b[body+12:]))
			for i := range 5 {
				swap(body+4*i, 4)
			}
			body += 20 + (n+3)&^3
		case blockStats:
			for i := range 3 {
				swap(body+4*i, 4)
			}
			body += 12
		}
		for body < end {
			code, n := le.Uint16(b[body:]), int(le.Uint16(b[body+2:]))
			swap(body, 2)
			swap(body+2, 2)
			switch {
			case typ == blockPacket && code == optFlags:
				swap(body+4, 4)
			case typ == blockStats && n == 8:
				swap(body+4, 8)
			}
			body += 4 + (n+3)&^3
		}
		swap(at, 4)
		swap(at+4, 4)
		swap(end, 4)
		at += size
	}
	return b
}

func TestEitherByteOrderIsRead(t *testing.T) {
	want, err := Index(bytes.NewReader(sample()))
	if err != nil {
		t.Fatal(err)
	}
	got, err := Index(bytes.NewReader(turned(sample())))
	if err != nil {
		t.Fatal(err)
	}
	got.Codec, want.Codec = nil, nil
	if !reflect.DeepEqual(got, want) || want.Requests != 1 || want.Answers != 1 || want.Length != time.Second || want.Sessions[0].Name != "session 1.1" {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// A packet that is written is read as it was, and its header's checksum is right.
func TestPacketsReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		addr := func(name string, six bool) netip.AddrPort {
			n := 4
			if six {
				n = 16
			}
			a, _ := netip.AddrFromSlice(rapid.SliceOfN(rapid.Byte(), n, n).Draw(t, name))
			return netip.AddrPortFrom(a, rapid.Uint16().Draw(t, name+" port"))
		}
		six := rapid.Bool().Draw(t, "IPv6")
		p := packet{
			from: addr("from", six), to: addr("to", six), seq: rapid.Uint32().Draw(t, "seq"), ack: rapid.Uint32().Draw(t, "ack"),
			flags: rapid.Byte().Draw(t, "flags"), payload: rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "payload"),
		}
		b := p.append(nil)
		if len(b) != p.size() {
			t.Fatalf("%d bytes, said to be %d", len(b), p.size())
		}
		if !six {
			sum := uint32(0)
			for i := 0; i < ip4Head; i += 2 {
				sum += uint32(binary.BigEndian.Uint16(b[i:]))
			}
			if sum = sum>>16 + sum&0xffff; sum != 0xffff {
				t.Fatalf("the header sums up to %#x", sum)
			}
		}
		got, err := parsePacket(b)
		if err != nil || got.from != p.from || got.to != p.to || got.seq != p.seq || got.ack != p.ack || got.flags != p.flags || string(got.payload) != string(p.payload) {
			t.Fatalf("got %+v, %v, want %+v", got, err, p)
		}
		for n := range b {
			if _, err := parsePacket(b[:n]); err == nil {
				t.Fatalf("%d bytes of %d were taken for a packet", n, len(b))
			}
		}
	})
}

// FuzzReader: whatever files hold, they are read to their end or refused, in an amount of
// memory that their length bounds; also one behind another.
func FuzzReader(f *testing.F) {
	f.Add(sample(), []byte{})
	f.Add(turned(sample()), sample())
	f.Add(sample()[:100], []byte{})
	f.Add(sample()[:300], turned(sample()))
	f.Add([]byte{}, sample())
	f.Fuzz(func(t *testing.T, b, behind []byte) {
		r, err := NewReader(bytes.NewReader(b))
		for n := 0; err == nil; n++ {
			var e Record
			if e, err = r.Next(); err != nil {
				break
			}
			if e.Kind > Closed || e.Session < 0 || e.Session >= r.Sessions() || n > len(b)/12 {
				t.Fatalf("record %d: %+v", n, e)
			}
			if len(e.Bytes) > 0 && !bytes.Equal(b[e.Offset:e.Offset+int64(len(e.Bytes))], e.Bytes) {
				t.Fatalf("record %d does not stand at %d", n, e.Offset)
			}
			if e.At.UnixNano() < 0 || e.At.UnixNano() == math.MaxInt64 {
				t.Fatalf("record %d at %v", n, e.At)
			}
		}
		wantFault(t, err)
		x, err := NewReader(bytes.NewReader(b))
		if err != nil {
			return
		}
		in := newIndexer(x)
		if _, _, err := in.read(); err != nil {
			return
		}
		if len(behind) > 0 {
			err := x.goOn(bytes.NewReader(behind), int64(len(b)))
			if err == nil {
				_, _, err = in.read()
			}
			if err != nil {
				wantFault(t, err)
				return
			}
		}
		rec, all := in.end(), slices.Concat(b, behind)
		for i := range rec.Sessions {
			for _, p := range rec.Sessions[i].pieces {
				end := p.offset + int64(p.size)
				if p.offset < 0 || end > int64(len(all)) || p.offset < int64(len(b)) && end > int64(len(b)) || p.at < 0 {
					t.Fatalf("session %d has %d bytes at %d, of %d and %d", i, p.size, p.offset, len(b), len(behind))
				}
			}
		}
		if _, err := rec.Scripts(bytes.NewReader(all)); err != nil && !errors.Is(err, ErrNothingToAsk) {
			t.Fatalf("got %v", err)
		}
	})
}

// wantFault wants one of the errors that reading a file ends with.
func wantFault(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, ErrFormat) {
		t.Fatalf("got %v", err)
	}
}
