package engine

// flushKind says who flushes a session.
type flushKind uint8

const (
	flushPopped flushKind = iota // it came off the dirty list
	flushWalk                    // the walk, or the loop after a PING
	flushInline                  // the end of an inline turn
)

// flush takes what a session has staged, puts the broadcasts of the log where they
// belong, and writes it with one write. Loop goroutine.
func (l *loop) flush(s *Session, kind flushKind) {
	o := &s.out
	o.mu.Lock()
	switch kind {
	case flushPopped:
		o.dirty = false
	case flushInline:
		o.corked, o.active = false, false
	}
	stage, at, cast, charge, refs, owned, closed := o.stage, o.at, o.cast, o.charge, o.refs, o.owned, o.closed
	o.stage, o.cast, o.charge, o.refs, o.owned = nil, 0, 0, 0, false
	if stage != nil && !owned {
		o.hint = uint16(min(len(stage.b), 32<<10))
	}
	l.takeSegs(o)
	if o.writable {
		o.writable, o.blocked = false, false
	}
	end := l.logEnd.Load()
	if closed {
		end = o.endAt
	}
	o.mu.Unlock()
	if charge > 0 {
		l.queued.Add(-int64(charge))
	}
	if s.rd.life == lifeGone {
		if stage != nil {
			refs += len(stage.b)
		}
		l.srv.lostBytes.Add(uint64(refs))
		l.giveBack(stage, owned)
		l.dropSegs()
		return
	}
	if stage != nil && len(stage.b) == 0 {
		l.giveBack(stage, owned)
		stage = nil
	}
	if stage != nil || refs > 0 || o.pos < end {
		l.st.drained.Add(1)
		stage, cast, owned = l.gather(s, stage, at, end, refs, cast, owned)
		l.emit(s, stage, cast, owned)
	} else if o.head != nil && !o.blocked {
		l.sendChain(s)
	}
	if s.rd.life == lifeGone {
		return
	}
	l.relieve(s)
	if closed && o.head == nil {
		l.allSent(s)
	}
}

func (l *loop) giveBack(b *buf, owned bool) {
	switch {
	case b == nil:
	case b.refs.Load() > 0:
		b.drop()
	case owned:
		b.b = b.b[:0]
		l.lent = b
	default:
		b.free()
	}
}

// emit writes b, or hangs it on the chain. cast of its bytes were not asked for.
func (l *loop) emit(s *Session, b *buf, cast int, owned bool) {
	o := &s.out
	n := 0
	if o.head == nil {
		var err error
		if n, err = l.write(s, b.b); err != nil {
			l.srv.lostBytes.Add(uint64(len(b.b) - n))
			l.giveBack(b, owned)
			l.broken(s)
			return
		}
		if n == len(b.b) {
			l.giveBack(b, owned)
			return
		}
	}
	if owned || (n > 0 && len(b.b)-n < cap(b.b)/4) {
		rest := getBuf(len(b.b) - n)
		rest.b = append(rest.b, b.b[n:]...)
		l.giveBack(b, owned)
		b, n = rest, 0
	}
	b.off = n
	b.cast = min(cast, len(b.b)-n)
	l.enchain(s, b)
	if o.head == b {
		l.block(s)
	} else if !o.blocked {
		l.sendChain(s)
	}
}

// enchain adds what the kernel did not take to the chain.
func (l *loop) enchain(s *Session, b *buf) {
	o := &s.out
	n := len(b.b) - b.off
	if t := o.tail; t != nil && cap(t.b)-len(t.b) >= n {
		t.b = append(t.b, b.rest()...)
		t.cast += b.cast
		o.pushed += b.cast
		b.free()
	} else {
		if t == nil {
			o.head = b
		} else {
			t.next = b
		}
		o.tail = b
		o.pushed += b.cast
	}
	l.srv.buffered.Add(int64(n))
	o.mu.Lock()
	o.unsent += n
	if o.size() >= l.srv.cfg.MaxOutbound {
		o.full.Store(true)
	}
	o.mu.Unlock()
}

