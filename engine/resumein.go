package engine

import (
	"millrace/codec"
)

// receivedLine processes input of a link.
func (l *loop) receivedLine(s *Session, k *link, b []byte) {
	l.readLine(s, k, b)
	if s.meter() != nil {
		l.metered(s, len(b))
	}
}

func (l *loop) readLine(s *Session, k *link, b []byte) {
	if s.line().cur != k {
		return // it was replaced by another link
	}
	s.bytesIn.Add(uint64(len(b)))
	l.st.bytesIn.Add(uint64(len(b)))
	if s.rd.life != lifeOpen || s.rd.input == inputBad || s.closed() {
		l.discard(s, len(b))
		return
	}
	if s.rd.partial.Some() {
		frame, rest, err := s.rd.partial.Add(l.srv.framing.codec, b, l.budget)
		switch {
		case err != nil:
			l.refuse(s, err)
		case frame != nil:
			l.takeLine(s, k, frame.B)
			frame.Free()
			if l.favoured == s {
				l.favour(nil)
			}
		}
		b = rest
	}
	if s.line().cur == k && len(b) > 0 && s.rd.input != inputBad {
		l.takeLine(s, k, b)
	}
	if s.rd.life == lifeOpen && s.line().cur == k {
		l.review(s)
	}
}

// takeLine handles the frames at the start of b: those of the resume protocol here, the others as
// for any session. The rest is kept as a partial frame.
func (l *loop) takeLine(s *Session, k *link, b []byte) {
	ln, c := s.line(), l.srv.framing.codec
	run, at := 0, 0 // frames from run on have not been passed to the session
	for at < len(b) {
		size, missing, err := c.Frame(b[at:])
		if err != nil {
			l.hand(s, b[run:at])
			if ln.cur == k && !s.closed() {
				l.refuse(s, err)
			}
			return
		}
		if size == 0 || missing > 0 {
			break
		}
		p := c.Packet(b[at : at+size : at+size])
		at += size
		ln.prove()
		if p.Main != SystemMain {
			ln.count(l)
		} else if p.Sub == SubAck || p.Sub == SubBye {
			l.hand(s, b[run:at-size])
			run = at - size
			if ln.cur != k || s.closed() {
				return
			}
			if ln.control(p) {
				l.saw(s, 1, l.srv.now())
				run = at
			}
		}
	}
	l.hand(s, b[run:at])
	if rest := b[at:]; len(rest) > 0 && ln.cur == k && s.rd.life == lifeOpen && !s.closed() {
		s.rd.partial.Begin(rest, l.budget)
		s.rd.begin(l.srv.now())
	}
}

// hand passes complete frames to the session.
func (l *loop) hand(s *Session, b []byte) {
	l.noteRead(s, b)
	if len(b) > 0 && l.mayInline(s) {
		b = b[l.inline(s, b):]
	}
	switch {
	case len(b) == 0:
	case s.rd.life != lifeOpen || s.closed():
		l.sum.dropped.Add(uint64(countFrames(l.srv.framing.codec, b)))
		l.discard(s, len(b))
	default:
		l.queue(s, b, nil)
	}
}

// count counts a frame of the peer. After ackFrames frames an ACK is sent: before the answer to the
// next one.
func (ln *line) count(l *loop) {
	if ln.received == ln.told {
		ln.owedSince = l.srv.now()
	}
	ln.received++
	if ln.received-ln.told >= ackFrames {
		ln.acknowledge()
	}
}

// prove records that the peer has sent a frame after its HELLO: so it has received the WELCOME, and
// the token in that replaces the previous one.
func (ln *line) prove() {
	if !ln.unproven {
		return
	}
	ln.srv.tokens.Delete(ln.token)
	ln.token, ln.unproven = ln.next, false
}

// forgetTokens makes the session impossible to find.
func (ln *line) forgetTokens() {
	ln.srv.tokens.Delete(ln.token)
	if ln.unproven {
		ln.srv.tokens.Delete(ln.next)
	}
}

// control processes an ACK or BYE. It returns false if the frame is wrong and must be answered in
// order.
func (ln *line) control(p codec.Packet) bool {
	if p.Sub == SubBye {
		ln.bye = true
		ln.forgetTokens()
		return true
	}
	n, ok := ln.srv.framing.codec.ParseCount(p.Body)
	if !ok {
		return false
	}
	ln.mu.Lock()
	before := ln.ring.First()
	ok = ln.ring.Ack(n)
	if ok {
		ln.loose = false
	}
	more := ln.ring.First() > before
	wake := ok && ln.takeWish()
	ln.mu.Unlock()
	if ok {
		ln.keep()
	}
	if more && ln.s.rd.progress != 0 { // even if there is no room yet for what waits
		ln.s.rd.progress = markOf(ln.srv.now())
	}
	if wake {
		ln.s.canWrite()
	}
	return ok
}
