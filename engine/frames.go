package engine

import (
	"millrace/codec"
)

// handleData runs the frames of one block. What the budget, a park or a close leaves
// over goes back to the queue's head.
func (s *Session) handleData(it *buf, budget int) (used int) {
	before := it.off
	defer func() { s.handled(it, it.off-before) }() // also after a runtime.Goexit
	return s.frames(it, budget)
}

// handled accounts for n bytes of a block that have been handled.
func (s *Session) handled(it *buf, n int) {
	left := it.off < len(it.b)
	s.in.mu.Lock()
	s.in.pending -= n
	if left {
		it.next = s.in.head
		s.in.head = it
		if s.in.tail == nil {
			s.in.tail = it
		}
	}
	kick := s.in.paused && s.in.pending <= s.srv.cfg.MaxPending/2
	if kick {
		s.in.paused = false
	}
	s.in.mu.Unlock()
	s.srv.unbuffer(int64(n))
	if !left {
		it.free()
	}
	if kick {
		s.kick()
	}
}

// frames hands out the frames of it, up to budget, and moves it.off past them. Workers
// run it. A panic closes the session.
func (s *Session) frames(it *buf, budget int) (used int) {
	var p codec.Packet
	ok := false
	defer func() {
		if !ok {
			s.panicked("OnSocketRead", p, recover())
		}
	}()
	c, h, learn := s.srv.codec, s.srv.handler(), s.srv.learn
	for it.off < len(it.b) && used < budget {
		if used > 0 && (s.closing.Load() != 0 || s.mustPark()) {
			break
		}
		if used%stepPackets == stepPackets-1 {
			s.in.step.Add(1)
		}
		var size int
		p, size, _, _ = c.Decode(it.b[it.off:])
		it.off += size
		used++
		if more := it.off < len(it.b); more != s.in.more.Load() {
			s.in.more.Store(more)
		}
		switch {
		case s.srv.reserved(p):
			s.system(p, true)
		case it.late:
			s.sendError(p, CodeDraining, "the server is going away")
		case learn != nil:
			learn.measure(s, h, p)
		default:
			h.OnSocketRead(s, p)
		}
	}
	ok = true
	return used
}

// framesInline is frames on the loop goroutine: it stops in front of a packet that
// belongs on a worker, and where no whole frame is left.
func (s *Session) framesInline(it *buf) (used int) {
	var p codec.Packet
	ok := false
	defer func() {
		if !ok {
			s.panicked("OnSocketRead", p, recover())
		}
	}()
	c, h, classes := s.srv.codec, s.srv.handler(), s.srv.classes.Load()
	known := ^uint32(0) // the handle last looked up, which may run inline
	for it.off < len(it.b) {
		if used > 0 && (s.closing.Load() != 0 || s.mustPark()) {
			break
		}
		next, size, _, err := c.Decode(it.b[it.off:])
		if size == 0 || err != nil {
			break
		}
		reserved := s.srv.reserved(next)
		if handle := next.Handle(); !reserved && handle != known {
			if !classes.inline(handle, s.srv.cfg.Dispatch) {
				break
			}
			known = handle
		}
		p = next
		it.off += size
		used++
		switch {
		case reserved:
			s.system(p, false)
		case it.late:
			s.sendError(p, CodeDraining, "the server is going away")
		default:
			h.OnSocketRead(s, p)
		}
	}
	ok = true
	return used
}

// drop forgets an item whose session has closed. counted: its bytes are among those
// that wait. A function is never dropped: Submit refuses it once the session closes, and
// finish runs those that came before.
func (s *Session) drop(it *buf, counted bool) {
	if it.kind == itemData {
		if counted {
			n := len(it.b) - it.off
			s.in.mu.Lock()
			s.in.pending -= n
			s.in.mu.Unlock()
			s.srv.unbuffer(int64(n))
		}
		s.srv.dropped.Add(uint64(countFrames(s.srv.codec, it.rest())))
	}
	it.free()
}

func countFrames(c *codec.Codec, b []byte) (n int) {
	for len(b) > 0 {
		size, missing, err := c.Frame(b)
		if err != nil || missing > 0 {
			return n
		}
		b = b[size:]
		n++
	}
	return n
}
