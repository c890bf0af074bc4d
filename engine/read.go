package engine

import (
	"millrace/engine/internal/budget"
	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/inbox"
	"millrace/engine/internal/netio"
	"millrace/engine/internal/outbox"
	"millrace/engine/internal/strand"
)

// reading is the loop's side of one session. Loop goroutine only.
type reading struct {
	place    int32 // in loop.sessions
	life     uint8
	paused   inbox.Pause
	waits    bool  // on loop.paused
	lagging  bool  // on loop.lagging
	bad      bool  // a bad header was seen: the rest of the input is thrown away
	opened   bool  // a whole frame has been seen
	excess   int32 // bytes thrown away
	partial  inbox.Partial
	begun    int64 // when partial's first byte came
	since    int64 // when it was accepted; later, when its present life began
	heard    int64 // when a whole frame was last seen
	last     int64 // the same, moved on by what idleness does not count
	pinged   int64 // when the last PING went out
	progress int64 // when the kernel last took a byte of what it had refused; 0: nothing is unsent
	wrote    int64 // since when, to a tick, the peer may owe acknowledgements; 0: it owes none
	looked   int64 // when the kernel was last asked for them
}

// The life of a session, as its loop sees it.
const (
	lifeOpen   = iota
	lifeFin    // the peer has sent its FIN; the descriptor is the engine's own duplicate
	lifeLinger // everything is sent and so is the FIN; input is thrown away until the peer's
	lifeGone   // off the loop
)

// lingerExcess is how much input a closing session throws away before it is cut off.
const lingerExcess = 1 << 20

// sink is a session as the network sees it. Loop goroutine.
type sink Session

// Received takes what has just been read.
func (k *sink) Received(b []byte) { k.loop.received((*Session)(k), b) }

// Closed is the connection's end.
func (k *sink) Closed(how netio.End) { k.loop.disconnected((*Session)(k), how) }

func (l *loop) received(s *Session, b []byte) {
	s.bytesIn.Add(uint64(len(b)))
	l.st.bytesIn.Add(uint64(len(b)))
	if s.rd.life != lifeOpen || s.rd.bad || s.closed() {
		l.discard(s, len(b))
		return
	}
	if s.rd.partial.Some() {
		b = l.complete(s, b)
	}
	if len(b) > 0 && !s.rd.bad {
		l.take(s, b)
	}
	if s.rd.life == lifeOpen {
		l.review(s)
	}
}

// discard throws input of a closing session away, up to a limit.
func (l *loop) discard(s *Session, n int) {
	s.rd.excess += int32(n)
	if s.rd.excess <= lingerExcess {
		return
	}
	// No more is thrown away: what is still to be sent goes first, and the peer has the
	// rest of Linger to see that. A close now would be a reset that may destroy the ERROR.
	l.pause(s, inbox.PauseIn)
	if s.rd.life == lifeLinger && s.rd.paused == 0 {
		l.detach(s)
	}
}

// complete adds to the partial frame, and returns what is left of b.
func (l *loop) complete(s *Session, b []byte) []byte {
	frame, rest, err := s.rd.partial.Add(l.srv.codec, b, l.srv.budget)
	switch {
	case err != nil:
		l.refuse(s, err)
		return nil
	case frame == nil:
		return nil
	}
	if l.favoured == s {
		l.favour(nil)
	}
	if l.mayInline(s) && l.inline(s, frame.B) > 0 {
		frame.Free()
	} else {
		l.queue(s, frame.B, frame)
	}
	return rest
}

// take handles the whole frames at the start of b and keeps the rest as a partial one.
func (l *loop) take(s *Session, b []byte) {
	whole, bad := 0, error(nil)
	if l.mayInline(s) {
		b = b[l.inline(s, b):]
		if s.rd.life != lifeOpen || s.closed() {
			l.srv.dropped.Add(uint64(countFrames(l.srv.codec, b)))
			l.discard(s, len(b))
			return
		}
	}
	for whole < len(b) {
		size, missing, err := l.srv.codec.Frame(b[whole:])
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
		s.rd.partial.Begin(rest, l.srv.budget)
		s.rd.begun = l.srv.now()
	}
}

// refuse answers a bad header, behind whatever came before it, and closes.
func (l *loop) refuse(s *Session, err error) {
	s.rd.bad = true
	s.rd.since = l.srv.now()
	it := bufpool.Get(0)
	it.Tag = strand.Bad
	it.B = append(it.B, err.Error()[len("codec: "):]...)
	l.post(s, it)
}

