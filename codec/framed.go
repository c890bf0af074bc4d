package codec

import "fmt"

// Framed returns a Codec of f's frames, for what takes a Codec. maxFrame is how much of a
// stream one frame may take, but for 32 bytes of length or delimiter around it; 0 means
// DefaultMaxFrame. What f itself refuses is refused as well.
//
// Only writing a packet tells whether f has room for it: Fits is false of every packet, and
// Append is the way. Overhead is 0. Of an f that counts wrong the error is ErrBadFramer.
func Framed(f Framer, maxFrame int) (*Codec, error) {
	limit, err := frameLimit(maxFrame, 1)
	if err != nil {
		return nil, err
	}
	c := &Codec{framer: f, max: limit, maxBody: -1}
	if f.Handles() {
		c.handles = 1<<32 - 1
	}
	return c, nil
}

// maxAround is what may stand around the counted bytes of a Framer's frame.
const maxAround = maxDelimiter

// FrameAfter is Frame for b of which an earlier call has had the first seen bytes without
// finding a whole frame: a delimiter is not looked for twice.
func (c *Codec) FrameAfter(b []byte, seen int) (size, missing int, err error) {
	if c.framer == nil {
		return c.Frame(b)
	}
	size, missing, err = c.framer.Split(b, seen)
	least := int64(size)
	if size == 0 {
		least = int64(len(b)) + int64(missing)
	}
	switch {
	case err != nil:
		return 0, 0, err
	case size < 0 || missing < 0 || missing == 0 && (size == 0 || size > len(b)) || missing > 0 && size > 0 && size-len(b) != missing:
		return 0, 0, fmt.Errorf("%w: size %d, missing %d of %d bytes", ErrBadFramer, size, missing, len(b))
	case least > int64(c.max)+maxAround:
		return 0, 0, &FrameError{Length: least, Max: c.max}
	}
	return size, missing, nil
}

// Searches tells whether the end of a frame has to be looked for: while Frame can't tell a
// size, missing is but the least that is needed.
func (c *Codec) Searches() bool { return c.framer != nil }
