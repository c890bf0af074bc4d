package engine

import "time"

// reading is the loop's side of one session. Loop goroutine only.
type reading struct {
	place    int32 // in loop.sessions
	life     uint8
	paused   uint8 // why reading is paused, bits
	starved  bool  // on loop.starved
	bad      bool  // a bad header was seen: the rest of the input is thrown away
	opened   bool  // a whole frame has been seen
	partial  *buf  // the frame whose rest is still to come
	begun    int64 // when partial's first byte came
	since    int64 // when it was accepted; later, when its present life began
	heard    int64 // when a whole frame was last seen
	last     int64 // the same, moved on by what idleness does not count
	pinged   int64 // when the last PING went out
	progress int64 // when the kernel last took a byte of the chain; 0: no chain
	wrote    int64 // since when, to a tick, the peer may owe acknowledgements; 0: it owes none
	looked   int64 // when the kernel was last asked for them
	excess   int   // bytes thrown away
	away     int64 // when GOAWAY was sent; 0: not
}

// The life of a session, as its loop sees it.
const (
	lifeOpen   = iota
	lifeFin    // the peer has sent its FIN; the descriptor is the engine's own duplicate
	lifeLinger // everything is sent and so is the FIN; input is thrown away until the peer's
	lifeGone   // off the loop
)

// Why reading is paused.
const (
	pauseOut    = 1 << iota // unsent bytes at MaxOutbound
	pauseIn                 // waiting bytes at MaxPending
	pauseBudget             // all sessions together at MemoryBudget
)

// lingerExcess is how much input a closing session throws away before it is cut off.
const lingerExcess = 1 << 20

