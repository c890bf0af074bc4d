package engine

import (
	"context"
	"strings"
	"sync/atomic"

	"millrace/codec"
	"millrace/engine/internal/budget"
	"millrace/engine/internal/flight"
)

// beginClose starts closing the session for a reason, once. It may be called from any goroutine.
func (s *Session) beginClose(why Reason) bool {
	if !s.claimClose(why) {
		return false
	}
	wake := s.out.Close(&s.loop.out)
	s.afterClose(wake)
	return true
}

// closeWithError closes the session for a reason of the engine, after an ERROR frame about p if
// there are system frames. Nothing is sent after that. It returns false if the session is already
// closing.
func (s *Session) closeWithError(p codec.Packet, code ErrorCode, text string, why Reason) bool {
	if !s.claimClose(why) {
		return false
	}
	s.afterClose(s.closeOutbox(p, code, text))
	return true
}

// closeOutbox closes the outbox after an ERROR about p, if there are system frames.
func (s *Session) closeOutbox(p codec.Packet, code ErrorCode, text string) (wake bool) {
	f, held := s.holdFraming()
	defer held.release() // before afterClose, which calls user code
	if !f.system {
		return s.out.Close(&s.loop.out)
	}
	s.loop.sum.errors.Add(1)
	s.note(flight.Error, p.Handle(), uint32(code))
	c, e := f.brief, f.errorPacket(p, code, text)
	if f.framer != nil {
		c, e, _ = f.fit(e) // nothing is sent if the framing can't represent it
	}
	return s.out.SendLast(&s.loop.out, c, e)
}

func (s *Session) claimClose(why Reason) bool {
	if !s.closing.CompareAndSwap(0, uint32(why)) {
		return false
	}
	s.claimed(why)
	return true
}

// claimed notes why a session closes, once.
func (s *Session) claimed(why Reason) {
	s.srv.closes[why].Add(1)
	s.noteClose(why)
	s.endContexts(true)
}

func (s *Session) afterClose(wake bool) {
	s.srv.groups.leaveAll(s)
	if wake {
		s.loop.markDirty(s)
	}
	s.wakeStrand()
}

// wakeStrand makes the strand check its session's state again: after a close, or when the outbox
// that it was parked for has drained.
func (s *Session) wakeStrand() {
	if s.in.Wake(s.closed) {
		s.schedule()
	}
}

// settle closes a session that gets no more requests and has no pending answers; after a bad frame
// the ERROR about it is sent first.
func (s *Session) settle() {
	if x := s.extra.Load(); x != nil {
		if text := x.badText.Load(); text != nil {
			s.closeWithError(codec.Packet{}, CodeBadFrame, *text, ReasonBadFrame)
			return
		}
	}
	s.beginClose(ReasonPeerClosed)
}

// end is called by the strand when OnSocketClose has returned, and by the loop when the descriptor
// is closed; after both, the slot is free.
func (s *Session) end() {
	if s.ends.Add(-1) == 0 {
		s.dropHolds()
		s.srv.release(s)
	}
}

// Context returns a context that is cancelled when the session closes, with ErrClosed as its cause:
// pass it to operations that are not worth finishing then.
func (s *Session) Context() context.Context { return s.contexts().session }

// InputContext returns a context that is cancelled when the peer can send no more requests: at its
// FIN, when the last packet read before it has been handled or is being handled; and when the
// session closes. Resources that a client holds while it is connected, such as locks, should end
// with it.
func (s *Session) InputContext() context.Context { return s.contexts().input }

func (s *Session) contexts() *contexts {
	x := s.more()
	if c := x.ctx.Load(); c != nil {
		return c
	}
	c := &contexts{}
	c.session, c.endSession = context.WithCancelCause(context.Background())
	c.input, c.endIn = context.WithCancelCause(c.session)
	if !x.ctx.CompareAndSwap(nil, c) {
		c.endSession(ErrClosed)
		return x.ctx.Load()
	}
	if s.closed() { // it closed before c was stored
		c.endSession(ErrClosed)
	} else if s.flags.has(flagFin) {
		c.endIn(ErrClosed)
	}
	return c
}

