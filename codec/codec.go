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
	plain   bool   // the default layout, whatever its limit
	fields  int    // bytes of Main, Sub and Seq: the least behind the length field
	max     int    // the most behind it
	maxBody int    // max without fields
	handles uint32 // the bits of a handle that the layout has room for
	seqs    uint32 // the bits of a Seq: all or none
	framer  Framer // instead of a layout; maxBody is -1 then, and max what the Framer's frames may be
}

// MaxFrame is the largest number of bytes behind the length field.
func (c *Codec) MaxFrame() int { return c.max }

// MaxBody is the largest body that fits a frame.
func (c *Codec) MaxBody() int {
	switch {
	case c.framer == nil:
		return c.maxBody
	case c.framer.Handles():
		return max(c.max-4, 0)
	}
	return c.max
}

// Overhead is what a frame adds to its body, in bytes.
func (c *Codec) Overhead() int { return c.head + c.fields }

// ByteOrder is the order of the layout's integers.
func (c *Codec) ByteOrder() interface {
	binary.ByteOrder
	binary.AppendByteOrder
} {
	if c.little {
		return binary.LittleEndian
	}
	return binary.BigEndian
}

// Frame looks at the header at the start of b and returns the size of that whole
// frame, header included. While the header is not all there, size is 0 and missing
// is how many bytes it still lacks. When it is, missing is how many bytes of the
// frame b lacks. A bad header is refused as soon as it can be seen, with a
// *FrameError: a wrong prefix byte by byte, a length once its field is there.
// Nothing is allocated except that error.
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

// MayBegin tells whether a frame that the codec takes can begin with the byte b.
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

// Packet reads the frame that fills b exactly, as Frame sized it. The body is a
// window of b.
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

// Decode reads the first frame of b. n is the bytes that it took, 0 when it is not
// all there: then missing tells how many more bytes are needed before another try
// can do more. The body is a window of b. It allocates nothing except an error,
// which is a *FrameError and final for the stream.
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

// Fits tells whether a frame can hold p. Main and Sub are at most 255 under MainSub8,
// Seq is 0 unless the layout has one, and the body has at most MaxBody bytes.
func (c *Codec) Fits(p Packet) bool { return c.FitsFields(p.Handle(), p.Seq, len(p.Body)) }

// FitsFields is Fits for a packet of these fields, and a body of so many bytes.
func (c *Codec) FitsFields(handle, seq uint32, body int) bool {
	return handle&^c.handles|seq&^c.seqs == 0 && body <= c.maxBody
}

// Check is Fits with the reason: nil, or an error that is ErrBadHandle, ErrBadSeq or
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

// Append adds p's frame to dst and returns the longer slice. A packet that no frame can
// hold is Check's error, and dst is returned as it was. Append keeps nothing of p.
func (c *Codec) Append(dst []byte, p Packet) ([]byte, error) {
	if c.framer != nil {
		return c.framer.Append(dst, p)
	}
	if !c.Fits(p) {
		return dst, c.Check(p)
	}
	return c.AppendFields(dst, p.Handle(), p.Seq, p.Body), nil
}

// AppendFields is Append for the fields of a packet that Fits has said to fit: they go in
// registers, as a Packet beside dst does not.
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

// Plain tells whether a frame is the 8 bytes of PlainHeader, big endian, and the body.
func (c *Codec) Plain() bool { return c.plain }

// PlainHeader is the header of a frame of the default layout.
func PlainHeader(handle uint32, body int) uint64 { return uint64(body+4)<<32 | uint64(handle) }

// append is Append for the other layouts and a packet that fits.
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
