package codec

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// Codec decodes and encodes frames of one Layout, or of a Framer. It is immutable.
type Codec struct {
	prefix  string
	head    int // bytes of prefix and length field
	width   int // bytes of the length field
	adjust  int64
	command Command
	little  bool
	plain   bool   // the default layout, with any limit
	fields  int    // bytes of Main, Sub and Seq: the least after the length field
	max     int    // the most bytes after the length field
	maxBody int    // max minus fields
	handles uint32 // mask of the bits of a handle that fit the layout
	seqs    uint32 // mask of the bits of a Seq: all or none
	framer  Framer // instead of a layout; then maxBody is -1, and max limits the Framer's frames
}

// MaxFrame returns the largest number of bytes after the length field.
func (c *Codec) MaxFrame() int { return c.max }

// MaxBody returns the size of the largest body that fits a frame.
func (c *Codec) MaxBody() int {
	switch {
	case c.framer == nil:
		return c.maxBody
	case c.framer.Handles():
		return max(c.max-4, 0)
	}
	return c.max
}

// Overhead returns what a frame adds to its body, in bytes.
func (c *Codec) Overhead() int { return c.head + c.fields }

// ByteOrder returns the byte order of the layout's integers.
func (c *Codec) ByteOrder() interface {
	binary.ByteOrder
	binary.AppendByteOrder
} {
	if c.little {
		return binary.LittleEndian
	}
	return binary.BigEndian
}

// Frame examines the header at the start of b and returns the size of the complete frame, including
// the header. If the header is incomplete, size is 0 and missing is the number of bytes that it
// lacks. Otherwise missing is the number of bytes that the frame lacks in b. A bad header is
// rejected as soon as it can be detected, with a *FrameError: a wrong prefix byte by byte, a length
// once its field is complete. Nothing is allocated except that error.
func (c *Codec) Frame(b []byte) (size, missing int, err error) {
	if c.plain {
		if len(b) < 4 {
			return 0, 4 - len(b), nil
		}
		n := binary.BigEndian.Uint32(b)
		if n < 4 || n > uint32(c.max) {
			return 0, 0, c.refuse(int64(n))
		}
		size = int(n) + 4
		return size, max(0, size-len(b)), nil
	}
	return c.frame(b)
}

// MayBegin reports whether an acceptable frame can begin with the byte b.
func (c *Codec) MayBegin(b byte) bool {
	if c.framer != nil {
		return true
	}
	if c.prefix != "" {
		return c.prefix[0] == b
	}
	least, most := int64(c.fields)-c.adjust, int64(c.max)-c.adjust
	if !c.little {
		shift := 8 * (c.width - 1)
		return int64(b) >= least>>shift && int64(b) <= most>>shift
	}
	first := least + (int64(b)-least)&0xff // the least length with that low byte
	return first <= most
}

func (c *Codec) frame(b []byte) (size, missing int, err error) {
	if c.framer != nil {
		return c.FrameAfter(b, 0)
	}
	if n := min(len(b), len(c.prefix)); string(b[:n]) != c.prefix[:n] {
		return 0, 0, &FrameError{Prefix: true, Min: c.fields, Max: c.max}
	}
	if len(b) < c.head {
		return 0, c.head - len(b), nil
	}
	n := c.uint(b[len(c.prefix):], c.width) + c.adjust
	if n < int64(c.fields) || n > int64(c.max) {
		return 0, 0, c.refuse(n)
	}
	size = c.head + int(n)
	return size, max(0, size-len(b)), nil
}

func (c *Codec) refuse(n int64) error { return &FrameError{Length: n, Min: c.fields, Max: c.max} }

func (c *Codec) uint(b []byte, width int) int64 {
	switch {
	case width == 2 && c.little:
		return int64(binary.LittleEndian.Uint16(b))
	case width == 2:
		return int64(binary.BigEndian.Uint16(b))
	case c.little:
		return int64(binary.LittleEndian.Uint32(b))
	default:
		return int64(binary.BigEndian.Uint32(b))
	}
}

// Packet decodes the frame that fills b exactly, as sized by Frame. The body is a slice of b.
func (c *Codec) Packet(b []byte) Packet {
	b = b[c.head:]
	if c.plain {
		return Packet{Main: binary.BigEndian.Uint16(b), Sub: binary.BigEndian.Uint16(b[2:]), Body: b[4:]}
	}
	if c.framer != nil {
		return c.framer.Packet(b)
	}
	var p Packet
	switch {
	case c.command == MainSub8:
		p.Main, p.Sub = uint16(b[0]), uint16(b[1])
	case c.command == Handle32:
		p.Main, p.Sub = Split(uint32(c.uint(b, 4)))
	default:
		p.Main, p.Sub = uint16(c.uint(b, 2)), uint16(c.uint(b[2:], 2))
	}
	if c.seqs != 0 {
		p.Seq = uint32(c.uint(b[c.command.width():], 4))
	}
	p.Body = b[c.fields:]
	return p
}