// endContexts cancels the session's contexts: the input context, or both.
func (s *Session) endContexts(both bool) {
	x := s.extra.Load()
	if x == nil {
		return
	}
	c := x.ctx.Load()
	switch {
	case c == nil:
	case both:
		c.endSession(ErrClosed)
	default:
		c.endIn(ErrClosed)
	}
}

// Hold records a pending answer that will be sent later, outside of the callback: until release is
// called, after the answer has been sent, the session's timeouts are suspended, and a FIN, a bad
// frame or a drain waits for it. Further calls of release have no effect. Pending answers use
// memory: each counts as 768 bytes of MemoryBudget, and while that is exceeded a session with many
// of them is not read.
func (s *Session) Hold() (release func()) { return s.hold(0) }

// Close closes the session with ReasonServerClosed: no further OnSocketRead begins, data sent
// before is still written, then a FIN is sent. It returns at once.
func (s *Session) Close() error {
	if !s.beginClose(ReasonServerClosed) {
		return ErrClosed
	}
	return nil
}

// Kick closes the session with ReasonKicked, after an ERROR 8 about handle 0 with this text if
// there are system frames. No further OnSocketRead begins; data sent before is still written. The
// session can't be resumed. It returns at once; ErrClosed if the session is already closing.
func (s *Session) Kick(text string) error {
	if !s.closeWithError(codec.Packet{}, CodeUnauthorised, strings.ToValidUTF8(text, "\ufffd"), ReasonKicked) {
		return ErrClosed
	}
	return nil
}

// CloseWithError closes the session for a reason of the caller, after an ERROR about p if there are
// system frames. No further OnSocketRead begins; data sent before is still written. The session
// can't be resumed. It returns at once; ErrClosed if the session is already closing.
func (s *Session) CloseWithError(p codec.Packet, code ErrorCode, text string, why Reason) error {
	if !s.closeWithError(p, code, strings.ToValidUTF8(text, "\ufffd"), why) {
		return ErrClosed
	}
	return nil
}

// schedule puts the strand, which has just become runnable, on the run queue.
func (s *Session) schedule() {
	if s.srv.taps {
		s.noteQueued()
	}
	s.meter().queues()
	s.srv.pool.push(s)
}

// push puts a session whose strand is runnable on the run queue.
func (p *Pool) push(s *Session) { p.sched.Push(&s.task, uint(s.loop.index)) }

// broken ends a session whose connection can no longer be written to.
func (l *loop) broken(s *Session) { l.abort(s, ReasonPeerReset) }

// abort closes a session at once; unsent data is lost.
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

// forget releases what a closed session held. If nothing but the peer's FIN has started to close
// it, its strand does so when it processes the FIN.
func (l *loop) forget(s *Session) {
	s.tapClosed()
	l.sum.lostBytes.Add(uint64(s.out.Drop(&l.out)))
	s.rd.partial.Drop(l.budget)
	if l.favoured == s {
		l.favoured = nil // the next sweep selects another
	}
	l.remove(s)
	s.wakeStrand()
	s.end()
}

// release frees the slot of a session that has ended.
func (srv *Server) release(s *Session) {
	s.meter().close()
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
	case srv.tickNow <- struct{}{}: // something may be waiting for the last session
	default:
	}
}

// TryHold is like Hold, for an answer that uses an additional number of bytes. While MemoryBudget
// is exceeded and the session uses its share of it, it returns ErrMemory, which is ErrBusy, and
// holds nothing.
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

// dropHolds releases the holds of a session that has ended: a callback that panicked may not have
// called release.
func (s *Session) dropHolds() { s.loop.budget.Add(-holdCost * int(s.held.Swap(heldGone))) }

const (
	// holdCost is the approximate memory of a request whose answer is pending, in bytes.
	holdCost = 768
	// heldGone is the hold count of a session that has ended: no release brings it back to 0.
	heldGone = -1 << 30
)
