package codec

import (
	"errors"
	"fmt"
)

var (
	// ErrBadFrame: a header was rejected. Every *FrameError is one.
	ErrBadFrame = errors.New("codec: bad frame")
	// ErrBadHandle: a packet's Main or Sub does not fit the layout.
	ErrBadHandle = errors.New("codec: handle does not fit the layout")
	// ErrBadSeq: a packet has a sequence number, but the layout has none.
	ErrBadSeq = errors.New("codec: sequence number does not fit the layout")
	// ErrBodyTooLarge: a packet's body is longer than the codec's MaxBody.
	ErrBodyTooLarge = errors.New("codec: body too large")
)

// errBadCount: an io.Reader or io.Writer broke its contract.
var errBadCount = errors.New("codec: stream counts bytes that it was not given")

// FrameError tells why a header was rejected. It is an ErrBadFrame.
type FrameError struct {
	Length   int64 // bytes after the length field, according to the header; in other framings, those found
	Min, Max int   // accepted range
	Prefix   bool  // the prefix was wrong; Length is unknown
	Overlong bool  // a varint of more than five bytes; Length is unknown
}

func (e *FrameError) Error() string {
	if e.Prefix {
		return "codec: bad frame: wrong prefix"
	}
	if e.Overlong {
		return "codec: bad frame: length of more than five bytes"
	}
	return fmt.Sprintf("codec: bad frame: length %d, must be %d to %d", e.Length, e.Min, e.Max)
}

// Is makes errors.Is(err, ErrBadFrame) true.
func (e *FrameError) Is(target error) bool { return target == ErrBadFrame }
