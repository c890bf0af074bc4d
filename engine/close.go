package engine

import (
	"context"
	"strings"
	"sync/atomic"

	"millrace/codec"
	"millrace/engine/internal/budget"
	"millrace/engine/internal/flight"
)

// beginClose closes the session for a reason, once. It may be called from anywhere.
func (s *Session) beginClose(why Reason) bool {
	if !s.claimClose(why) {
		return false
	}
	wake := s.out.Close(&s.loop.out)
	s.afterClose(wake)
	return true
}

// closeWithError closes the session for a reason of the engine's own, behind an ERROR
// frame about p where there are system frames. Nothing is sent behind that. False: it
// closes already.
func (s *Session) closeWithError(p codec.Packet, code ErrorCode, text string, why Reason) bool {
	if !s.claimClose(why) {
		return false
	}
	s.afterClose(s.closeOutbox(p, code, text))
	return true
}

// closeOutbox closes the outbox behind an ERROR about p where there are system frames.
func (s *Session) closeOutbox(p codec.Packet, code ErrorCode, text string) (wake bool) {
	f, held := s.holdFraming()
	defer held.release() // before afterClose, which calls foreign code
	if !f.system {
		return s.out.Close(&s.loop.out)
	}
	s.loop.sum.errors.Add(1)
	s.note(flight.Error, p.Handle(), uint32(code))
	c, e := f.brief, f.errorPacket(p, code, text)
	if f.framer != nil {
		c, e, _ = f.fit(e) // what it can't write is nothing
	}
	return s.out.SendLast(&s.loop.out, c, e)
}

func (s *Session) claimClose(why Reason) bool {
	if !s.closing.CompareAndSwap(0, uint32(why)) {
		return false
	}
	s.srv.closes[why].Add(1)
	s.noteClose(why)
	s.endContexts(true)
	return true
}

func (s *Session) afterClose(wake bool) {
	s.srv.groups.leaveAll(s)
	if wake {
		s.loop.markDirty(s)
	}
	s.wakeStrand()
}

// wakeStrand makes the strand look at its session's state again: after a close, or when
// the outbox that it was parked for has drained.
func (s *Session) wakeStrand() {
	if s.in.Wake(s.closed) {
		s.schedule()
	}
}

// settle closes a session that will be asked nothing more and owes nothing: behind the
// ERROR about a bad frame, if it was that.
func (s *Session) settle() {
	if c := s.ctx.Load(); c != nil {
		if text := c.badText.Load(); text != nil {
			s.closeWithError(codec.Packet{}, CodeBadFrame, *text, ReasonBadFrame)
			return
		}
	}
	s.beginClose(ReasonPeerClosed)
}

// end is called by the strand when OnSocketClose has returned, and by the loop when the
// descriptor is closed; after both the slot is free.
func (s *Session) end() {
	if s.ends.Add(-1) == 0 {
		s.dropHolds()
		s.srv.release(s)
	}
}

// Context is cancelled when the session closes, with ErrClosed as its cause: give it to
// what is not worth finishing then.
func (s *Session) Context() context.Context { return s.contexts().session }

// InputContext is cancelled when the peer will ask for nothing more: at its FIN, once
// what was read before has been handled or the last of it is being handled; and when the
// session closes. What a client holds on to while it is there, its locks, ends with it.
func (s *Session) InputContext() context.Context { return s.contexts().input }

func (s *Session) contexts() *contexts {
	if c := s.ctx.Load(); c != nil {
		return c
	}
	c := &contexts{}
	c.session, c.endSession = context.WithCancelCause(context.Background())
	c.input, c.endIn = context.WithCancelCause(c.session)
	if !s.ctx.CompareAndSwap(nil, c) {
		c.endSession(ErrClosed)
		return s.ctx.Load()
	}
	if s.closed() { // before c was there to be ended
		c.endSession(ErrClosed)
	} else if s.flags.has(flagFin) {
		c.endIn(ErrClosed)
	}
	return c
}

// endContexts ends the session's contexts: that of its input, or both.
func (s *Session) endContexts(both bool) {
	c := s.ctx.Load()
	switch {
	case c == nil:
	case both:
		c.endSession(ErrClosed)
	default:
		c.endIn(ErrClosed)
	}
}

// Hold notes that an answer is owed which will come later, from outside the callback:
// until release is called, after the answer has been sent, the session's timeouts stand
// still, and a FIN, a bad frame or a drain waits for it. Calling release again changes
// nothing. What is owed takes memory: each counts 768 bytes in MemoryBudget, and while
// that is exceeded a session that is owed much is not read from.
func (s *Session) Hold() (release func()) { return s.hold(0) }

