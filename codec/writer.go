package codec

import "io"

// Writer writes packets to a stream, for clients. It is for one goroutine.
type Writer struct {
	w   io.Writer
	c   *Codec
	f   Framer // instead of c, if set
	buf []byte
	err error // of a failed write
}

// NewWriter returns a Writer of frames to w; a nil Codec means Default().
func NewWriter(w io.Writer, c *Codec) *Writer {
	if c == nil {
		c = Default()
	}
	return &Writer{w: w, c: c}
}

// NewFramerWriter returns a Writer of frames as f makes them.
func NewFramerWriter(w io.Writer, f Framer) *Writer { return &Writer{w: w, f: f} }

// Write adds p's frame to the buffer, and sends the buffer once it holds 16 KiB.
// It keeps nothing of p. A packet that no frame can hold is refused with the error of
// Codec.Check or Framer.Append, and changes nothing. Any other error is the stream's, as Flush returns it.
func (w *Writer) Write(p Packet) error {
	if w.err != nil {
		return w.err
	}
	var err error
	if w.f != nil {
		w.buf, err = w.f.Append(w.buf, p)
	} else {
		w.buf, err = w.c.Append(w.buf, p)
	}
	if err != nil {
		return err
	}
	if len(w.buf) >= streamBuffer {
		return w.Flush()
	}
	return nil
}

// Flush sends what Write has buffered. A write that fails may have sent part of a
// frame, so nothing goes out behind it: every later Write and Flush returns its error,
// which is io.ErrShortWrite if the stream took less than it was given and gave none.
func (w *Writer) Flush() error {
	if w.err != nil || len(w.buf) == 0 {
		return w.err
	}
	n, err := w.w.Write(w.buf)
	switch {
	case n < 0 || n > len(w.buf):
		n, err = 0, errBadCount
	case n < len(w.buf) && err == nil:
		err = io.ErrShortWrite
	}
	w.buf = w.buf[:copy(w.buf, w.buf[n:])]
	w.err = err
	return err
}

// Buffered reports how many bytes the stream has not taken yet. After an error they
// are never sent.
func (w *Writer) Buffered() int { return len(w.buf) }
