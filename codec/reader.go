package codec

import "io"

// streamBuffer is the initial size of a Reader's buffer, and the size at which a Writer sends, in
// bytes.
const streamBuffer = 16 << 10

// maxEmptyReads is how many consecutive reads may return neither bytes nor an error.
const maxEmptyReads = 100

// Reader reads packets from a stream, for clients. It must be used by one goroutine at a time.
type Reader struct {
	r   io.Reader
	c   *Codec
	f   Framer // instead of c, if set
	buf []byte // unread bytes are buf[pos:end]
	pos int
	end int
	// seen is the number of unread bytes that f has examined without finding a frame.
	seen int
	err  error // of the stream or a bad header; complete frames before it are still returned
}

// NewReader returns a Reader of r's frames; a nil Codec means Default(). Its buffer starts at 16
// KiB and grows, as the bytes of a larger frame arrive, up to that frame's size: the length in a
// header alone causes no allocation.
func NewReader(r io.Reader, c *Codec) *Reader {
	if c == nil {
		c = Default()
	}
	return &Reader{r: r, c: c, f: c.framer, buf: make([]byte, streamBuffer)}
}

// NewFramerReader returns a Reader of f's frames.
func NewFramerReader(r io.Reader, f Framer) *Reader {
	return &Reader{r: r, f: f, buf: make([]byte, streamBuffer)}
}

// Next blocks until a complete frame has been read. The body is valid until the next call. Frames
// that arrived before an error are returned first. The error is io.EOF at the end of the stream,
// io.ErrUnexpectedEOF if it ends inside a frame, a *FrameError for a bad header, and
// io.ErrNoProgress when many reads return nothing. The first error is final: the stream is not read
// again, and each further call returns it.
func (r *Reader) Next() (Packet, error) {
	for {
		p, n, missing, err := r.decode()
		switch {
		case err != nil:
			r.err = err
		case n > 0:
			r.pos += n
			return p, nil
		case r.err == nil:
			r.fill(missing)
			continue
		case r.err == io.EOF && r.pos < r.end:
			r.err = io.ErrUnexpectedEOF
		}
		return Packet{}, r.err
	}
}

func (r *Reader) decode() (p Packet, n, missing int, err error) {
	b := r.buf[r.pos:r.end]
	if r.f == nil {
		return r.c.Decode(b)
	}
	p, n, missing, err = Decode(r.f, b, r.seen)
	r.seen = len(b)
	if n > 0 {
		r.seen = 0
	}
	return p, n, missing, err
}

// Buffered returns how many bytes have been read from the stream and not yet returned by Next, also
// after an error.
func (r *Reader) Buffered() int { return r.end - r.pos }

// fill reads from the stream until it gets bytes or an error.
func (r *Reader) fill(missing int) {
	if r.pos > 0 {
		r.end = copy(r.buf, r.buf[r.pos:r.end])
		r.pos = 0
	}
	if r.end == len(r.buf) {
		size := r.end + missing
		if len(r.buf) < size/2 { // 2*len may overflow a 32-bit int
			size = 2 * len(r.buf)
		}
		next := make([]byte, size)
		copy(next, r.buf[:r.end])
		r.buf = next
	}
	free := r.buf[r.end:]
	for range maxEmptyReads {
		n, err := r.r.Read(free)
		if n < 0 || n > len(free) {
			r.err = errBadCount
			return
		}
		r.end += n
		r.err = err
		if n > 0 || err != nil {
			return
		}
	}
	r.err = io.ErrNoProgress
}