// post puts an item that is no frame on the strand.
func (l *loop) post(s *Session, it *bufpool.Buf) {
	schedule, ok := s.in.Post(it)
	if !ok {
		it.Free()
	} else if schedule {
		s.schedule()
	}
}

// queue puts whole frames on the strand. own is the block that b is in, or nil when it
// is the read buffer.
func (l *loop) queue(s *Session, b []byte, own *bufpool.Buf) {
	now := l.srv.now()
	frames, pings := l.look(s, b)
	l.saw(s, frames, now)
	late := l.srv.late(s, now)
	var schedule, ok bool
	if own != nil {
		schedule, ok = s.in.PostBlock(own, late, l.srv.budget)
	} else {
		schedule, ok = s.in.PostFrames(b, late, l.srv.budget)
	}
	switch {
	case !ok:
		l.srv.dropped.Add(uint64(frames))
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

// saw notes whole frames.
func (l *loop) saw(s *Session, frames int, now int64) {
	s.rd.heard, s.rd.last, s.rd.opened = now, now, true
	s.framesIn.Add(uint64(frames))
	l.st.framesIn.Add(uint64(frames))
}

// look counts frames that go to the strand and answers their PINGs.
func (l *loop) look(s *Session, b []byte) (frames int, pings bool) {
	c := l.srv.codec
	system := !l.srv.cfg.NoSystemFrames
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

// review pauses or resumes reading by what is held now.
func (l *loop) review(s *Session) {
	c := &l.srv.cfg
	in, out := s.in.Held(c.MaxPending), s.out.Size()
	want := s.rd.paused.With(inbox.PauseOut, out, c.MaxOutbound).With(inbox.PauseIn, in, c.MaxPending)
	if level := l.srv.budget.Level(); level == budget.Free || s == l.favoured {
		want &^= inbox.PauseBudget
	} else {
		want = want.With(inbox.PauseBudget, in+out+s.rd.partial.Held(), l.srv.shareOf(level))
	}
	switch {
	case want == s.rd.paused:
	case want == 0:
		l.unpause(s)
	default:
		l.pause(s, want)
	}
}

// pause stops reading from a session; the kernel's buffers and then the peer feel it.
func (l *loop) pause(s *Session, why inbox.Pause) {
	if s.rd.paused == 0 {
		l.st.pauses.Add(1)
		if !s.conn.PauseReading(true) {
			l.overflow(s, why)
			return
		}
	}
	s.rd.paused = why
	if why&inbox.PauseBudget != 0 && !s.rd.waits {
		s.rd.waits = true
		l.paused = append(l.paused, s)
		l.srv.starving.Add(1)
	}
}

// overflow closes a session over its limits where reading can't be paused.
func (l *loop) overflow(s *Session, why inbox.Pause) {
	c := &l.srv.cfg
	if s.in.Held(maxInt)/2 > c.MaxPending || s.out.Size()/2 > c.MaxOutbound || why&inbox.PauseBudget != 0 {
		l.abort(s, ReasonOverflow)
	}
}

func (l *loop) unpause(s *Session) {
	if s.rd.paused == 0 {
		return
	}
	s.rd.paused = 0
	now := l.srv.now()
	s.rd.last = now
	if s.rd.partial.Some() {
		s.rd.begun = now
	}
	s.conn.PauseReading(false)
}

// disconnected is called when the network closes the descriptor of a connection: by
// itself, because the peer has ended or broken it, or within Conn.Close.
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
	case fin && s.rd.life == lifeOpen && !s.closed():
		l.post(s, bufpool.Empty(strand.Fin))
	case s.rd.life != lifeLinger && !fin:
		s.beginClose(ReasonPeerReset)
	}
	if owed && s.conn.Detach() {
		s.rd.life = lifeFin
		s.rd.since = l.srv.now()
		s.rd.paused = 0
		if s.out.Blocked() {
			if err := s.conn.NotifyWritable(uint64(s.id)); err != nil {
				l.broken(s)
			}
		}
		return
	}
	if owed { // no descriptor is free: what is owed can't be sent
		s.beginClose(ReasonPeerReset)
	}
	s.rd.life = lifeGone
	l.forget(s)
}

// owes tells whether a session that will read no more still has something to do.
func (l *loop) owes(s *Session) bool {
	if _, ok := l.srv.handler().(FinHandler); ok {
		return true // OnSocketFin may send or hold
	}
	return l.busy(s) || s.out.Behind(l.out.Log.End())
}