// block waits for the kernel to take more; a peer that leaves unread too much that it
// did not ask for is closed.
func (l *loop) block(s *Session) {
	s.out.blocked = true
	l.st.blockedWrites.Add(1)
	if err := s.wire.watch(); err != nil {
		l.broken(s)
		return
	}
	if s.rd.progress == 0 {
		s.rd.progress = l.srv.now()
	}
}

// sendChain writes the chain until it is empty or the kernel is full.
func (l *loop) sendChain(s *Session) {
	o := &s.out
	sent := 0
	var err error
	for o.head != nil && err == nil {
		b, n := o.head, 0
		n, err = l.write(s, b.rest())
		sent += n
		b.off += n
		left := len(b.b) - b.off
		if b.cast > left {
			o.pushed -= b.cast - left
			b.cast = left
		}
		if left > 0 {
			break
		}
		o.head = b.next
		if o.head == nil {
			o.tail = nil
		}
		b.free()
	}
	if sent > 0 {
		s.rd.progress = l.srv.now()
	}
	o.mu.Lock()
	o.unsent -= sent
	o.mu.Unlock()
	l.srv.unbuffer(int64(sent))
	switch {
	case err != nil:
		l.broken(s)
	case o.head != nil:
		l.block(s)
	default:
		s.rd.progress = 0
	}
}

func (l *loop) write(s *Session, p []byte) (int, error) {
	l.st.writes.Add(1) // before it, so that who has the bytes finds them counted
	if s.rd.wrote == 0 {
		s.rd.wrote = max(l.sweepNow, 1)
	}
	n, err := s.wire.write(p)
	s.bytesOut.Add(uint64(n))
	l.st.bytesOut.Add(uint64(n))
	return n, err
}

// relieve applies the outbound limits after a flush.
func (l *loop) relieve(s *Session) {
	o := &s.out
	limit := l.srv.cfg.MaxOutbound
	if o.pushed >= limit {
		l.abort(s, ReasonSlowConsumer)
		return
	}
	if o.full.Load() {
		o.mu.Lock()
		half := o.size() <= limit/2
		if half {
			o.full.Store(false)
		}
		o.mu.Unlock()
		if half {
			s.in.wake(s)
		}
	}
	if s.rd.paused != 0 || o.full.Load() {
		l.review(s)
	}
}

// allSent ends the sending side of a session that closes, once everything has gone.
func (l *loop) allSent(s *Session) {
	switch s.rd.life {
	case lifeOpen:
		s.wire.fin()
		s.rd.life = lifeLinger
		s.rd.since = l.srv.now()
		s.rd.excess = 0
		l.unpause(s)
	case lifeFin:
		l.detach(s)
	}
}

// broken ends a session whose connection no longer takes bytes.
func (l *loop) broken(s *Session) {
	s.beginClose(ReasonPeerReset)
	l.detach(s)
}

// abort closes a session at once; what it had not sent is lost.
func (l *loop) abort(s *Session, why Reason) {
	s.beginClose(why)
	l.detach(s)
}

// detach closes the descriptor and takes the session off the loop.
func (l *loop) detach(s *Session) {
	if s.rd.life == lifeGone {
		return
	}
	s.rd.life = lifeGone
	s.wire.close()
	l.forget(s)
}

// forget gives back what a session that has gone held.
func (l *loop) forget(s *Session) {
	o := &s.out
	lost := 0
	for b := o.head; b != nil; {
		next := b.next
		lost += len(b.b) - b.off
		b.free()
		b = next
	}
	o.head, o.tail, o.pushed = nil, nil, 0
	o.mu.Lock()
	o.unsent = 0
	o.full.Store(false)
	o.mu.Unlock()
	if lost > 0 {
		l.srv.unbuffer(int64(lost))
		l.srv.lostBytes.Add(uint64(lost))
	}
	if b := s.rd.partial; b != nil {
		s.rd.partial = nil
		l.srv.unbuffer(int64(cap(b.b)))
		b.free()
	}
	l.remove(s)
	s.end()
}
