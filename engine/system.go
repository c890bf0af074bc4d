package engine

import (
	"errors"
	"strings"

	"millrace/codec"
)

// errorFixed is the length of an ERROR's body without its text, in bytes: that much is sent
// whatever the largest frame is.
const errorFixed = 6

// briefCodec returns c, or a codec with c's layout whose frames can hold an ERROR without text. It
// returns c too if the length field can't represent that: then there are no ERRORs.
func briefCodec(c *codec.Codec, l codec.Layout) *codec.Codec {
	if c.MaxBody() < errorFixed {
		if larger, err := codec.New(l, c.MaxFrame()-c.MaxBody()+errorFixed); err == nil {
			return larger
		}
	}
	return c
}

// misfit returns why no frame holds p: ErrFrameTooLarge or an error of the codec.
func (f *framing) misfit(p codec.Packet) error {
	err := f.codec.Check(p)
	if errors.Is(err, codec.ErrBodyTooLarge) {
		return ErrFrameTooLarge
	}
	return err
}

// errorPacket returns the ERROR frame about p: u16 code, u32 handle, text, in the layout's byte
// order. The text is truncated to fit a frame.
func (f *framing) errorPacket(p codec.Packet, code ErrorCode, text string) codec.Packet {
	if most := max(f.codec.MaxBody()-errorFixed, 0); len(text) > most {
		text = strings.ToValidUTF8(text[:most], "")
	}
	order := f.codec.ByteOrder()
	body := make([]byte, 0, errorFixed+len(text))
	body = order.AppendUint16(body, uint16(code))
	body = order.AppendUint32(body, p.Handle())
	body = append(body, text...)
	return codec.Packet{Main: SystemMain, Sub: SubError, Seq: p.Seq, Body: body}
}

// reserved reports whether the engine answers p itself.
func (s *Session) reserved(p codec.Packet) bool {
	return p.Main == SystemMain && s.framing.Load().system
}
