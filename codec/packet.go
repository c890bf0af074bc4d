package codec

import "bytes"

// Packet is one frame's content. What Body points to belongs to whoever made the
// packet: a decoded Body is a window of the buffer that was decoded.
type Packet struct {
	Main, Sub uint16
	Seq       uint32 // 0 unless Layout.Seq is set
	Body      []byte // may be empty, which is a legal frame
}

// Handle is Main<<16 | Sub: the packet's command as one number.
func (p Packet) Handle() uint32 { return uint32(p.Main)<<16 | uint32(p.Sub) }

// Split gives back the Main and Sub of a handle.
func Split(handle uint32) (main, sub uint16) { return uint16(handle >> 16), uint16(handle) }

// Append adds p's frame in the default layout to dst and returns the longer slice; no
// DefaultMaxFrame bounds it. It keeps nothing of p. It panics if the layout can't say
// p: a Seq that isn't 0, or a body of 2 GiB. Codec.Append returns an error instead.
func (p Packet) Append(dst []byte) []byte {
	dst, err := unlimited.Append(dst, p)
	if err != nil {
		panic(err)
	}
	return dst
}

// Clone returns p with a Body of its own, to be kept for as long as the caller likes.
func (p Packet) Clone() Packet {
	p.Body = bytes.Clone(p.Body)
	return p
}
