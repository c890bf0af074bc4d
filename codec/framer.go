package codec

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Framer reads and writes the frames of a stream that no [Layout] describes. Its methods are called
// by many goroutines at once and must not keep their arguments. [Varint], [Line], [Delimiter] and
// [Fixed] are built in; [Splitter] makes one from a function.
type Framer interface {
	// Split finds the first frame of b, an unread part of the stream. size is the length of the
	// whole frame, or 0 while it is unknown. missing is the number of bytes that b lacks: at least
	// that many more are needed before another call can make progress; it is 0 when the frame is
	// complete. seen is the number of bytes of b that an earlier call has examined without finding
	// a frame (0 is always correct), so that nothing needs to be searched twice. An error is an
	// ErrBadFrame and final for the stream.
	Split(b []byte, seen int) (size, missing int, err error)

	// Packet decodes the frame that fills b exactly, as sized by Split. The body is a slice of b.
	Packet(b []byte) Packet

	// Append appends p's frame to dst and returns the extended slice. If the framing can't
	// represent p, it returns dst unchanged and an error.
	Append(dst []byte, p Packet) ([]byte, error)

	// Handles reports whether frames carry Main and Sub. If not, both are 0 in every packet, and
	// there are no system frames.
	Handles() bool
}

// ErrBadBody: a body that would be read back as a different body, or as two.
var ErrBadBody = errors.New("codec: body does not fit the framing")

// ErrBadFramer: a Framer has violated its contract, for example with a frame of 0 bytes.
var ErrBadFramer = errors.New("codec: framer returns inconsistent sizes")

// Decode is [Codec.Decode] for a Framer; seen is as for Framer.Split, and may be 0. If the Framer
// returns inconsistent sizes, Decode returns ErrBadFramer, so that no loop over it hangs.
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

// ParseFramer parses a framing given by a user: length, varint, line, delimiter=HEX or fixed=N. For
// length it returns nil, which means a [Layout]. maxFrame is as for [Varint], [Line], [Delimiter]
// and [Fixed].
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
	return nil, fmt.Errorf("codec: framing %q: must be length, varint, line, delimiter=HEX or fixed=N", s)
}

// frameLimit returns maxFrame or its default, and checks it.
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
