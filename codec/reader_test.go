package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"testing"
	"testing/iotest"
)

func TestReaderAllocatesWhatArrivesNotWhatIsClaimed(t *testing.T) {
	c := mustNew(t, Layout{}, 1<<30)
	b := binary.BigEndian.AppendUint32(nil, 1<<30)
	r := NewReader(bytes.NewReader(b), c)
	if _, err := r.Next(); err != io.ErrUnexpectedEOF {
		t.Fatalf("got %v, want io.ErrUnexpectedEOF", err)
	}
	if cap(r.buf) > 2*streamBuffer {
		t.Fatalf("the buffer grew to %d for a header alone", cap(r.buf))
	}
}

// readerFunc is an io.Reader.
type readerFunc func(b []byte) (int, error)

func (f readerFunc) Read(b []byte) (int, error) { return f(b) }

// frames returns a stream of n packets, of growing size.
func frames(n int) (stream []byte) {
	for i := range n {
		stream = Packet{Main: 1, Sub: uint16(i), Body: bytes.Repeat([]byte{byte(i)}, 37*i)}.Append(stream)
	}
	return stream
}

// wantFrames reads n of frames' packets, then the error, twice.
func wantFrames(t *testing.T, r *Reader, n int, end error) {
	t.Helper()
	for i := range n {
		p, err := r.Next()
		if err != nil || p.Sub != uint16(i) || !bytes.Equal(p.Body, bytes.Repeat([]byte{byte(i)}, 37*i)) {
			t.Fatalf("packet %d: got %d/%d with %d bytes, %v", i, p.Main, p.Sub, len(p.Body), err)
		}
	}
	for range 2 {
		if _, err := r.Next(); !errors.Is(err, end) {
			t.Fatalf("at the end: got %v, want %v", err, end)
		}
	}
}

func TestReaderLosesNothingOfAnOddReader(t *testing.T) {
	stream := frames(300)
	for name, odd := range map[string]func(io.Reader) io.Reader{
		"one byte":            iotest.OneByteReader,
		"half":                iotest.HalfReader,
		"error with the data": iotest.DataErrReader,
		"error with the data, byte by byte": func(r io.Reader) io.Reader {
			return iotest.DataErrReader(iotest.OneByteReader(r))
		},
		"nothing 99 times in 100": func(r io.Reader) io.Reader {
			n := 0
			return readerFunc(func(b []byte) (int, error) {
				if n++; n%100 != 0 {
					return 0, nil
				}
				return r.Read(b)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			wantFrames(t, NewReader(odd(bytes.NewReader(stream)), nil), 300, io.EOF)
			wantFrames(t, NewReader(odd(bytes.NewReader(stream[:len(stream)-1])), nil), 299, io.ErrUnexpectedEOF)
			wantFrames(t, NewReader(odd(io.MultiReader(bytes.NewReader(stream), iotest.ErrReader(os.ErrPermission))), nil), 300, os.ErrPermission)
		})
	}
}

// A reader that gives up once is not asked again, even if it would go on.
func TestReaderStopsAtTheFirstError(t *testing.T) {
	stream := frames(3)
	first, rest := stream[:len(stream)-5], stream[len(stream)-5:]
	for name, r := range map[string]io.Reader{
		"error alone":         io.MultiReader(bytes.NewReader(first), &once{err: os.ErrDeadlineExceeded}, bytes.NewReader(rest)),
		"error with the data": io.MultiReader(&once{data: first, err: os.ErrDeadlineExceeded}, bytes.NewReader(rest)),
	} {
		t.Run(name, func(t *testing.T) {
			rd := NewReader(r, nil)
			wantFrames(t, rd, 2, os.ErrDeadlineExceeded)
			if want := len(first) - len(frames(2)); rd.Buffered() != want {
				t.Fatalf("%d bytes buffered, want the %d of the torn frame", rd.Buffered(), want)
			}
		})
	}
}

// once gives data and an error, then io.EOF.
type once struct {
	data []byte
	err  error
}

func (o *once) Read(b []byte) (int, error) {
	err := o.err
	o.err = io.EOF
	n := copy(b, o.data)
	o.data = o.data[n:]
	return n, err
}

func TestReaderThatBringsNothingIsAnError(t *testing.T) {
	calls := 0
	r := NewReader(io.MultiReader(bytes.NewReader(frames(2)), readerFunc(func([]byte) (int, error) {
		calls++
		return 0, nil
	})), nil)
	wantFrames(t, r, 2, io.ErrNoProgress)
	if calls != maxEmptyReads {
		t.Fatalf("read %d times, want %d", calls, maxEmptyReads)
	}
}

func TestReaderThatCountsWrongIsAnError(t *testing.T) {
	for name, count := range map[string]func(b []byte) int{
		"negative":       func([]byte) int { return -1 },
		"more than room": func(b []byte) int { return len(b) + 1 },
	} {
		t.Run(name, func(t *testing.T) {
			wantFrames(t, NewReader(readerFunc(func(b []byte) (int, error) { return count(b), nil }), nil), 0, errBadCount)
			wantFrames(t, NewReader(readerFunc(func(b []byte) (int, error) { return count(b), io.EOF }), nil), 0, errBadCount)
		})
	}
}
