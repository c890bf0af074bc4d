package codec

import "io"

// Writer writes packets to a stream, for clients. It must be used by one goroutine at a time.
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

// NewFramerWriter returns a Writer of f's frames.
func NewFramerWriter(w io.Writer, f Framer) *Writer { return &Writer{w: w, f: f} }

// Write adds p's frame to the buffer, and sends the buffer when it holds 16 KiB. It keeps no
// reference to p. A packet that no frame can hold is rejected with the error of Codec.Check or
// Framer.Append, and changes nothing. Any other error comes from the stream, as with Flush.
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

// Flush sends the buffered frames. A failed write may have sent part of a frame, so nothing is sent
// after it: every later Write and Flush returns its error, which is io.ErrShortWrite if the stream
// accepted fewer bytes than given without an error.
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

// Buffered returns how many bytes the stream has not accepted yet. After an error they are never
// sent.
func (w *Writer) Buffered() int { return len(w.buf) }
