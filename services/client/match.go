package client

import (
	"bytes"
	"encoding/binary"
	"fmt"

	"millrace/codec"
)

// error ends the call that an ERROR frame is about.
func (l *link) error(p codec.Packet) {
	if len(p.Body) < 6 {
		l.c.unexpected.Add(1)
		return
	}
	e := &Error{Code: binary.BigEndian.Uint16(p.Body), Handle: binary.BigEndian.Uint32(p.Body[2:]), Text: string(p.Body[6:])}
	if e.Handle == 0 {
		l.close(fmt.Errorf("%w: %w", ErrLost, e)) // about the connection: the server closes it
		return
	}
	l.answer(e.Handle, p.Seq, nil, e)
}

func (l *link) packet(p codec.Packet) {
	l.c.mu.Lock()
	on := l.c.ons[p.Handle()]
	l.c.mu.Unlock()
	if on != nil && !l.awaited(p) {
		on(p)
		return
	}
	l.answer(p.Handle(), p.Seq, p.Body, nil)
}

// awaited tells whether p's sequence number says that it is a call's answer.
func (l *link) awaited(p codec.Packet) bool {
	if !l.c.cfg.Layout.Seq || p.Seq == 0 {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.queues[p.Seq]) > 0
}

// answer ends the call that an answer is for: the oldest of its handle. One that can be
// nobody's ends the connection, as then no other can be told whose it is.
func (l *link) answer(handle, seq uint32, body []byte, err error) {
	bySeq := l.c.cfg.Layout.Seq
	key := handle
	if bySeq {
		key = seq
	}
	l.mu.Lock()
	q := l.queues[key]
	if len(q) == 0 || q[0].handle != handle {
		stray := len(q) > 0 || !bySeq && l.uses[handle] == called
		l.mu.Unlock()
		l.c.unexpected.Add(1)
		if stray {
			l.close(fmt.Errorf("%w: an answer on %d/%d that no call waits for", ErrLost, handle>>16, handle&0xffff))
		}
		return
	}
	k := q[0]
	q[0] = nil
	if q = q[1:]; len(q) == 0 {
		delete(l.queues, key)
		delete(l.late, handle)
	} else {
		l.queues[key] = q
	}
	k.over = true
	late := !k.left.IsZero()
	if late {
		l.left--
	} else {
		l.calls--
		delete(l.late, handle)
	}
	l.mu.Unlock()
	if !late {
		l.finish(k, bytes.Clone(body), err)
	}
	if l.leaving.Load() {
		l.leave()
	}
}