// Close closes the session with ReasonServerClosed: no further OnSocketRead begins,
// what was sent before is still written, then a FIN. It returns at once.
func (s *Session) Close() error {
	if !s.beginClose(ReasonServerClosed) {
		return ErrClosed
	}
	return nil
}

// Kick closes the session with ReasonKicked, behind an ERROR 8 about nothing with this text
// where there are system frames. No further OnSocketRead begins; what was sent before is
// still written. The peer of one that could be resumed can't come back to it. It returns at
// once; ErrClosed when the session closes already.
func (s *Session) Kick(text string) error {
	if !s.closeWithError(codec.Packet{}, CodeUnauthorised, strings.ToValidUTF8(text, "\ufffd"), ReasonKicked) {
		return ErrClosed
	}
	return nil
}

// CloseWithError closes the session for a reason of the caller's, behind an ERROR about p
// where there are system frames. No further OnSocketRead begins; what was sent before is
// still written. The peer of one that could be resumed can't come back to it. It returns at
// once; ErrClosed when the session closes already.
func (s *Session) CloseWithError(p codec.Packet, code ErrorCode, text string, why Reason) error {
	if !s.closeWithError(p, code, strings.ToValidUTF8(text, "\ufffd"), why) {
		return ErrClosed
	}
	return nil
}

// schedule puts the strand, which has just become queued, onto the run queue.
func (s *Session) schedule() {
	if s.srv.taps {
		s.noteQueued()
	}
	s.meter.queues()
	s.srv.pool.push(s)
}

// push puts a session whose strand is queued onto the run queue.
func (p *Pool) push(s *Session) { p.sched.Push(&s.task, uint(s.loop.index)) }

// broken ends a session whose connection no longer takes bytes.
func (l *loop) broken(s *Session) { l.abort(s, ReasonPeerReset) }

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
	s.sayWhy()
	s.conn.Close()
	l.forget(s)
}

// forget gives back what a session that has gone held. If nothing has begun to close it
// but the peer's FIN, its strand does when it comes to that.
func (l *loop) forget(s *Session) {
	s.tapClosed()
	l.sum.lostBytes.Add(uint64(s.out.Drop(&l.out)))
	s.rd.partial.Drop(l.budget)
	if l.favoured == s {
		l.favoured = nil // the next sweep finds another
	}
	l.remove(s)
	s.wakeStrand()
	s.end()
}

// release frees the slot of a session that has ended altogether.
func (srv *Server) release(s *Session) {
	s.meter.close()
	srv.noteEnd(s)
	srv.table.release(s)
	if s.flags.has(flagOther) {
		srv.others.drop(s)
	}
	if srv.cfg.MaxConnsPerIP > 0 {
		srv.perIP.Leave(s.RemoteAddr())
	}
	srv.conns.Add(-1)
	select {
	case srv.tickNow <- struct{}{}: // somebody may be waiting for the last one
	default:
	}
}

// TryHold is Hold for what takes bytes of memory more. ErrMemory, which is ErrBusy, while
// MemoryBudget is exceeded and the session is owed its share of it: nothing is held.
func (s *Session) TryHold(bytes int) (release func(), err error) {
	if level := s.srv.budget.Level(); level != budget.Free && int(s.held.Load())*holdCost >= s.srv.shareOf(level) {
		s.loop.sum.busy.Add(1)
		return nil, ErrMemory
	}
	return s.hold(bytes), nil
}

func (s *Session) hold(bytes int) (release func()) {
	if s.held.Add(1) > 0 {
		s.loop.budget.Add(holdCost)
	}
	s.loop.budget.Add(bytes)
	var done atomic.Bool
	return func() {
		if !done.CompareAndSwap(false, true) {
			return
		}
		s.loop.budget.Add(-bytes)
		left := s.held.Add(-1)
		if left >= 0 {
			s.loop.budget.Add(-holdCost)
		}
		if left == 0 && s.flags.has(flagOver) {
			s.settle()
		}
	}
}

// dropHolds gives back what is owed to a session that has ended: a callback that panicked
// may have lost its release.
func (s *Session) dropHolds() { s.loop.budget.Add(-holdCost * int(s.held.Swap(heldGone))) }

const (
	// holdCost is about what a request costs, in bytes, whose answer comes later.
	holdCost = 768
	// heldGone is what a session that has ended is owed: no release brings it back to 0.
	heldGone = -1 << 30
)
