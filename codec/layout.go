package codec

import (
	"errors"
	"fmt"
	"math"
)

// Command is the representation of Main and Sub in a frame.
type Command uint8

const (
	MainSub16 Command = iota // two unsigned 16-bit fields: the default
	MainSub8                 // two bytes
	Handle32                 // one unsigned 32-bit field, Main in its upper half
)

func (c Command) width() int {
	if c == MainSub8 {
		return 2
	}
	return 4
}

// Layout describes a frame. The zero value is the default frame. In the terms of
// Netty's LengthFieldBasedFrameDecoder: lengthFieldOffset is len(Prefix),
// lengthFieldLength is LengthWidth, lengthAdjustment is LengthAdjust.
type Layout struct {
	Prefix       []byte  // magic bytes before the length field; verified when read
	LengthWidth  int     // bytes of the length field: 4 (default) or 2
	LengthAdjust int     // length field + LengthAdjust = bytes after the field; -LengthWidth if the length includes itself
	Command      Command // form of Main and Sub
	Seq          bool    // an unsigned 32-bit sequence number follows Sub
	LittleEndian bool    // byte order of every integer above
}

// DefaultMaxFrame is the default limit of the number of bytes after the length field: 64 KiB.
const DefaultMaxFrame = 64 << 10

// maxPrefix limits Layout.Prefix, so that a header always fits a small array.
const maxPrefix = 32

// maxFrameLimit limits New's maxFrame, so that a frame's size fits an int32.
const maxFrameLimit = math.MaxInt32 - 1024

// New checks a layout and returns its Codec. maxFrame is the largest accepted number of bytes after
// the length field (Main, Sub, Seq and body); 0 means DefaultMaxFrame or, if that is less, the
// largest value of the length field. The error lists every fault.
func New(l Layout, maxFrame int) (*Codec, error) {
	if l.LengthWidth == 0 {
		l.LengthWidth = 4
	}
	var errs []error
	if l.LengthWidth != 2 && l.LengthWidth != 4 {
		errs = append(errs, fmt.Errorf("codec: LengthWidth %d: must be 2 or 4", l.LengthWidth))
		l.LengthWidth = 4
	}
	if len(l.Prefix) > maxPrefix {
		errs = append(errs, fmt.Errorf("codec: Prefix of %d bytes: at most %d", len(l.Prefix), maxPrefix))
	}
	if l.Command > Handle32 {
		errs = append(errs, fmt.Errorf("codec: Command %d: must be MainSub16, MainSub8 or Handle32", l.Command))
	}
	fields := l.Command.width()
	if l.Seq {
		fields += 4
	}
	field := int64(1)<<(8*l.LengthWidth) - 1
	top := int64(maxFrameLimit)
	switch adjust := int64(l.LengthAdjust); {
	case adjust > int64(fields):
		errs = append(errs, fmt.Errorf("codec: LengthAdjust %d: an empty body's length would be negative", l.LengthAdjust))
	case adjust < int64(fields)-field:
		errs = append(errs, fmt.Errorf("codec: LengthAdjust %d: no length would leave room for a frame, which has at least %d bytes after its length", l.LengthAdjust, fields))
	default:
		top = min(field+adjust, maxFrameLimit)
	}
	switch {
	case maxFrame == 0:
		maxFrame = int(min(DefaultMaxFrame, top))
	case int64(maxFrame) > top:
		errs = append(errs, fmt.Errorf("codec: frame limit %d: a length field of %d bytes holds at most %d", maxFrame, l.LengthWidth, top))
	}
	if maxFrame < fields {
		errs = append(errs, fmt.Errorf("codec: frame limit %d: a frame has at least %d bytes after its length", maxFrame, fields))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	c := &Codec{
		prefix: string(l.Prefix), head: len(l.Prefix) + l.LengthWidth,
		width: l.LengthWidth, adjust: int64(l.LengthAdjust), command: l.Command, little: l.LittleEndian,
		fields: fields, max: maxFrame, maxBody: maxFrame - fields, handles: math.MaxUint32,
	}
	if l.Command == MainSub8 {
		c.handles = 0x00ff00ff
	}
	if l.Seq {
		c.seqs = math.MaxUint32
	}
	c.plain = c.prefix == "" && c.width == 4 && c.adjust == 0 && c.command != MainSub8 && !l.Seq && !c.little
	return c, nil
}

// Default returns a codec of the zero Layout with DefaultMaxFrame.
func Default() *Codec {
	c := *standard // a copy, so that callers can't change a shared Codec
	return &c
}

// Codecs of the zero Layout, never modified.
var (
	standard, _  = New(Layout{}, 0)
	unlimited, _ = New(Layout{}, maxFrameLimit)
)
