package engine

import (
	"millrace/codec"
	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/outbox"
)

// PushKeyed is Push for a value of which only the newest matters, such as a price or a position:
// while an older push to this session with the same key is unsent, this one replaces it, and the
// older one is never sent. So a peer that reads slowly gets the latest state instead of being
// closed, and costs one frame for each key.
//
// The newer push takes the older one's place in the order: the order of different keys is
// unchanged, no key is delayed because it changes often, and frames sent between the two, including
// answers and broadcasts, come after it. A push of which the kernel has accepted a byte is not
// replaced, nor one in a TLS record or a WebSocket message that has been started.
//
// Keys belong to the session: those of SendGroupKeyed and Group.SendKeyed are separate, for each
// group. Use no key for messages that a peer must get completely or in order. A session with Resume
// counts a frame when it is passed to the connection, so a replaced push is not counted. While the
// session has no connection, its output is kept, from the first keyed push on, before that point,
// and can still be replaced. Over WebSocket, frames over 64 KiB of a framing that does not begin
// with a length may be split over two messages from the first keyed push on.
//
// Errors are those of Push; a push that replaces one at least as long never fails.
func (s *Session) PushKeyed(key uint64, main, sub uint16, body []byte) error {
	p := codec.Packet{Main: main, Sub: sub, Body: body}
	f, held := s.holdFraming()
	defer held.release()
	c := f.codec
	if !c.Fits(p) {
		var err error
		if c, p, err = f.fit(p); err != nil {
			return err
		}
	}
	frame := bufpool.GetSmall(c.Overhead() + len(p.Body))
	frame.Share()
	s.loop.budget.Add(frame.Held())
	frame.B = c.AppendFields(frame.B, p.Handle(), p.Seq, p.Body)
	cost := len(frame.B) + outbox.ReferCost + outbox.KeyCost
	r := s.out.PushKeyed(&s.loop.out, frame, cost, nil, true, outbox.Key{ID: key})
	if held, last := frame.Release(); last {
		s.loop.budget.Add(-held)
	}
	if r == outbox.Replaced {
		s.loop.sum.conflated.Add(1)
		return nil
	}
	return s.sent(r)
}

// SendKeyed is Send for a value of which only the newest matters: for each member it replaces an
// unsent one with the same key of this group, as described at Session.PushKeyed.
func (g *Group) SendKeyed(key uint64, main, sub uint16, body []byte) (sent int, err error) {
	return g.send(codec.Packet{Main: main, Sub: sub, Body: body}, &key, true)
}

// SendGroupKeyed is Group.SendKeyed for this session's callbacks: when the loops' outboxes
// are full, the strand waits for them before its next packet.
func (s *Session) SendGroupKeyed(g *Group, key uint64, main, sub uint16, body []byte) (sent int, err error) {
	sent, err = g.send(codec.Packet{Main: main, Sub: sub, Body: body}, &key, false)
	s.waitForOutbox()
	return sent, err
}
