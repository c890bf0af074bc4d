package codec

import (
	"bytes"
	"fmt"
)

// maxDelimiter limits the length of a delimiter, in bytes.
const maxDelimiter = 32

// Line returns the framing of lines of text. LF ends a frame, and one CR before it is dropped;
// frames written end with LF only. maxFrame is the largest number of bytes before the LF, including
// the CR; 0 means DefaultMaxFrame. Frames have no handles.
func Line(maxFrame int) (Framer, error) {
	limit, err := frameLimit(maxFrame, 1)
	if err != nil {
		return nil, err
	}
	return delimiter{end: "\n", max: limit, line: true}, nil
}

// Delimiter returns the framing in which end, 1 to 32 bytes, ends a frame and is not part of its
// body. Of overlapping occurrences the first counts. maxFrame is the largest number of bytes before
// the delimiter; 0 means DefaultMaxFrame. Frames have no handles. Bytes after the last delimiter of
// a stream are not a frame.
func Delimiter(end []byte, maxFrame int) (Framer, error) {
	if len(end) == 0 || len(end) > maxDelimiter {
		return nil, fmt.Errorf("codec: delimiter of %d bytes: must be 1 to %d", len(end), maxDelimiter)
	}
	limit, err := frameLimit(maxFrame, 1)
	if err != nil {
		return nil, err
	}
	return delimiter{end: string(end), max: limit}, nil
}

type delimiter struct {
	end  string
	max  int
	line bool // a CR before end is dropped too
}

func (d delimiter) Handles() bool { return false }

// Split searches only new bytes, and preceding bytes that may begin a delimiter.
func (d delimiter) Split(b []byte, seen int) (size, missing int, err error) {
	from := max(0, min(seen, len(b))-len(d.end)+1)
	at := d.index(b[from:])
	if at >= 0 {
		if at += from; at > d.max {
			return 0, 0, d.refuse(at)
		}
		return at + len(d.end), 0, nil
	}
	begun := d.begun(b)
	if least := len(b) - begun; least > d.max {
		return 0, 0, d.refuse(least)
	}
	return 0, len(d.end) - begun, nil
}

func (d delimiter) index(b []byte) int {
	if len(d.end) == 1 {
		return bytes.IndexByte(b, d.end[0])
	}
	var end [maxDelimiter]byte
	return bytes.Index(b, end[:copy(end[:], d.end)])
}

// begun returns the number of bytes at the end of b that are the beginning of a delimiter.
func (d delimiter) begun(b []byte) int {
	for n := min(len(b), len(d.end)-1); n > 0; n-- {
		if string(b[len(b)-n:]) == d.end[:n] {
			return n
		}
	}
	return 0
}

func (d delimiter) refuse(n int) error { return &FrameError{Length: int64(n), Max: d.max} }

func (d delimiter) Packet(b []byte) Packet {
	b = b[:len(b)-len(d.end)]
	if d.line && len(b) > 0 && b[len(b)-1] == '\r' {
		b = b[:len(b)-1]
	}
	return Packet{Body: b}
}

// Append rejects a body that contains the delimiter. A CR at the end of a line is written
// unchanged; a reader drops it.
func (d delimiter) Append(dst []byte, p Packet) ([]byte, error) {
	if err := plainBody(p, d.max); err != nil {
		return dst, err
	}
	start := len(dst)
	dst = append(append(dst, p.Body...), d.end...)
	if at := d.index(dst[start:]); at != len(p.Body) {
		return dst[:start], fmt.Errorf("%w: the delimiter %x is at byte %d", ErrBadBody, d.end, at)
	}
	return dst, nil
}
