package codec

import "fmt"

// Framed returns a Codec for f's frames, for APIs that take a Codec. maxFrame limits the bytes of a
// frame, not counting up to 32 bytes for a length or delimiter; 0 means DefaultMaxFrame. f may have
// a lower limit of its own.
//
// Only Append can tell whether a packet fits: Fits returns false for every packet. Overhead is 0.
// If f violates its contract, the error is ErrBadFramer.
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

// maxAround is the most bytes of a Framer's frame that do not count towards the limit.
const maxAround = maxDelimiter

// FrameAfter is Frame for a b of which an earlier call has examined the first seen bytes without
// finding a complete frame, so that a delimiter is not searched for twice.
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

// Searches reports whether the end of a frame must be searched for: while Frame returns size 0,
// missing is then only a lower bound.
func (c *Codec) Searches() bool { return c.framer != nil }
