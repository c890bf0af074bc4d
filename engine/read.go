package engine

import (
	"strings"

	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/flight"
	"millrace/engine/internal/inbox"
	"millrace/engine/internal/netio"
	"millrace/engine/internal/outbox"
	"millrace/engine/internal/strand"
)

// lingerExcess is how much input a closing session discards before reading stops.
const lingerExcess = 1 << 20

// sink is a session as seen by the network. Loop goroutine.
type sink Session

// Received processes input.
func (k *sink) Received(b []byte) {
	k.loop.received((*Session)(k), b)
	if (*Session)(k).meter() != nil {
		k.loop.metered((*Session)(k), len(b))
	}
}

// HungUp is called at the connection's end while an inline turn of the session is blocked.
func (k *sink) HungUp(broken bool) {
	s := (*Session)(k)
	if broken {
		s.beginClose(ReasonPeerReset)
	} else if s.conn.Unread() == 0 {
		s.endInput(true)
	}
}

// Closed is called at the connection's end.
func (k *sink) Closed(how netio.End) { k.loop.disconnected((*Session)(k), how) }

func (l *loop) received(s *Session, b []byte) {
	s.bytesIn.Add(uint64(len(b)))
	l.st.bytesIn.Add(uint64(len(b)))
	if s.rd.life != lifeOpen || s.rd.input != inputFrames || s.closed() {
		l.unusual(s, b)
		return
	}
	if s.rd.partial.Some() {
		b = l.complete(s, b)
	}
	if len(b) > 0 && s.rd.input != inputBad {
		l.take(s, b)
	}
	if s.rd.life == lifeOpen {
		l.review(s)
	}
}

// unusual handles input in states other than the normal one.
func (l *loop) unusual(s *Session, b []byte) {
	if s.rd.input == inputSteps && s.rd.life == lifeOpen && !s.closed() {
		l.step(s, b)
		return
	}
	l.discard(s, len(b))
}

// discard discards input of a closing session, up to a limit.
func (l *loop) discard(s *Session, n int) {
	s.rd.excess += int32(n)
	if s.rd.excess <= lingerExcess {
		return
	}
	// Nothing more is discarded: pending output is sent first, and the peer has the rest of Linger
	// to notice that. Closing now would send a reset that may destroy the ERROR.
	l.pause(s, inbox.PauseIn)
	if s.rd.life == lifeLinger && s.rd.paused == 0 {
		l.detach(s)
	}
}

// complete adds to the partial frame, and returns the rest of b.
func (l *loop) complete(s *Session, b []byte) []byte {
	frame, rest, err := s.rd.partial.Add(s.framing.Load().codec, b, l.budget)
	switch {
	case err != nil:
		l.refuse(s, err)
		return nil
	case frame == nil:
		if t := s.tap(); t != nil {
			t.notePart(len(b))
		}
		return nil
	}
	if l.favoured == s {
		l.favour(nil)
	}
	l.noteWhole(s, frame.B, rest)
	if l.mayInline(s) && l.inline(s, frame.B) > 0 {
		frame.Free()
	} else {
		l.queue(s, frame.B, frame)
	}
	return rest
}

// take handles the complete frames at the start of b and keeps the rest as a partial frame.
func (l *loop) take(s *Session, b []byte) {
	whole, bad := 0, error(nil)
	if l.mayInline(s) {
		b = b[l.inline(s, b):]
		if s.rd.life != lifeOpen || s.closed() {
			l.sum.dropped.Add(uint64(countFrames(s.framing.Load().codec, b)))
			l.discard(s, len(b))
			return
		}
	}
	for whole < len(b) {
		size, missing, err := s.framing.Load().codec.Frame(b[whole:])
		if err != nil {
			bad = err
			break
		}
		if size == 0 || missing > 0 {
			break
		}
		whole += size
	}
	if whole > 0 {
		l.queue(s, b[:whole], nil)
	}
	if bad != nil {
		l.refuse(s, bad)
		return
	}
	if rest := b[whole:]; len(rest) > 0 && s.rd.life == lifeOpen {
		s.rd.partial.Begin(rest, l.budget)
		s.rd.begin(l.srv.now())
	}
}

