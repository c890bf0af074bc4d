package codec

import (
	"errors"
	"fmt"
)

var (
	// ErrBadFrame is what every refused header is: errors.Is(err, ErrBadFrame).
	ErrBadFrame = errors.New("codec: bad frame")
	// ErrBadHandle: the layout has no room for a packet's Main or Sub.
	ErrBadHandle = errors.New("codec: handle does not fit the layout")
	// ErrBadSeq: a packet has a sequence number, and the layout none.
	ErrBadSeq = errors.New("codec: sequence number does not fit the layout")
	// ErrBodyTooLarge: a packet's body is longer than the codec's MaxBody.
	ErrBodyTooLarge = errors.New("codec: body too large")
)

// errBadCount: an io.Reader or io.Writer broke its contract.
var errBadCount = errors.New("codec: stream counts bytes that it was not given")

// FrameError tells why a header was refused. It is ErrBadFrame.
type FrameError struct {
	Length   int64 // bytes behind the length field, as the header claims; of other framings, what was found
	Min, Max int   // what is accepted
	Prefix   bool  // the magic bytes were wrong; Length is unknown
	Overlong bool  // a varint of more than five bytes; Length is unknown
}

func (e *FrameError) Error() string {
	if e.Prefix {
		return "codec: bad frame: wrong prefix"
	}
	if e.Overlong {
		return "codec: bad frame: length of more than five bytes"
	}
	return fmt.Sprintf("codec: bad frame: length %d, accepted are %d to %d", e.Length, e.Min, e.Max)
}

// Is makes errors.Is(err, ErrBadFrame) true.
func (e *FrameError) Is(target error) bool { return target == ErrBadFrame }
