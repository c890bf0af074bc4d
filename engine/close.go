package engine

import (
	"context"
	"sync/atomic"

	"millrace/codec"
	"millrace/engine/internal/outbox"
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
// frame about p where there are system frames. Nothing is sent behind that.
func (s *Session) closeWithError(p codec.Packet, code ErrorCode, text string, why Reason) {
	if s.srv.cfg.NoSystemFrames {
		s.beginClose(why)
		return
	}
	if !s.claimClose(why) {
		return
	}
	s.srv.errors.Add(1)
	wake := s.out.SendLast(&s.loop.out, s.srv.brief, s.srv.errorPacket(p, code, text))
	s.afterClose(wake)
}

func (s *Session) claimClose(why Reason) bool {
	if !s.closing.CompareAndSwap(0, uint32(why)) {
		return false
	}
	s.srv.closes[why].Add(1)
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
		s.srv.release(s)
	}
}

// contexts are a session's, made when they are first asked for, and what else few need.
type contexts struct {
	badText           atomic.Pointer[string] // what the ERROR about a bad frame is to say
	session, input    context.Context
	endSession, endIn context.CancelCauseFunc
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

// sendError answers p with an ERROR frame; where there are no system frames the session
// closes with ReasonRefused.
func (s *Session) sendError(p codec.Packet, code ErrorCode, text string, kind outbox.Kind) error {
	if s.srv.cfg.NoSystemFrames {
		s.beginClose(ReasonRefused)
		return nil
	}
	err := s.send(s.srv.errorPacket(p, code, text), kind)
	if err == nil {
		s.srv.errors.Add(1)
	}
	return err
}
