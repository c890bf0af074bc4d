package capture

import (
	"encoding/binary"
	"encoding/json"
	"time"

	"millrace/codec"
)

// The blocks and options of pcapng that are written and read.
const (
	blockSection   = 0x0A0D0D0A
	blockInterface = 1
	blockStats     = 5
	blockPacket    = 6

	byteOrderMagic = 0x1A2B3C4D

	optEnd       = 0
	optComment   = 1
	optFlags     = 2 // of a packet: 1 inbound, 2 outbound
	optUserAppl  = 4 // of a section
	optIfName    = 2
	optIfDescr   = 3
	optIfTsresol = 9
	optIfRecv    = 4 // of statistics
	optIfDrop    = 5

	linkRaw = 101 // packets begin with their IP header

	application = "millrace"
)

// form says how the frames in a file are told apart. It is the interface's description, as
// JSON.
type form struct {
	Version  int          `json:"millrace"`
	Framing  string       `json:"framing"` // as codec.ParseFramer takes it
	Layout   codec.Layout `json:"layout"`
	MaxFrame int          `json:"max_frame"`
	Run      string       `json:"run,omitempty"` // the same in all files that one Writer has written
}

// plain tells whether the frames are those of the default layout.
func (f form) plain() bool {
	l := f.Layout
	return f.Framing == "length" && len(l.Prefix) == 0 && (l.LengthWidth == 0 || l.LengthWidth == 4) && l.LengthAdjust == 0 &&
		l.Command == codec.MainSub16 && !l.Seq && !l.LittleEndian
}

// codec makes the codec of the frames.
func (f form) codec() (*codec.Codec, error) {
	framer, err := codec.ParseFramer(f.Framing, f.MaxFrame)
	if err != nil {
		return nil, err
	}
	if framer != nil {
		return codec.Framed(framer, f.MaxFrame)
	}
	return codec.New(f.Layout, f.MaxFrame)
}

var le = binary.LittleEndian

// block appends a block of the type around what fill appends.
func block(dst []byte, typ uint32, fill func([]byte) []byte) []byte {
	start := len(dst)
	dst = le.AppendUint32(dst, typ)
	dst = le.AppendUint32(dst, 0)
	dst = fill(dst)
	size := uint32(len(dst) - start + 4)
	le.PutUint32(dst[start+4:], size)
	return le.AppendUint32(dst, size)
}

// option appends an option, padded to 32 bits.
func option(dst []byte, code uint16, value []byte) []byte {
	dst = le.AppendUint16(dst, code)
	dst = le.AppendUint16(dst, uint16(len(value)))
	return pad(append(dst, value...), len(value))
}

// pad appends what n bytes lack to a multiple of 4.
func pad(dst []byte, n int) []byte { return append(dst, 0, 0, 0)[:len(dst)+(4-n%4)%4] }

// appendHead appends what a file begins with.
func appendHead(dst []byte, f form) []byte {
	dst = block(dst, blockSection, func(b []byte) []byte {
		b = le.AppendUint32(b, byteOrderMagic)
		b = le.AppendUint16(b, 1)
		b = le.AppendUint16(b, 0)
		b = le.AppendUint64(b, ^uint64(0)) // the section's length is not known
		b = option(b, optUserAppl, []byte(application))
		return option(b, optEnd, nil)
	})
	descr, err := json.Marshal(f)
	if err != nil {
		panic("capture: " + err.Error()) // strings and numbers
	}
	return block(dst, blockInterface, func(b []byte) []byte {
		b = le.AppendUint16(b, linkRaw)
		b = le.AppendUint16(b, 0)
		b = le.AppendUint32(b, 0) // no limit on a packet's length
		b = option(b, optIfName, []byte(application))
		b = option(b, optIfDescr, descr)
		b = option(b, optIfTsresol, []byte{9}) // nanoseconds
		return option(b, optEnd, nil)
	})
}

// appendPacket appends a packet of the session, from the peer or to it.
func appendPacket(dst []byte, at time.Time, fromPeer bool, p packet, comment string) []byte {
	return block(dst, blockPacket, func(b []byte) []byte {
		ns := uint64(at.UnixNano())
		b = le.AppendUint32(b, 0)
		b = le.AppendUint32(b, uint32(ns>>32))
		b = le.AppendUint32(b, uint32(ns))
		n := p.size()
		b = le.AppendUint32(b, uint32(n))
		b = le.AppendUint32(b, uint32(n))
		b = pad(p.append(b), n)
		way := uint32(2)
		if fromPeer {
			way = 1
		}
		b = option(b, optFlags, le.AppendUint32(nil, way))
		if comment != "" {
			b = option(b, optComment, []byte(comment))
		}
		return option(b, optEnd, nil)
	})
}

// appendStats appends how many records there were, and how many were left out.
func appendStats(dst []byte, at time.Time, kept, dropped uint64) []byte {
	return block(dst, blockStats, func(b []byte) []byte {
		ns := uint64(at.UnixNano())
		b = le.AppendUint32(b, 0)
		b = le.AppendUint32(b, uint32(ns>>32))
		b = le.AppendUint32(b, uint32(ns))
		b = option(b, optIfRecv, le.AppendUint64(nil, kept+dropped))
		b = option(b, optIfDrop, le.AppendUint64(nil, dropped))
		return option(b, optEnd, nil)
	})
}
