package capture

import (
	"bytes"
	"fmt"

	"millrace/codec"
	"millrace/engine"
)

// Answer is what frames of a server are counted by: their handle, or for an ERROR the handle
// that it is about and its code.
type Answer struct {
	Handle uint32
	Code   engine.ErrorCode // 0: no ERROR
}

func (a Answer) String() string {
	main, sub := codec.Split(a.Handle)
	if a.Code == 0 {
		return fmt.Sprintf("%d/%d", main, sub)
	}
	return fmt.Sprintf("ERROR %d about %d/%d", a.Code, main, sub)
}

// counter counts the frames in a stream of bytes. PING, GOAWAY and what resume needs are
// none of them, as they answer nothing.
type counter struct {
	c      *codec.Codec
	part   []byte
	answer map[Answer]int
	frames int
	lost   bool // it does not know where the next frame begins
}

func newCounter(c *codec.Codec) *counter { return &counter{c: c, answer: map[Answer]int{}} }

// gap forgets the frame that has begun. whole: what comes next begins with one.
func (n *counter) gap(whole bool) { n.part, n.lost = nil, !whole }

// add takes bytes. An error: they are no frames.
func (n *counter) add(b []byte) error {
	if n.lost {
		return nil
	}
	if len(n.part) > 0 {
		n.part = append(n.part, b...)
		b = n.part
	}
	for len(b) > 0 {
		size, missing, err := n.c.Frame(b)
		if err != nil {
			n.gap(false)
			return err
		}
		if size == 0 || missing > 0 {
			break
		}
		n.frame(n.c.Packet(b[:size:size]))
		b = b[size:]
	}
	n.part = bytes.Clone(b)
	return nil
}

func (n *counter) frame(p codec.Packet) {
	a := Answer{Handle: p.Handle()}
	if p.Main == engine.SystemMain {
		switch p.Sub {
		case engine.SubError:
			if len(p.Body) >= 6 {
				o := n.c.ByteOrder()
				a = Answer{o.Uint32(p.Body[2:]), engine.ErrorCode(o.Uint16(p.Body))}
			}
		case engine.SubPing, engine.SubGoAway, engine.SubHello, engine.SubWelcome, engine.SubAck, engine.SubBye:
			return
		}
	}
	n.answer[a]++
	n.frames++
}
