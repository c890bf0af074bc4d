package engine

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"millrace/codec"
	"millrace/engine/internal/netio"
)

// Framing is the framing of an address.
type Framing struct {
	Framer codec.Framer // nil means Config.Layout
	// Switches lets callbacks change the framing of their sessions: see Session.SetFramer.
	Switches bool
}

// framing is how the frames of a session are read and written. It is immutable.
type framing struct {
	codec    *codec.Codec
	brief    *codec.Codec // the same codec, with room for an ERROR without text
	framer   codec.Framer // nil for a layout
	system   bool         // there are system frames
	switches bool
}

// newFraming creates a framing from a checked config.
func (c *Config) newFraming(f codec.Framer, switches bool) (*framing, error) {
	x := &framing{framer: f, switches: switches}
	var err error
	if f != nil {
		x.codec, err = codec.Framed(f, c.MaxFrame)
		x.brief, x.system = x.codec, !c.NoSystemFrames && f.Handles()
		return x, err
	}
	if x.codec, err = codec.New(c.Layout, c.MaxFrame); err != nil {
		return nil, err
	}
	x.brief, x.system = briefCodec(x.codec, c.Layout), !c.NoSystemFrames
	return x, nil
}

// setFramings creates the framings of a checked config.
func (srv *Server) setFramings() {
	c := &srv.cfg
	srv.framing, _ = c.newFraming(c.Framer, false)
	defer func() { c.NoSystemFrames = c.NoSystemFrames || c.bare() }()
	c.MaxFrame = srv.framing.codec.MaxFrame()
	if len(c.Framings) == 0 {
		return
	}
	for _, a := range c.Addrs {
		f := srv.framing
		if x, ok := c.Framings[a]; ok {
			f, _ = c.newFraming(x.Framer, x.Switches)
		}
		srv.framings = append(srv.framings, f)
	}
}

// framingOf returns the initial framing of a connection.
func (srv *Server) framingOf(c netio.Conn) *framing {
	if len(srv.framings) == 0 {
		return srv.framing
	}
	if i := srv.net.Listener(c.LocalAddr()); i >= 0 {
		return srv.framings[i]
	}
	return srv.framing
}

// verbatim is the codec for frames already encoded by a Framer: they are the bodies of packets
// without a handle.
var verbatim, _ = codec.Framed(written{}, 0)

// written is the Framer of verbatim. It is not used for reading.
type written struct{}

func (written) Split([]byte, int) (int, int, error) { return 0, 0, codec.ErrBadFramer }
func (written) Packet(b []byte) codec.Packet        { return codec.Packet{Body: b} }
func (written) Handles() bool                       { return false }
func (written) Append(dst []byte, p codec.Packet) ([]byte, error) {
	return append(dst, p.Body...), nil
}

// bare reports whether the framing has no handles, and therefore no system frames.
func (c *Config) bare() bool { return c.Framer != nil && !c.Framer.Handles() }

// speaks tells what is wrong with a framing of system frames that can't write an ERROR: its
// peers would wait for ever for what was refused.
func (f *framing) speaks() error {
	if !f.system || f.framer == nil {
		return nil
	}
	if _, _, err := f.fit(f.errorPacket(codec.Packet{}, CodeUnknownHandle, "")); err != nil {
		return fmt.Errorf("can't write an ERROR, %d/%d with a body of %d bytes (%w): give it room for that, or set NoSystemFrames", SystemMain, SubError, errorFixed, err)
	}
	return nil
}

// validateFraming reports faults of the frame settings.
func (c *Config) validateFraming(bad func(field string, v any, why string)) error {
	f, err := c.newFraming(c.Framer, false)
	if err != nil {
		return err
	}
	if err := f.speaks(); err != nil {
		bad("Framer", "with handles", err.Error())
	}
	frames := f.codec
	for a, x := range c.Framings {
		switch {
		case !slices.Contains(c.Addrs, a):
			bad("Framings", a, "must be one of Addrs, written as there")
		case x.Framer == nil && c.Framer != nil:
			bad("Framings", a, "needs a Framer: with Config.Framer there is no layout")
		case strings.HasPrefix(a, "auto") && x.Framer != nil:
			bad("Framings", a, "needs frames that begin with their length, to distinguish them from TLS and HTTP: use separate addresses")
		default:
			f, err := c.newFraming(x.Framer, x.Switches)
			if err != nil {
				return err
			}
			if err := f.speaks(); err != nil {
				bad("Framings", a, err.Error())
			}
		}
	}
	if l := c.Layout; c.Framer != nil && (len(l.Prefix) > 0 || l.LengthAdjust != 0 || l.Command != 0 || l.Seq || l.LittleEndian || l.LengthWidth != 0 && l.LengthWidth != 4) {
		bad("Framer", "with a layout", "has a form of its own: leave the layout as it is, or leave it out")
	}
	for h := range c.Handles {
		main, sub := codec.Split(h)
		if c.Framer != nil {
			continue // a handle that never arrives does no harm
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

// encoded holds buffers for frames encoded by Framers, which are copied at once.
var encoded = sync.Pool{New: func() any { return new([]byte) }}

// maxEncoded is the largest block that is kept, in bytes.
const maxEncoded = 64 << 10

// encode lets the Framer encode p's frame, and calls use with it, as a packet of verbatim.
func (f *framing) encode(p codec.Packet, use func(codec.Packet) error) error {
	box := encoded.Get().(*[]byte)
	b, err := f.framer.Append((*box)[:0], p)
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

// fit returns the codec and packet to write when the codec can't tell whether p fits: verbatim,
// with the encoded frame.
func (f *framing) fit(p codec.Packet) (*codec.Codec, codec.Packet, error) {
	if f.framer == nil {
		return nil, p, f.misfit(p)
	}
	b, err := f.framer.Append(nil, p)
	if errors.Is(err, codec.ErrBodyTooLarge) {
		err = ErrFrameTooLarge
	}
	return verbatim, codec.Packet{Body: b}, err
}
