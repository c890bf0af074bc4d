package codec

import "bytes"

// Packet is the content of a frame. Body belongs to whoever made the packet: the Body of a decoded
// packet is a slice of the decoded buffer.
type Packet struct {
	Main, Sub uint16
	Seq       uint32 // 0 unless Layout.Seq is set
	Body      []byte // may be empty
}

// Handle returns Main<<16 | Sub: Main and Sub as one number.
func (p Packet) Handle() uint32 { return uint32(p.Main)<<16 | uint32(p.Sub) }

// Split returns the Main and Sub of a handle.
func Split(handle uint32) (main, sub uint16) { return uint16(handle >> 16), uint16(handle) }

// Append appends p's frame in the default layout to dst and returns the extended slice;
// DefaultMaxFrame does not apply. It keeps no reference to p. It panics if p does not fit the
// layout: a Seq other than 0, or a body of 2 GiB. Codec.Append returns an error instead.
func (p Packet) Append(dst []byte) []byte {
	dst, err := unlimited.Append(dst, p)
	if err != nil {
		panic(err)
	}
	return dst
}

// Clone returns a copy of p with its own Body, which the caller may keep.
func (p Packet) Clone() Packet {
	p.Body = bytes.Clone(p.Body)
	return p
}
