package codec

import (
	"errors"
	"fmt"
	"io"
)

// ErrBodyTooLarge: a packet's body is longer than the codec's MaxBody.
var ErrBodyTooLarge = errors.New("codec: body too large")

const streamBuffer = 16 << 10

// Reader reads packets from a stream, for clients. It is for one goroutine.
type Reader struct {
	r    io.Reader
	c    *Codec
	buf  []byte // unread bytes are buf[pos:end]
	pos  int
	end  int
	fail error
}

// NewReader returns a Reader of r's frames; a nil Codec means Default. Its buffer
// starts at 16 KiB and grows, as the bytes of a larger frame arrive, to that frame's
// size: what a header claims is not allocated before it is there.
func NewReader(r io.Reader, c *Codec) *Reader {
	if c == nil {
		c = Default
	}
	return &Reader{r: r, c: c, buf: make([]byte, streamBuffer)}
}

// Next blocks until a whole frame has been read. The body is valid until the next
// call. At a clean end of the stream the error is io.EOF, inside a frame it is
// io.ErrUnexpectedEOF, for a bad header a *FrameError; errors repeat.
func (r *Reader) Next() (Packet, error) {
	for r.fail == nil {
		p, n, missing, err := r.c.Decode(r.buf[r.pos:r.end])
		if err != nil {
			r.fail = err
			break
		}
		if n > 0 {
			r.pos += n
			return p, nil
		}
		r.fill(missing)
	}
	return Packet{}, r.fail
}

// Buffered reports how many bytes have been read from the stream and not yet
// handed out.
func (r *Reader) Buffered() int { return r.end - r.pos }

func (r *Reader) fill(missing int) {
	if r.pos > 0 {
		r.end = copy(r.buf, r.buf[r.pos:r.end])
		r.pos = 0
	}
	if r.end == len(r.buf) {
		next := make([]byte, min(2*len(r.buf), r.end+missing))
		copy(next, r.buf[:r.end])
		r.buf = next
	}
	n, err := r.r.Read(r.buf[r.end:])
	r.end += n
	if n > 0 || err == nil {
		return // an error comes again with the next Read
	}
	if err == io.EOF && r.end > 0 {
		err = io.ErrUnexpectedEOF
	}
	r.fail = err
}

// Writer writes packets to a stream, for clients. It is for one goroutine.
type Writer struct {
	w   io.Writer
	c   *Codec
	buf []byte
}

// NewWriter returns a Writer of frames to w; a nil Codec means Default.
func NewWriter(w io.Writer, c *Codec) *Writer {
	if c == nil {
		c = Default
	}
	return &Writer{w: w, c: c}
}

// Write adds p's frame to the buffer, and sends the buffer once it holds 16 KiB.
// It keeps nothing of p. The error is ErrBodyTooLarge or the stream's.
func (w *Writer) Write(p Packet) error {
	if len(p.Body) > w.c.MaxBody() {
		return fmt.Errorf("%w: %d bytes, at most %d", ErrBodyTooLarge, len(p.Body), w.c.MaxBody())
	}
	w.buf = w.c.Append(w.buf, p)
	if len(w.buf) >= streamBuffer {
		return w.Flush()
	}
	return nil
}

// Flush sends what Write has buffered.
func (w *Writer) Flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	_, err := w.w.Write(w.buf)
	w.buf = w.buf[:0]
	return err
}
