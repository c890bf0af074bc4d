package codec

import (
	"bytes"
	"errors"
	"io"
	"os"
	"testing"
	"testing/iotest"
)

// writerFunc is an io.Writer.
type writerFunc func(b []byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// takes is a stream that takes so many bytes, then fails once with err, then takes all
// again, as a connection does whose deadline has been moved.
type takes struct {
	left   int
	err    error
	failed bool
	got    bytes.Buffer
}

func (s *takes) Write(b []byte) (int, error) {
	if s.failed || len(b) <= s.left {
		s.left -= len(b)
		return s.got.Write(b)
	}
	s.failed = true
	s.got.Write(b[:s.left])
	return s.left, s.err
}

func TestNothingGoesOutBehindATornFrame(t *testing.T) {
	frame := Packet{Main: 1, Sub: 1, Body: make([]byte, 92)}.Append(nil)
	for name, tt := range map[string]struct{ err, want error }{
		"error":       {os.ErrDeadlineExceeded, os.ErrDeadlineExceeded},
		"short write": {nil, io.ErrShortWrite},
	} {
		t.Run(name, func(t *testing.T) {
			s := &takes{left: 250, err: tt.err}
			w := NewWriter(s, nil)
			for range 4 {
				if err := w.Write(Packet{Main: 1, Sub: 1, Body: make([]byte, 92)}); err != nil {
					t.Fatal(err)
				}
			}
			for range 3 {
				if err := w.Flush(); err != tt.want {
					t.Fatalf("Flush: got %v, want %v", err, tt.want)
				}
				if err := w.Write(Packet{Main: 1, Sub: 2}); err != tt.want {
					t.Fatalf("Write: got %v, want %v", err, tt.want)
				}
				if w.Buffered() != 150 {
					t.Fatalf("%d bytes buffered, want the 150 that were not taken", w.Buffered())
				}
			}
			if want := bytes.Repeat(frame, 3)[:250]; !bytes.Equal(s.got.Bytes(), want) {
				t.Fatalf("the stream got %d bytes, want the first 250 and nothing behind", s.got.Len())
			}
		})
	}
}

// Write sends by itself once 16 KiB are there; that may fail like a Flush.
func TestWriteReportsItsOwnFailedSend(t *testing.T) {
	s := &takes{left: 1000, err: os.ErrClosed}
	w := NewWriter(s, nil)
	var err error
	for range 3 {
		err = w.Write(Packet{Body: make([]byte, 8000)})
	}
	if err != os.ErrClosed || s.got.Len() != 1000 || w.Buffered() != 3*8008-1000 {
		t.Fatalf("got %v after %d bytes, %d buffered", err, s.got.Len(), w.Buffered())
	}
}

func TestWriterOverAStreamThatCountsWrong(t *testing.T) {
	for name, n := range map[string]int{"negative": -1, "more than given": 9} {
		t.Run(name, func(t *testing.T) {
			w := NewWriter(writerFunc(func([]byte) (int, error) { return n, nil }), nil)
			if err := w.Write(Packet{}); err != nil {
				t.Fatal(err)
			}
			for range 2 {
				if err := w.Flush(); err != errBadCount {
					t.Fatalf("got %v, want %v", err, errBadCount)
				}
			}
		})
	}
}

// A packet that is refused does not break the stream: later packets are still written.
func TestARefusedPacketDoesNotEndAWriter(t *testing.T) {
	var wire bytes.Buffer
	w := NewWriter(&wire, mustNew(t, Layout{Command: MainSub8}, 0))
	for _, p := range []Packet{{Main: 1}, {Main: 300}, {Seq: 1}, {Body: make([]byte, DefaultMaxFrame)}, {Main: 2}} {
		_ = w.Write(p)
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if got, bad := naive(Layout{Command: MainSub8}, 100, wire.Bytes()); bad || !samePackets(got, []Packet{{Main: 1}, {Main: 2}}) {
		t.Fatalf("got %v, bad=%v", got, bad)
	}
}

// FuzzStream: what a Writer takes, a Reader gives back, in every layout and over odd
// streams; what it refuses is what a plain reading of the layout has no room for. The
// stream may break at any byte: then whole frames before it come out, and no others.
func FuzzStream(f *testing.F) {
	for i := range layouts {
		f.Add(uint8(i), uint8(i), uint16(1), uint16(2), uint32(3), []byte("hello"), uint16(10))
		f.Add(uint8(i), uint8(i), uint16(300), uint16(1), uint32(0), make([]byte, 510), uint16(1000))
		f.Add(uint8(i), uint8(i), uint16(1), uint16(256), uint32(1<<31), []byte{}, uint16(0))
	}
	f.Fuzz(func(t *testing.T, which, how uint8, main, sub uint16, seq uint32, body []byte, cut uint16) {
		const limit = 512
		l := layouts[int(which)%len(layouts)].l
		c := mustNew(t, l, limit)
		var wire bytes.Buffer
		var want []Packet
		w := NewWriter(&wire, c)
		for i := range uint16(8) {
			p := Packet{Main: main >> i, Sub: sub >> (7 - i), Seq: seq >> (4 * i), Body: body[:len(body)>>(i/2)]}
			fields := 4
			room := l.Command != MainSub8 || p.Main < 256 && p.Sub < 256
			if l.Command == MainSub8 {
				fields = 2
			}
			if l.Seq {
				fields += 4
			} else {
				room = room && p.Seq == 0
			}
			room = room && fields+len(p.Body) <= limit
			if err := w.Write(p); (err == nil) != room {
				t.Fatalf("Write of %d/%d, Seq %d, %d bytes: %v", p.Main, p.Sub, p.Seq, len(p.Body), err)
			}
			if room {
				want = append(want, p)
			}
		}
		if err := w.Flush(); err != nil {
			t.Fatal(err)
		}
		stream, end := wire.Bytes(), error(io.EOF)
		if int(cut) < len(stream) {
			stream = stream[:cut]
			whole, _ := naive(l, limit, stream)
			want = want[:len(whole)]
			size := 0
			for _, p := range want {
				size += c.Overhead() + len(p.Body)
			}
			if size < len(stream) {
				end = io.ErrUnexpectedEOF
			}
		}
		var r io.Reader = bytes.NewReader(stream)
		if how&1 != 0 {
			r, end = io.MultiReader(r, iotest.ErrReader(os.ErrPermission)), os.ErrPermission
		}
		if how&2 != 0 {
			r = iotest.OneByteReader(r)
		}
		if how&4 != 0 {
			r = iotest.DataErrReader(r)
		}
		rd := NewReader(r, c)
		for i, p := range want {
			got, err := rd.Next()
			if err != nil || !samePackets([]Packet{got}, []Packet{p}) {
				t.Fatalf("packet %d of %d: got %v, %v", i, len(want), got, err)
			}
		}
		for range 2 {
			if _, err := rd.Next(); !errors.Is(err, end) {
				t.Fatalf("at the end: got %v, want %v", err, end)
			}
		}
	})
}