// refuse answers a bad header, after the answers to earlier frames, and closes.
func (l *loop) refuse(s *Session, err error) {
	s.rd.input = inputBad
	s.rd.since = l.srv.now()
	it := bufpool.Get(0)
	it.Tag = strand.Bad
	it.B = append(it.B, strings.TrimPrefix(err.Error(), "codec: ")...)
	l.post(s, it)
}

// post puts an item that is not a frame on the strand.
func (l *loop) post(s *Session, it *bufpool.Buf) {
	schedule, ok := s.in.Post(it)
	if !ok {
		it.Free()
	} else if schedule {
		s.schedule()
	}
}

// queue puts complete frames on the strand. own is the block that contains b, or nil if b is in the
// read buffer.
func (l *loop) queue(s *Session, b []byte, own *bufpool.Buf) {
	now := l.srv.now()
	frames, pings := l.look(s, b)
	l.saw(s, frames, now)
	late := l.srv.late(s, now)
	var schedule, ok bool
	if own != nil {
		schedule, ok = s.in.PostBlock(own, late, now, l.budget)
	} else {
		schedule, ok = s.in.PostFrames(b, late, now, l.srv.grain(), l.budget)
	}
	switch {
	case !ok:
		l.sum.dropped.Add(uint64(frames))
		if own != nil {
			own.Free()
		}
	case schedule:
		s.schedule()
	}
	if pings {
		l.flush(s, outbox.LookWalk)
	}
}

// look counts frames that go to the strand and answers PINGs among them.
func (l *loop) look(s *Session, b []byte) (frames int, pings bool) {
	f := s.framing.Load()
	c, system := f.codec, f.system
	for len(b) > 0 {
		size, _, _ := c.Frame(b)
		frames++
		if system {
			if p := c.Packet(b[:size:size]); p.Main == SystemMain && p.Sub == SubPing && len(p.Body) <= maxPing {
				s.pong(p)
				pings = true
			}
		}
		b = b[size:]
	}
	return frames, pings
}

// disconnected is called when the network closes the descriptor of a connection: because the peer
// has closed or reset it, or within Conn.Close.
func (l *loop) disconnected(s *Session, how netio.End) {
	if s.rd.life == lifeGone {
		return
	}
	fin := how == netio.EndFIN
	if how == netio.EndHangup && s.rd.paused != 0 && s.rd.life == lifeOpen && !s.closed() {
		fin = s.conn.ReadRest(func(b []byte) { l.received(s, b) })
	}
	if s.rd.life == lifeGone {
		return
	}
	owed := fin && s.rd.life == lifeOpen && l.owes(s)
	switch {
	case fin && s.rd.life == lifeOpen && !s.closed() && s.flags.has(flagStep):
		s.note(flight.Fin, 0, 0)
		s.flags.set(flagStepFin) // there may be frames before it
		owed = true
	case fin && s.rd.life == lifeOpen && !s.closed():
		s.note(flight.Fin, 0, 0)
		l.post(s, bufpool.Empty(strand.Fin))
	case s.rd.life != lifeLinger && !fin:
		s.beginClose(ReasonPeerReset)
	}
	if owed && s.conn.Detach() {
		s.rd.life = lifeFin
		s.rd.since = l.srv.now()
		s.setPaused(0)
		if s.out.Blocked() {
			if err := s.conn.NotifyWritable(uint64(s.id)); err != nil {
				l.broken(s)
			}
		}
		return
	}
	if owed { // no descriptor is free: pending answers can't be sent
		s.beginClose(ReasonPeerReset)
	}
	s.rd.life = lifeGone
	l.forget(s)
}

// owes reports whether a session that gets no more input still has something to do.
func (l *loop) owes(s *Session) bool {
	if _, ok := l.srv.handler().(FinHandler); ok {
		return true // OnSocketFin may send or hold
	}
	return l.busy(s) || s.out.Behind(l.out.Log.End())
}