// Decode decodes the first frame of b. n is the number of bytes that it occupies, or 0 if it is
// incomplete: then missing is the number of further bytes needed before another call can make
// progress. The body is a slice of b. It allocates nothing except an error, which is a *FrameError
// and final for the stream.
func (c *Codec) Decode(b []byte) (p Packet, n, missing int, err error) {
	if c.plain && len(b) >= 8 {
		h := binary.BigEndian.Uint64(b) // the whole header in one load
		length := uint32(h >> 32)
		size := int(length) + 4
		if length >= 4 && length <= uint32(c.max) && size <= len(b) {
			return Packet{Main: uint16(h >> 16), Sub: uint16(h), Body: b[8:size:size]}, size, 0, nil
		}
	}
	size, missing, err := c.Frame(b)
	if err != nil || missing > 0 {
		return Packet{}, 0, missing, err
	}
	return c.Packet(b[:size:size]), size, 0, nil
}

// Fits reports whether a frame can hold p: Main and Sub are at most 255 with MainSub8, Seq is 0
// unless the layout has one, and the body has at most MaxBody bytes.
func (c *Codec) Fits(p Packet) bool { return c.FitsFields(p.Handle(), p.Seq, len(p.Body)) }

// FitsFields is like Fits, for a packet with these fields and a body of the given length.
func (c *Codec) FitsFields(handle, seq uint32, body int) bool {
	return handle&^c.handles|seq&^c.seqs == 0 && body <= c.maxBody
}

// Check is like Fits but returns the reason: nil, or an error that is ErrBadHandle, ErrBadSeq or
// ErrBodyTooLarge.
func (c *Codec) Check(p Packet) error {
	switch {
	case c.framer != nil:
		_, err := c.framer.Append(nil, p)
		return err
	case p.Handle()&^c.handles != 0:
		return fmt.Errorf("%w: %d/%d, Main and Sub are one byte each", ErrBadHandle, p.Main, p.Sub)
	case p.Seq&^c.seqs != 0:
		return fmt.Errorf("%w: %d, the layout has no sequence numbers", ErrBadSeq, p.Seq)
	case len(p.Body) > c.maxBody:
		return fmt.Errorf("%w: %d bytes, at most %d", ErrBodyTooLarge, len(p.Body), c.maxBody)
	}
	return nil
}

// Append appends p's frame to dst and returns the extended slice. If no frame can hold p, it
// returns dst unchanged and Check's error. Append keeps no reference to p.
func (c *Codec) Append(dst []byte, p Packet) ([]byte, error) {
	if c.framer != nil {
		return c.framer.Append(dst, p)
	}
	if !c.Fits(p) {
		return dst, c.Check(p)
	}
	return c.AppendFields(dst, p.Handle(), p.Seq, p.Body), nil
}

// AppendFields is like Append for the fields of a packet that Fits has accepted. Its arguments are
// passed in registers, unlike a Packet.
func (c *Codec) AppendFields(dst []byte, handle, seq uint32, body []byte) []byte {
	if !c.plain {
		main, sub := Split(handle)
		return c.append(dst, Packet{Main: main, Sub: sub, Seq: seq, Body: body})
	}
	at, n := len(dst), 8+len(body)
	if cap(dst)-at < n {
		dst = slices.Grow(dst, n)
	}
	dst = dst[:at+n]
	binary.BigEndian.PutUint64(dst[at:], PlainHeader(handle, len(body)))
	copy(dst[at+8:], body)
	return dst
}

// Plain reports whether a frame is the 8 bytes of PlainHeader, big endian, and the body.
func (c *Codec) Plain() bool { return c.plain }

// PlainHeader returns the header of a frame of the default layout.
func PlainHeader(handle uint32, body int) uint64 { return uint64(body+4)<<32 | uint64(handle) }

// append is Append for the other layouts, and a packet that fits.
func (c *Codec) append(dst []byte, p Packet) []byte {
	if c.framer != nil {
		dst, _ = c.framer.Append(dst, p) // it fits
		return dst
	}
	dst = append(dst, c.prefix...)
	dst = c.appendUint(dst, uint32(int64(c.fields+len(p.Body))-c.adjust), c.width)
	switch c.command {
	case MainSub8:
		dst = append(dst, byte(p.Main), byte(p.Sub))
	case Handle32:
		dst = c.appendUint(dst, p.Handle(), 4)
	default:
		dst = c.appendUint(dst, uint32(p.Main), 2)
		dst = c.appendUint(dst, uint32(p.Sub), 2)
	}
	if c.seqs != 0 {
		dst = c.appendUint(dst, p.Seq, 4)
	}
	return append(dst, p.Body...)
}

func (c *Codec) appendUint(dst []byte, v uint32, width int) []byte {
	switch {
	case width == 2 && c.little:
		return binary.LittleEndian.AppendUint16(dst, uint16(v))
	case width == 2:
		return binary.BigEndian.AppendUint16(dst, uint16(v))
	case c.little:
		return binary.LittleEndian.AppendUint32(dst, v)
	default:
		return binary.BigEndian.AppendUint32(dst, v)
	}
}