// traffic takes what has just been read. b is the loop's read buffer.
func (l *loop) traffic(s *Session, b []byte) {
	s.bytesIn.Add(uint64(len(b)))
	l.st.bytesIn.Add(uint64(len(b)))
	if s.rd.life != lifeOpen || s.rd.bad || s.closing.Load() != 0 {
		l.discard(s, len(b))
		return
	}
	if s.rd.partial != nil {
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
	s.rd.excess += n
	if s.rd.excess <= lingerExcess {
		return
	}
	// No more is thrown away: what is still to be sent goes first, and the peer has the
	// rest of Linger to see that. A close now would be a reset that may destroy the ERROR.
	l.pause(s, pauseIn)
	if s.rd.life == lifeLinger && s.rd.paused == 0 {
		l.detach(s)
	}
}

// complete adds to the partial frame, and returns what is left of b.
func (l *loop) complete(s *Session, b []byte) []byte {
	part := s.rd.partial
	for {
		_, missing, err := l.srv.codec.Frame(part.b)
		if err != nil {
			l.endPartial(s)
			part.free()
			l.refuse(s, err)
			return nil
		}
		if missing == 0 {
			l.endPartial(s)
			n := 0
			if l.srv.mayInline() && !s.mustPark() && s.in.enter() {
				n = l.inline(s, part.b)
			}
			if n == 0 {
				l.queue(s, part.b, part)
			} else {
				part.free()
			}
			return b
		}
		if len(b) == 0 {
			return nil
		}
		n := min(missing, len(b))
		grown := l.growPartial(s, part, n, missing)
		grown.b = append(grown.b, b[:n]...)
		part, b = grown, b[n:]
	}
}

// growPartial makes room for n more bytes. A frame's memory grows with what has come of
// it, at most fourfold at a time, not with what its header claims.
func (l *loop) growPartial(s *Session, part *buf, n, missing int) *buf {
	if cap(part.b)-len(part.b) >= n {
		return part
	}
	g := getBuf(min(len(part.b)+missing, max(4*cap(part.b), len(part.b)+n)))
	g.b = append(g.b, part.b...)
	l.srv.buffered.Add(int64(cap(g.b) - cap(part.b)))
	part.free()
	s.rd.partial = g
	return g
}

func (l *loop) endPartial(s *Session) {
	l.srv.unbuffer(int64(cap(s.rd.partial.b)))
	s.rd.partial = nil
}

// take handles the whole frames at the start of b and keeps the rest as a partial one.
func (l *loop) take(s *Session, b []byte) {
	whole, bad := 0, error(nil)
	if l.srv.mayInline() && !s.mustPark() && s.in.enter() {
		n := l.inline(s, b)
		b = b[n:]
		if s.rd.life != lifeOpen || s.closing.Load() != 0 {
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
		part := getBuf(len(rest))
		part.b = append(part.b, rest...)
		l.srv.buffered.Add(int64(cap(part.b)))
		s.rd.partial = part
		s.rd.begun = l.srv.now()
	}
}

// refuse answers a bad header, behind whatever came before it, and closes.
func (l *loop) refuse(s *Session, err error) {
	s.rd.bad = true
	it := getBuf(0)
	it.kind = itemBad
	it.b = append(it.b, err.Error()[len("codec: "):]...)
	s.post(it)
}

// queue puts whole frames on the strand. own is the pooled buf that b is in, or nil
// when it is the read buffer.
func (l *loop) queue(s *Session, b []byte, own *buf) {
	frames, pings := l.look(s, b)
	l.saw(s, frames, l.srv.now())
	if own == nil {
		own = getBuf(len(b))
		own.b = append(own.b, b...)
	}
	s.post(own)
	if pings {
		l.flush(s, flushWalk)
	}
}

// saw notes whole frames.
func (l *loop) saw(s *Session, frames int, now int64) {
	s.rd.heard, s.rd.last, s.rd.opened = now, now, true
	s.framesIn.Add(uint64(frames))
	l.st.framesIn.Add(uint64(frames))
}

// inline runs the whole frames at the start of b on the loop, as far as they may run
// there. It returns how many bytes it has done; the strand is given up.
func (l *loop) inline(s *Session, b []byte) int {
	o := &s.out
	now := l.srv.now()
	o.mu.Lock()
	o.corked, o.active = true, true
	if o.stage == nil && l.lent != nil {
		o.stage, o.owned, l.lent = l.lent, true, nil
	}
	o.mu.Unlock()
	it := &l.view
	it.b, it.off, it.late = b, 0, l.srv.refusing.Load()
	used := s.framesInline(it)
	done := it.off
	it.b = nil
	if used > 0 {
		l.saw(s, used, now)
		l.st.inline.Add(uint64(used))
		if learn := l.srv.learn; learn != nil {
			learn.judge(b[:done], time.Duration(l.srv.now()-now))
		}
	}
	l.flush(s, flushInline) // before leave: behind it a worker may have the strand and cork
	s.leave()
	if l.lent == nil {
		l.lent = getBuf(l.srv.cfg.ReadBuffer)
	}
	return done
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

// review pauses or resumes reading by what waits now.
func (l *loop) review(s *Session) {
	limits := &l.srv.cfg
	s.in.mu.Lock()
	in := s.in.pending
	if in >= limits.MaxPending {
		s.in.paused = true
	}
	s.in.mu.Unlock()
	out := s.out.unsentBytes()
	want := s.rd.paused
	want = hysteresis(want, pauseIn, in, limits.MaxPending)
	want = hysteresis(want, pauseOut, out, limits.MaxOutbound)
	buffered := int(l.srv.buffered.Load())
	switch {
	case buffered > limits.MemoryBudget && in+out >= l.srv.fairShare(buffered):
		want |= pauseBudget
	case buffered <= limits.MemoryBudget/2 || in+out == 0:
		want &^= pauseBudget
	}
	switch {
	case want == s.rd.paused:
	case want == 0:
		l.unpause(s)
	default:
		l.pause(s, want)
	}
}

// hysteresis sets a bit at the limit and takes it away at half of it.
func hysteresis(bits, bit uint8, n, limit int) uint8 {
	if n >= limit {
		return bits | bit
	}
	if n <= limit/2 {
		return bits &^ bit
	}
	return bits
}

// pause stops reading from a session; the kernel's buffers and then the peer feel it.
func (l *loop) pause(s *Session, why uint8) {
	if s.rd.paused == 0 {
		l.st.pauses.Add(1)
		if !s.wire.mask(true) {
			l.overflow(s, why)
			return
		}
	}
	s.rd.paused = why
	if why&pauseBudget != 0 && !s.rd.starved {
		s.rd.starved = true
		l.starved = append(l.starved, s)
		l.srv.starving.Add(1)
	}
}

// overflow closes a session over its limits where reading can't be paused.
func (l *loop) overflow(s *Session, why uint8) {
	limits := &l.srv.cfg
	if s.in.pendingBytes() > 2*limits.MaxPending || s.out.unsentBytes() > 2*limits.MaxOutbound || why&pauseBudget != 0 {
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
	if s.rd.partial != nil {
		s.rd.begun = now
	}
	s.wire.mask(false)
}

// feed looks again at the sessions that were paused for the memory budget.
func (l *loop) feed() {
	list := l.starved
	l.starved = nil
	for _, s := range list {
		s.rd.starved = false
		l.srv.starving.Add(-1)
		if s.rd.life == lifeOpen {
			l.review(s)
			if s.rd.paused&pauseBudget != 0 && !s.rd.starved {
				l.pause(s, s.rd.paused)
			}
		}
	}
}

// gone is called when gnet closes the descriptor of a connection: by itself, because
// the peer has ended or broken it, or within wire.close.
func (l *loop) gone(s *Session, fin, hangup bool) {
	if s.rd.life == lifeGone {
		return
	}
	if hangup && s.rd.paused != 0 && s.rd.life == lifeOpen && s.closing.Load() == 0 {
		fin = s.wire.rest(func(b []byte) { l.traffic(s, b) })
	}
	if s.rd.life == lifeGone {
		return
	}
	owed := fin && s.rd.life == lifeOpen && l.owes(s)
	if fin && s.rd.life == lifeOpen && s.closing.Load() == 0 {
		s.post(getItem(itemFin))
	} else if s.rd.life != lifeLinger {
		if !fin {
			s.beginClose(ReasonPeerReset)
		}
	}
	if owed && s.wire.keep() {
		s.rd.life = lifeFin
		s.rd.since = l.srv.now()
		s.rd.paused = 0
		return
	}
	s.rd.life = lifeGone
	l.forget(s)
}

// owes tells whether a session that will read no more still has something to do.
func (l *loop) owes(s *Session) bool {
	if _, ok := l.srv.handler().(FinHandler); ok {
		return true // OnSocketFin may send or hold
	}
	return l.busy(s) || s.out.pos < l.logEnd.Load()
}
