package client

import (
	"bytes"
	"fmt"
	"time"

	"millrace/codec"
)

// parseError reads the body of an ERROR frame; ok is false if it is too short for one.
func parseError(c *codec.Codec, b []byte) (e *Error, ok bool) {
	if len(b) < 6 {
		return nil, false
	}
	order := c.ByteOrder()
	return &Error{Code: order.Uint16(b), Handle: order.Uint32(b[2:]), Text: string(b[6:])}, true
}

// error ends the call that an ERROR frame belongs to.
func (l *link) error(p codec.Packet) {
	e, ok := parseError(l.c.codec, p.Body)
	switch {
	case !ok:
		l.c.unexpected.Add(1)
	case e.Handle == 0:
		l.close(fmt.Errorf("%w: %w", ErrLost, e)) // it concerns the connection, which the server closes
	case e.Handle == subHello && l.c.cfg.Resume > 0: // from a server without resume
	default:
		l.answer(p, e.Handle, nil, e)
	}
}

func (l *link) packet(p codec.Packet) {
	l.c.mu.Lock()
	on := l.c.ons[p.Handle()]
	l.c.mu.Unlock()
	if on != nil && !l.s.awaited(p) {
		on(p)
		return
	}
	l.answer(p, p.Handle(), p.Body, nil)
}

// answer delivers p to the call that it answers, if any.
func (l *link) answer(p codec.Packet, handle uint32, body []byte, err error) {
	if l.s.answer(handle, p.Seq, body, err) {
		return
	}
	l.c.unexpected.Add(1)
	if l.c.cfg.OnOther != nil {
		l.c.cfg.OnOther(p)
	}
}

// awaited reports whether p's sequence number is that of a call.
func (s *session) awaited(p codec.Packet) bool {
	if !s.c.cfg.Layout.Seq || p.Seq == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queues[p.Seq]) > 0
}

// answer ends the call that an answer belongs to: the oldest of its handle. It returns false if
// there is none. If the packet can't be distinguished from an answer, the session ends, as no later
// answer could be attributed.
func (s *session) answer(handle, seq uint32, body []byte, err error) bool {
	bySeq := s.c.cfg.Layout.Seq
	key := handle
	if bySeq {
		key = seq
	}
	s.mu.Lock()
	q := s.queues[key]
	if len(q) == 0 || q[0].handle != handle || !s.had(q[0].pos) {
		stray := len(q) > 0 || !bySeq && s.uses[handle] == called
		s.mu.Unlock()
		if stray {
			s.end(s.lost(fmt.Errorf("an answer on %d/%d without a call", handle>>16, handle&0xffff)))
		}
		return false
	}
	k := q[0]
	q[0] = nil
	if q = q[1:]; len(q) == 0 {
		delete(s.queues, key)
		delete(s.late, handle)
	} else {
		s.queues[key] = q
	}
	k.over = true
	late := !k.left.IsZero()
	if late {
		s.left--
	} else {
		s.calls--
		delete(s.late, handle)
	}
	s.mu.Unlock()
	if !late {
		s.finish(k, bytes.Clone(body), err)
	}
	if s.parts() {
		s.leave()
	}
	return true
}

// had records that the server has received the pos-th packet, and so all before it, because it has
// answered it. It returns false if that packet was not sent. s.mu is held.
func (s *session) had(pos uint64) bool {
	if s.resume == nil {
		return pos <= s.taken
	}
	full := s.full()
	ok := s.resume.ack(pos)
	if full {
		s.wake.Broadcast() // there may be room
	}
	return ok
}

// abandon records that k's caller has given up; false if k has ended. Its answer is discarded when
// it arrives; without sequence numbers k keeps its place in the queue for that.
func (s *session) abandon(k *call) bool {
	s.mu.Lock()
	if k.over {
		s.mu.Unlock()
		return false
	}
	k.left = time.Now()
	s.calls--
	if s.c.cfg.Layout.Seq {
		k.over = true
		delete(s.queues, k.seq)
	} else {
		s.left++
		if s.late[k.handle].IsZero() {
			s.late[k.handle] = k.left
		}
	}
	tooMany := s.left > s.c.cfg.MaxCalls
	s.mu.Unlock()
	<-s.c.slots
	if tooMany {
		s.end(s.lost(fmt.Errorf("more than %d answers of abandoned calls have not arrived", s.c.cfg.MaxCalls)))
	}
	if s.parts() {
		s.leave()
	}
	return true
}

// overdue reports whether calls of a handle were abandoned long ago and none was answered since.
// The missing answer may never arrive, and answers of later calls would then be discarded in its
// place.
func (s *session) overdue() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, since := range s.late {
		if time.Since(since) > s.c.cfg.MaxLate {
			return true
		}
	}
	return false
}
