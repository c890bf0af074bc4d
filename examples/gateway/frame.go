package main

import (
	"encoding/binary"
	"fmt"

	"millrace/codec"
)

// The frame of the devices, as specified by their vendor:
//
//	0      1          3        4            4+n    4+n+2
//	| 0x7E | length n | type   | body       | CRC16 |
//
// The length is that of the body, little-endian. The CRC is CRC-16/CCITT-FALSE over all bytes before it.
// Types are the Sub of Main 1.
type frame struct{}

const (
	start   = 0x7E
	head    = 4
	around  = head + 2
	maxBody = 512
	device  = 1 // Main
)

// Split finds the first frame of b.
func (frame) Split(b []byte, _ int) (size, missing int, err error) {
	if len(b) > 0 && b[0] != start {
		return 0, 0, fmt.Errorf("%w: begins with %#02x", codec.ErrBadFrame, b[0])
	}
	if len(b) < head {
		return 0, head - len(b), nil
	}
	n := int(binary.LittleEndian.Uint16(b[1:]))
	if n > maxBody {
		return 0, 0, fmt.Errorf("%w: a body of %d bytes", codec.ErrBadFrame, n)
	}
	size = around + n
	if len(b) < size {
		return size, size - len(b), nil
	}
	if got, want := binary.LittleEndian.Uint16(b[size-2:]), crc16(b[:size-2]); got != want {
		return 0, 0, fmt.Errorf("%w: CRC %#04x, not %#04x", codec.ErrBadFrame, got, want)
	}
	return size, 0, nil
}

// Packet decodes the frame b.
func (frame) Packet(b []byte) codec.Packet {
	return codec.Packet{Main: device, Sub: uint16(b[3]), Body: b[head : len(b)-2]}
}

// Append adds p's frame to dst.
func (frame) Append(dst []byte, p codec.Packet) ([]byte, error) {
	if p.Main != device || p.Sub > 255 {
		return dst, codec.ErrBadHandle
	}
	if len(p.Body) > maxBody {
		return dst, codec.ErrBodyTooLarge
	}
	from := len(dst)
	dst = append(dst, start)
	dst = binary.LittleEndian.AppendUint16(dst, uint16(len(p.Body)))
	dst = append(dst, byte(p.Sub))
	dst = append(dst, p.Body...)
	return binary.LittleEndian.AppendUint16(dst, crc16(dst[from:])), nil
}

// Handles reports that frames have handles: the type. System frames are not sent, as devices don't know Main 0.
func (frame) Handles() bool { return true }

// crc16 is CRC-16/CCITT-FALSE.
func crc16(b []byte) uint16 {
	crc := uint16(0xFFFF)
	for _, c := range b {
		crc ^= uint16(c) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc
}
