package codec

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// maxVarint is the longest length field, in bytes: 32 bits, seven in each byte.
const maxVarint = 5

// Varint returns the framing of protobuf's delimited streams with a handle: a varint32 length of
// what follows it, then Main and Sub (two big-endian 16-bit numbers) and the body. Lengths encoded
// in more bytes than necessary are accepted, up to five bytes; they are written in as few bytes as
// possible. maxFrame is the largest number of bytes after the length; 0 means DefaultMaxFrame.
func Varint(maxFrame int) (Framer, error) {
	limit, err := frameLimit(maxFrame, 4)
	if err != nil {
		return nil, err
	}
	return varint{limit}, nil
}

type varint struct{ max int }

func (v varint) Handles() bool { return true }

func (v varint) Split(b []byte, _ int) (size, missing int, err error) {
	length, head := uvarint(b)
	switch {
	case head > maxVarint:
		return 0, 0, &FrameError{Overlong: true, Min: 4, Max: v.max}
	case head == 0:
		return 0, 1, nil
	case length < 4 || length > int64(v.max):
		return 0, 0, &FrameError{Length: length, Min: 4, Max: v.max}
	}
	size = head + int(length)
	return size, max(0, size-len(b)), nil
}

// uvarint reads a varint of up to five bytes and returns how many it has: 0 if it is incomplete,
// more than maxVarint if it does not end within five bytes.
func uvarint(b []byte) (v int64, n int) {
	for i, c := range b[:min(len(b), maxVarint)] {
		v |= int64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return v, i + 1
		}
	}
	if len(b) < maxVarint {
		return 0, 0
	}
	return 0, maxVarint + 1
}

func (v varint) Packet(b []byte) Packet {
	_, head := uvarint(b)
	b = b[head:]
	return Packet{Main: binary.BigEndian.Uint16(b), Sub: binary.BigEndian.Uint16(b[2:]), Body: b[4:]}
}

func (v varint) Append(dst []byte, p Packet) ([]byte, error) {
	switch {
	case p.Seq != 0:
		return dst, fmt.Errorf("%w: %d, the framing has no sequence numbers", ErrBadSeq, p.Seq)
	case len(p.Body) > v.max-4:
		return dst, fmt.Errorf("%w: %d bytes, at most %d", ErrBodyTooLarge, len(p.Body), v.max-4)
	}
	dst = slices.Grow(dst, maxVarint+4+len(p.Body))
	dst = binary.AppendUvarint(dst, uint64(4+len(p.Body)))
	dst = binary.BigEndian.AppendUint32(dst, p.Handle())
	return append(dst, p.Body...), nil
}
