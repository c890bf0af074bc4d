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

// error ends the call that an ERROR frame is about.
func (l *link) error(p codec.Packet) {
	e, ok := parseError(l.c.codec, p.Body)
	switch {
	case !ok:
		l.c.unexpected.Add(1)
	case e.Handle == 0:
		l.close(fmt.Errorf("%w: %w", ErrLost, e)) // about the connection: the server closes it
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

// answer gives p to the call that it answers, or to nobody.
func (l *link) answer(p codec.Packet, handle uint32, body []byte, err error) {
	if l.s.answer(handle, p.Seq, body, err) {
		return
	}
	l.c.unexpected.Add(1)
	if l.c.cfg.OnOther != nil {
		l.c.cfg.OnOther(p)
	}
}

// awaited tells whether p's sequence number says that it is a call's answer.
func (s *session) awaited(p codec.Packet) bool {
	if !s.c.cfg.Layout.Seq || p.Seq == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.queues[p.Seq]) > 0
}

// answer ends the call that an answer is for: the oldest of its handle. False: it is nobody's.
// One that can't be told from an answer ends the session, as then no other can be told whose
// it is.
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
			s.end(s.lost(fmt.Errorf("an answer on %d/%d that no call waits for", handle>>16, handle&0xffff)))
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
	if s.leaving.Load() {
		s.leave()
	}
	return true
}

// had notes that the server has had the pos-th packet, and so all before it: it has answered
// it. False: it was not sent. s.mu is held.
func (s *session) had(pos uint64) bool {
	if s.resume == nil {
		return pos <= s.taken
	}
	full := s.full()
	ok := s.resume.ack(pos)
	if full {
		s.wake.Broadcast() // there is room
	}
	return ok
}

// abandon notes that k's caller has given up; false: k is over. Its answer, when it comes,
// is thrown away: by order, k keeps its place for that.
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
		s.end(s.lost(fmt.Errorf("over %d answers that nobody waits for have not come", s.c.cfg.MaxCalls)))
	}
	if s.leaving.Load() {
		s.leave()
	}
	return true
}

// overdue tells whether calls of a handle have been given up for long and none was
// answered. One's answer may never come, and those of the calls behind it are then thrown
// away, each in another's place.
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
