package engine

import (
	"errors"
	"fmt"

	"millrace/codec"
	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/outbox"
	"millrace/engine/internal/strand"
)

// ErrFixedFraming: the session's address has no Framing.Switches, or its last change has
// been made.
var ErrFixedFraming = errors.New("engine: the session's framing is fixed")

// SetFramer changes how the session's frames are told apart and written: from the first byte
// behind the frame that is being handled, and from the next frame that is sent. f is nil
// for Config.Layout, or Config.Framer. It is for protocols that begin as text, on addresses
// whose Framing.Switches is set, and to be called in OnSocketRead.
//
// The answers are sent first, the last frames in the old framing: broadcasts and group sends
// are written in front of them in the old one or behind them in the new one. So is
// what other goroutines send to this session alone, and a WebSocket message has frames of one
// framing.
//
// Until a last change the session's frames come one by one: the next is looked for when
// OnSocketRead has returned for the one before. last: no other change follows, and frames are
// read ahead again as on other addresses.
//
// ErrFixedFraming, or Send's errors for the answers: then nothing has changed. An f that
// MaxFrame doesn't suit is an error of the codec's.
func (s *Session) SetFramer(f codec.Framer, last bool, answers ...codec.Packet) error {
	srv := s.srv
	if f == nil && srv.cfg.Framer != nil {
		f = srv.cfg.Framer
	}
	next, err := srv.cfg.newFraming(f, !last)
	if err != nil {
		return fmt.Errorf("engine: Session.SetFramer: %w", err)
	}
	o := &srv.others
	o.mu.Lock()
	defer o.mu.Unlock()
	c := &s.contexts().changes
	c.mu.Lock()
	defer c.mu.Unlock()
	old := s.framing.Load()
	switch {
	case !old.switches:
		return ErrFixedFraming
	case s.closed():
		return ErrClosed
	}
	for _, p := range answers {
		if err := s.sendAs(old, p, outbox.Answer); err != nil {
			return err
		}
	}
	c.addLocked(old, next, s.out.Divide(&s.loop.out))
	s.framing.Store(next)
	return nil
}

// step takes input of a session whose frames come one by one. Loop goroutine.
func (l *loop) step(s *Session, b []byte) {
	if s.rd.partial.Some() {
		s.rd.partial.Append(b, l.budget)
	} else {
		s.rd.partial.Begin(b, l.budget)
		s.rd.begin(l.srv.now())
	}
	l.nextStep(s)
	if s.rd.life == lifeOpen {
		l.review(s)
	}
}

// nextStep hands the strand the first frame of what has come, when the one before has been
// handled.
func (l *loop) nextStep(s *Session) {
	if s.flags.has(flagStep) || !s.rd.partial.Some() {
		return
	}
	frame, err := s.rd.partial.Cut(s.framing.Load().codec, l.budget)
	switch {
	case err != nil:
		l.refuse(s, err)
	case frame != nil:
		s.flags.set(flagStep)
		l.noteRead(s, frame.B)
		l.queue(s, frame.B, frame)
		next := func() { l.onLoop(func(l *loop) { l.stepped(s) }) }
		if s.in.Submit(next, maxInt, s.closed, l.budget) == strand.Schedule {
			s.schedule()
		}
	}
}

// stepped is called when a frame has been handled.
func (l *loop) stepped(s *Session) {
	s.flags.clear(flagStep)
	if s.rd.life == lifeGone || s.closed() {
		return
	}
	s.rd.begin(l.srv.now())
	if s.rd.life == lifeOpen && !s.framing.Load().switches { // from now on as everybody
		s.rd.input = inputFrames
		if rest := s.rd.partial.Take(l.budget); rest != nil {
			l.take(s, rest.Rest())
			rest.Free()
		}
	} else {
		l.nextStep(s)
		if s.flags.has(flagStepFin) && !s.flags.has(flagStep) && s.rd.input == inputSteps {
			l.post(s, bufpool.Empty(strand.Fin))
		}
	}
	if s.rd.life == lifeOpen {
		l.review(s)
	}
}
