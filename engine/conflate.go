package engine

import (
	"millrace/codec"
	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/outbox"
)

// PushKeyed is Push for a value of which only the newest is of use, such as a price or a
// position: while an older push to this session with the same key is unsent, this one takes
// its place, and the older one is never sent. So a peer that reads slowly gets the latest
// state instead of being closed, and costs one frame for each key.
//
// The newer push stands where the older stood: among different keys the order stays as it
// was, no key waits longer because it changes often, and what was sent between the two,
// answers and broadcasts too, comes behind it. A push of which the kernel has been given a
// byte is not replaced, nor one in a TLS record or a WebSocket message that has begun.
//
// Keys are the session's own: those of SendGroupKeyed and Group.SendKeyed are others, for
// each group. What a peer is to see in its order, or all of, has no key. A session with Resume
// counts a frame when it is given to the connection, so one that was replaced was never
// counted. While its peer is away, what it is sent is kept in front of that from the first
// keyed push on, and goes on being replaced. Behind a WebSocket, frames over 64 KiB of a framing that does not begin with
// their length may be cut between two messages from the first keyed push on.
//
// Errors are Push's; none of them for a newer push that is no longer than the older.
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

// SendKeyed is Send for a value of which only the newest is of use: for each member it
// takes the place of an unsent one with the same key of this group, as Session.PushKeyed
// says.
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
