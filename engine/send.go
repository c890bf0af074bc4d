package engine

import (
	"errors"
	"time"

	"millrace/codec"
	"millrace/engine/internal/flight"
	"millrace/engine/internal/outbox"
)

// Send sends a packet to the peer, as an answer. From the session's own callbacks it is not refused
// because of earlier sends: above MaxOutbound unsent bytes the strand waits, before its next
// packet, for the peer to read; one callback may exceed that by MaxOutbound. From elsewhere it
// returns ErrOutboundFull above MaxOutbound, and ErrMemory while MemoryBudget is exceeded and the
// session holds its share of it; both are ErrBusy. It returns ErrClosed after the session has
// closed, ErrFrameTooLarge for a body over MaxFrame, and codec.ErrBadHandle for a Main or Sub that
// does not fit the layout. The body is copied.
func (s *Session) Send(main, sub uint16, body []byte) error {
	return s.SendPacket(codec.Packet{Main: main, Sub: sub, Body: body})
}

// SendPacket is Send for a packet, including its Seq: codec.ErrBadSeq if Seq is not 0 and the
// layout has none.
func (s *Session) SendPacket(p codec.Packet) error {
	// Like send, but saving a call makes it noticeably cheaper.
	f := s.framing.Load()
	if f.switches {
		return s.send(p, outbox.Answer)
	}
	r := s.out.Send(&s.loop.out, f.codec, p.Handle(), p.Seq, p.Body, outbox.Answer)
	if r != outbox.Staged {
		return s.notStaged(f, p, outbox.Answer, r)
	}
	return nil
}

// Push sends an unsolicited packet. A peer that leaves MaxOutbound bytes of these unread is closed
// with ReasonSlowConsumer; one that only owes acknowledgements, see ResumeBytes, has two seconds
// for them first. Errors are those of Send, and from elsewhere than callbacks ErrOutboxFull when
// the loop has MaxOutbox bytes waiting.
func (s *Session) Push(main, sub uint16, body []byte) error {
	return s.send(codec.Packet{Main: main, Sub: sub, Body: body}, outbox.Push)
}

// Reply answers p: with its handle, its Seq, and this body. Errors are those of SendPacket.
func (s *Session) Reply(p codec.Packet, body []byte) error {
	return s.SendPacket(codec.Packet{Main: p.Main, Sub: p.Sub, Seq: p.Seq, Body: body})
}

// ReplyError answers p with an ERROR frame, whose text is truncated to fit a frame. Without system
// frames, or if the framing can't write this one, the session is closed with ReasonRefused instead.
// Errors are those of Send.
func (s *Session) ReplyError(p codec.Packet, code ErrorCode, text string) error {
	return s.sendError(p, code, text, outbox.Answer)
}

// send stages a packet and converts the outbox's result.
func (s *Session) send(p codec.Packet, kind outbox.Kind) error {
	f, c := s.holdFraming()
	defer c.release()
	return s.sendAs(f, p, kind)
}

// sendAs is send in the session's framing, which does not change until it returns.
func (s *Session) sendAs(f *framing, p codec.Packet, kind outbox.Kind) error {
	return s.notStaged(f, p, kind, s.out.Send(&s.loop.out, f.codec, p.Handle(), p.Seq, p.Body, kind))
}

// notStaged handles a result other than plain success.
func (s *Session) notStaged(f *framing, p codec.Packet, kind outbox.Kind, r outbox.Result) error {
	if r == outbox.Misfit {
		return s.sendMisfit(f, p, kind)
	}
	return s.sent(r)
}

// sendMisfit is send for a packet of which the codec can't tell whether it fits.
func (s *Session) sendMisfit(f *framing, p codec.Packet, kind outbox.Kind) error {
	if f.framer != nil {
		return f.encode(p, func(p codec.Packet) error {
			return s.sent(s.out.SendFitting(&s.loop.out, verbatim, 0, 0, p.Body, kind))
		})
	}
	if c := f.brief; p.Main == SystemMain && c.Fits(p) {
		return s.sent(s.out.SendFitting(&s.loop.out, c, p.Handle(), p.Seq, p.Body, kind))
	}
	return f.misfit(p)
}

