package engine

import (
	"errors"
	"fmt"
	"sync"

	"millrace/codec"
)

// verbatim is the codec of frames that a Framer has written already: they are the bodies of
// packets without a handle.
var verbatim, _ = codec.Framed(written{}, 0)

// written is verbatim's Framer. It reads nothing.
type written struct{}

func (written) Split([]byte, int) (int, int, error) { return 0, 0, codec.ErrBadFramer }
func (written) Packet(b []byte) codec.Packet        { return codec.Packet{Body: b} }
func (written) Handles() bool                       { return false }
func (written) Append(dst []byte, p codec.Packet) ([]byte, error) {
	return append(dst, p.Body...), nil
}

// newCodec is the codec of a checked config.
func (c *Config) newCodec() (*codec.Codec, error) {
	if c.Framer != nil {
		return codec.Framed(c.Framer, c.MaxFrame)
	}
	return codec.New(c.Layout, c.MaxFrame)
}

// bare tells whether the framing has no handles, and so no system frames.
func (c *Config) bare() bool { return c.Framer != nil && !c.Framer.Handles() }

// validateFraming reports what is wrong with the frame.
func (c *Config) validateFraming(bad func(field string, v any, why string)) error {
	frames, err := c.newCodec()
	if err != nil {
		return err
	}
	if l := c.Layout; c.Framer != nil && (len(l.Prefix) > 0 || l.LengthAdjust != 0 || l.Command != 0 || l.Seq || l.LittleEndian || l.LengthWidth != 0 && l.LengthWidth != 4) {
		bad("Framer", "with a layout", "has a form of its own: leave the layout as it is, or leave it out")
	}
	for h := range c.Handles {
		main, sub := codec.Split(h)
		if c.Framer != nil {
			continue // what never comes does no harm
		}
		if err := frames.Check(codec.Packet{Main: main, Sub: sub}); err != nil {
			bad("Handles", fmt.Sprintf("%d/%d", main, sub), "must be one that the layout has room for")
		}
	}
	if c.bare() && c.Heartbeat > 0 {
		bad("Heartbeat", c.Heartbeat, "needs system frames, which a framing without handles does not have")
	}
	return nil
}

// encoded are blocks for the frames that Framers write, of which each is copied at once.
var encoded = sync.Pool{New: func() any { return new([]byte) }}

// maxEncoded is the largest block that is kept, in bytes.
const maxEncoded = 64 << 10

// encode has the Framer write p's frame, and calls use with it, as a packet of verbatim's.
func (srv *Server) encode(p codec.Packet, use func(codec.Packet) error) error {
	box := encoded.Get().(*[]byte)
	b, err := srv.cfg.Framer.Append((*box)[:0], p)
	if err == nil {
		err = use(codec.Packet{Body: b})
	} else if errors.Is(err, codec.ErrBodyTooLarge) {
		err = ErrFrameTooLarge
	}
	if cap(b) <= maxEncoded {
		*box = b
	}
	encoded.Put(box)
	return err
}

// fit finds what writes p where srv.codec can't tell: verbatim, with the frame.
func (srv *Server) fit(p codec.Packet) (*codec.Codec, codec.Packet, error) {
	if srv.cfg.Framer == nil {
		return nil, p, srv.misfit(p)
	}
	b, err := srv.cfg.Framer.Append(nil, p)
	if errors.Is(err, codec.ErrBodyTooLarge) {
		err = ErrFrameTooLarge
	}
	return verbatim, codec.Packet{Body: b}, err
}
