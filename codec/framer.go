package codec

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Framer finds and writes the frames of a stream that no [Layout] describes. Its
// methods are called by many goroutines at once and keep nothing of what they are
// given. [Varint], [Line], [Delimiter] and [Fixed] are ready-made; [Splitter] makes one
// of a function.
type Framer interface {
	// Split finds the first frame of b, an unread piece of the stream. size is its
	// length with everything around the body, 0 while that can't be told. missing is
	// how many bytes b lacks: at least so many more are needed before another call can
	// do more. It is 0 when the frame is all there. seen is how much of b an earlier
	// call has had without finding a frame (0 is always right), so that nothing needs
	// to be searched twice. An error is ErrBadFrame and final for the stream.
	Split(b []byte, seen int) (size, missing int, err error)

	// Packet reads the frame that fills b exactly, as Split sized it. The body is a
	// window of b.
	Packet(b []byte) Packet

	// Append adds p's frame to dst and returns the longer slice. What the framing
	// can't say is an error, and dst is returned as it was.
	Append(dst []byte, p Packet) ([]byte, error)

	// Handles tells whether frames carry Main and Sub. Where they don't, both are 0
	// in every packet, and there are no system frames.
	Handles() bool
}

// ErrBadBody: a body that would be read back as another, or as two.
var ErrBadBody = errors.New("codec: body does not fit the framing")

// ErrBadFramer: a Framer has broken its contract, for example with a frame of no bytes.
var ErrBadFramer = errors.New("codec: framer counts wrong")

// Decode is [Codec.Decode] for a Framer; seen is as for Framer.Split, and may be 0. Of
// a Framer that counts wrong it returns ErrBadFramer, so that no loop over it hangs.
func Decode(f Framer, b []byte, seen int) (p Packet, n, missing int, err error) {
	size, missing, err := f.Split(b, seen)
	switch {
	case err != nil:
		return Packet{}, 0, 0, err
	case missing > 0 && (size == 0 || size-len(b) == missing):
		return Packet{}, 0, missing, nil
	case missing != 0 || size <= 0 || size > len(b):
		return Packet{}, 0, 0, fmt.Errorf("%w: size %d, missing %d of %d bytes", ErrBadFramer, size, missing, len(b))
	}
	return f.Packet(b[:size:size]), size, 0, nil
}

// ParseFramer reads what a user has written: length, varint, line, delimiter=HEX or
// fixed=N. For length it returns nil: that is a [Layout]. maxFrame is as for [Varint],
// [Line], [Delimiter] and [Fixed].
func ParseFramer(s string, maxFrame int) (Framer, error) {
	name, value, given := strings.Cut(s, "=")
	switch {
	case s == "length":
		return nil, nil
	case s == "varint":
		return Varint(maxFrame)
	case s == "line":
		return Line(maxFrame)
	case given && name == "delimiter":
		d, err := hex.DecodeString(value)
		if err != nil || len(d) == 0 {
			return nil, fmt.Errorf("codec: framing %q: the delimiter is not hexadecimal bytes, such as 0d0a", s)
		}
		return Delimiter(d, maxFrame)
	case given && name == "fixed":
		n, err := strconv.Atoi(value)
		if err != nil {
			return nil, fmt.Errorf("codec: framing %q: the size is not a number of bytes, such as fixed=16", s)
		}
		return Fixed(n, maxFrame)
	}
	return nil, fmt.Errorf("codec: framing %q: known are length, varint, line, delimiter=HEX and fixed=N", s)
}

// frameLimit is maxFrame with its default, checked.
func frameLimit(maxFrame, least int) (int, error) {
	if maxFrame == 0 {
		maxFrame = DefaultMaxFrame
	}
	if maxFrame < least || maxFrame > maxFrameLimit {
		return 0, fmt.Errorf("codec: frame limit %d: must be %d to %d", maxFrame, least, maxFrameLimit)
	}
	return maxFrame, nil
}

// plainBody checks a packet for a framing without handles.
func plainBody(p Packet, limit int) error {
	switch {
	case p.Handle() != 0:
		return fmt.Errorf("%w: %d/%d, the framing has no handles", ErrBadHandle, p.Main, p.Sub)
	case p.Seq != 0:
		return fmt.Errorf("%w: %d, the framing has no sequence numbers", ErrBadSeq, p.Seq)
	case len(p.Body) > limit:
		return fmt.Errorf("%w: %d bytes, at most %d", ErrBodyTooLarge, len(p.Body), limit)
	}
	return nil
}
