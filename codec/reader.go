package codec

import "io"

// streamBuffer is what a Reader begins with and a Writer sends at, in bytes.
const streamBuffer = 16 << 10

// maxEmptyReads is how many reads in a row may bring neither bytes nor an error.
const maxEmptyReads = 100

// Reader reads packets from a stream, for clients. It is for one goroutine.
type Reader struct {
	r   io.Reader
	c   *Codec
	f   Framer // instead of c, if set
	buf []byte // unread bytes are buf[pos:end]
	pos int
	end int
	// seen is how many of the unread bytes f has had without finding a frame.
	seen int
	err  error // the stream's, or a bad header's; whole frames before it still go out
}

// NewReader returns a Reader of r's frames; a nil Codec means Default(). Its buffer
// starts at 16 KiB and grows, as the bytes of a larger frame arrive, to that frame's
// size: what a header claims is not allocated before it is there.
func NewReader(r io.Reader, c *Codec) *Reader {
	if c == nil {
		c = Default()
	}
	return &Reader{r: r, c: c, f: c.framer, buf: make([]byte, streamBuffer)}
}

// NewFramerReader returns a Reader of frames as f finds them.
func NewFramerReader(r io.Reader, f Framer) *Reader {
	return &Reader{r: r, f: f, buf: make([]byte, streamBuffer)}
}

// Next blocks until a whole frame has been read. The body is valid until the next
// call. What arrived before an error, or with it, is handed out first. At a clean end of
// the stream the error is io.EOF, inside a frame it is io.ErrUnexpectedEOF, for a bad
// header a *FrameError, and io.ErrNoProgress when many reads bring nothing. The first
// error is final: the stream is not read again, and each further call returns it.
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

// Buffered reports how many bytes have been read from the stream and not yet
// handed out, also after an error.
func (r *Reader) Buffered() int { return r.end - r.pos }

// fill reads once, or until something comes.
func (r *Reader) fill(missing int) {
	if r.pos > 0 {
		r.end = copy(r.buf, r.buf[r.pos:r.end])
		r.pos = 0
	}
	if r.end == len(r.buf) {
		size := r.end + missing
		if len(r.buf) < size/2 { // 2*len may overflow where an int has 32 bits
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
