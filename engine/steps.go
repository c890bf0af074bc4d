package engine

import (
	"errors"
	"fmt"

	"millrace/codec"
	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/outbox"
	"millrace/engine/internal/strand"
)

// ErrFixedFraming: the session's address has no Framing.Switches, or its last change has been made.
var ErrFixedFraming = errors.New("engine: the session's framing is fixed")

// SetFramer changes how the session's frames are read and written: from the first byte after the
// frame that is being handled, and from the next frame sent. f is nil for Config.Layout, or
// Config.Framer. It is meant for protocols that begin as text, on addresses with Framing.Switches,
// and must be called in OnSocketRead.
//
// The answers are sent before the change, as the last frames in the old framing: broadcasts and
// group sends are written either before them in the old framing or after them in the new one. So
// are messages from other goroutines to this session. A WebSocket message contains frames of one
// framing only.
//
// Until a last change the session's frames are read one by one: the next is looked for when
// OnSocketRead has returned for the previous one. last means that no other change follows; then
// frames are read ahead as on other addresses.
//
// It returns ErrFixedFraming, or Send's errors for the answers: then nothing has changed. If f does
// not suit MaxFrame, the error is the codec's. An f with handles that can't write an ERROR is
// refused unless there are no system frames.
func (s *Session) SetFramer(f codec.Framer, last bool, answers ...codec.Packet) error {
	srv := s.srv
	if f == nil && srv.cfg.Framer != nil {
		f = srv.cfg.Framer
	}
	next, err := srv.cfg.newFraming(f, !last)
	if err == nil {
		err = next.speaks()
	}
	if err != nil {
		return fmt.Errorf("engine: Session.SetFramer: %w", err)
	}
	o := &srv.others
	o.mu.Lock()
	defer o.mu.Unlock()
	c := &s.more().changes
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

// step processes input of a session whose frames are read one by one. Loop goroutine.
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

// nextStep passes the first received frame to the strand, when the previous one has been handled.
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
	if s.rd.life == lifeOpen && !s.framing.Load().switches { // from now on as in other sessions
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