// sent does what the outbox requests, or returns why it has not accepted a frame.
func (s *Session) sent(r outbox.Result) error {
	switch r {
	case outbox.Staged:
		return nil
	case outbox.Wake:
		s.loop.markDirty(s)
		return nil
	case outbox.Full:
		s.srv.near(LimitOutbound, s, s.out.Size(), s.srv.cfg.MaxOutbound)
	case outbox.LogFull:
		s.srv.near(LimitOutbox, nil, int(s.loop.out.Queued.Load()), s.loop.out.MaxQueued)
	}
	return s.loop.refusal(r)
}

// refusal counts a frame that an outbox has not accepted, and returns why.
func (l *loop) refusal(r outbox.Result) error {
	if r == outbox.Closed {
		l.sum.stale.Add(1)
		return ErrClosed
	}
	l.sum.busy.Add(1)
	switch r {
	case outbox.LogFull:
		return ErrOutboxFull
	case outbox.NoMemory:
		return ErrMemory
	}
	return ErrOutboundFull
}

// uncork releases what the strand's callbacks have staged.
func (s *Session) uncork() {
	if s.out.Uncork(false) {
		s.loop.markDirty(s)
	}
}

// flushBlocked sends what a blocked callback has staged so far.
func (s *Session) flushBlocked() {
	if s.out.Uncork(true) {
		s.loop.markDirty(s)
	}
}

// scheduleFlush makes the loop check the session: what it may send, and whether to resume reading.
func (s *Session) scheduleFlush() {
	if s.out.Nudge() {
		s.loop.markDirty(s)
	}
}

// canWrite is called when the socket is writable again.
func (s *Session) canWrite() {
	if s.out.Writable() {
		s.loop.markDirty(s)
	}
}

// sendError answers p with an ERROR frame; without system frames, or if the framing can't write
// this one, the session closes with ReasonRefused: its peer would wait forever.
func (s *Session) sendError(p codec.Packet, code ErrorCode, text string, kind outbox.Kind) error {
	f := s.framing.Load()
	if !f.system {
		s.beginClose(ReasonRefused)
		return nil
	}
	err := s.send(f.errorPacket(p, code, text), kind)
	switch {
	case err == nil:
		s.loop.sum.errors.Add(1)
		s.note(flight.Error, p.Handle(), uint32(code))
	case errors.Is(err, ErrBusy), errors.Is(err, ErrClosed):
	case s.beginClose(ReasonRefused):
		s.srv.mute.Do(func() {
			s.srv.cfg.Logger.Warn("sessions are closed as their framing can't write an ERROR", "session", s.id, "code", code, "err", err)
		})
	}
	return err
}

// system answers a packet of Main 0. pinged: the loop has already answered PINGs.
func (s *Session) system(p codec.Packet, pinged bool) {
	switch {
	case p.Sub == SubPing && len(p.Body) > maxPing:
		_ = s.sendError(p, CodeBadBody, "a PING has at most 64 bytes", outbox.System)
	case p.Sub == SubPing:
		if !pinged {
			s.pong(p)
		}
	case p.Sub == SubPong:
	case p.Sub == SubHello && s.srv.resumes():
		_ = s.sendError(p, CodeBadBody, "a HELLO is version 1 and the first frame", outbox.System)
	case p.Sub == SubAck && s.line() != nil:
		_ = s.sendError(p, CodeBadBody, "an ACK of what was not sent", outbox.System)
	default:
		_ = s.sendError(p, CodeUnknownHandle, "unknown system frame", outbox.System)
	}
}

func (s *Session) pong(p codec.Packet) {
	_ = s.send(codec.Packet{Main: SystemMain, Sub: SubPong, Seq: p.Seq, Body: p.Body}, outbox.System)
}

// sendGoAway sends GOAWAY to the peer.
func (s *Session) sendGoAway(grace time.Duration) {
	f := s.framing.Load()
	if !f.system {
		return
	}
	ms := uint32(min(max(grace.Milliseconds(), 0), 1<<32-1))
	body := append(f.codec.ByteOrder().AppendUint32(nil, ms), s.srv.cfg.DrainTo...)
	_ = s.send(codec.Packet{Main: SystemMain, Sub: SubGoAway, Body: body}, outbox.System)
}

func (s *Session) sendPing() {
	_ = s.send(codec.Packet{Main: SystemMain, Sub: SubPing}, outbox.Answer)
}
