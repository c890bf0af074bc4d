package door

import (
	"container/list"
	"crypto/tls"
	"time"
)

// slow is the queue in which the handshakes of suspects begin, one at a time.
//
// A flood of ClientHellos whose senders never continue would keep the processors busy, and answering one delays the
// packets of a loop. So if a suspect's client can be asked for another key share (HelloRetryRequest), it is asked: that is
// cheap, and a client that answers has shown that it continues. The other suspects get every second turn, or all turns if
// there are none of the former, the newest first: if there are more than can be served, some get through at once instead
// of all being late. After each turn there is a pause of payRest or askRest times its length.
//
// When a suspect's handshake has been answered it continues in the same places as all others.
type slow struct {
	place places

	// The lock of the handshakes guards these.
	asking   list.List // *conn, with a group to ask for; the first is next
	paying   list.List // *conn, without
	turn     bool      // the next is one of paying
	starting bool      // one has been started and has not had its first turn
	answered int       // how many have answered the question and wait for their turn
}

const (
	// payRest limits full handshakes of suspects to 1/200 of a processor: each delays the answers of a loop by about
	// 0.3 ms, and if fewer than 1 % of the answers are delayed the p99 latency is unchanged.
	payRest = 199
	askRest = 19 // asking takes a tenth of the time of a full handshake
	// mostAnswered is how many that have answered may wait for their turn; then no other is asked.
	mostAnswered = 64
)

// retryable returns the groups that a client may be asked for.
func retryable(c *tls.Config) (groups []tls.CurveID) {
	if c == nil || c.MaxVersion != 0 && c.MaxVersion < tls.VersionTLS13 {
		return nil
	}
	for _, g := range []tls.CurveID{tls.CurveP256, tls.X25519} {
		if allows(c, g) {
			groups = append(groups, g)
		}
	}
	return groups
}

func allows(c *tls.Config, g tls.CurveID) bool {
	for _, x := range c.CurvePreferences {
		if x == g {
			return true
		}
	}
	return len(c.CurvePreferences) == 0
}

// only returns a copy of c that allows g only, so that crypto/tls asks the client for it.
func only(c *tls.Config, g tls.CurveID) *tls.Config {
	c = c.Clone()
	c.CurvePreferences = []tls.CurveID{g}
	return c
}

// asks sets up the TLS configuration so that handshakes with shake.ask ask for that key share.
func (h *Host) asks() {
	own := h.cfg.TLS.GetConfigForClient
	groups := retryable(h.cfg.TLS)
	ready := map[tls.CurveID]*tls.Config{}
	for _, g := range groups {
		ready[g] = only(h.cfg.TLS, g)
	}
	h.shakes.groups = groups
	h.cfg.TLS.GetConfigForClient = func(hello *tls.ClientHelloInfo) (c *tls.Config, err error) {
		if own != nil {
			if c, err = own(hello); err != nil {
				return nil, err
			}
		}
		t, ok := hello.Conn.(*tlsLayer)
		switch {
		case !ok || t.shake == nil || t.shake.ask == 0:
		case c == nil:
			c = ready[t.shake.ask]
		case allows(c, t.shake.ask):
			c = only(c, t.shake.ask)
		}
		return c, nil
	}
}

// pend queues the handshake of a suspect whose ClientHello is complete. Loop goroutine.
func (s *handshakes) pend(t *tlsLayer) {
	sh := t.shake
	sh.ask = otherGroup(sh.in, s.groups)
	sh.slow = true
	t.pending = true
	t.c.mask()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unwaitLocked(sh)
	if sh.ask != 0 {
		sh.place = s.slow.asking.PushBack(t.c)
	} else {
		sh.place = s.slow.paying.PushFront(t.c)
	}
	s.h.st.slowed.Add(1)
	s.nextLocked()
}

// unpendLocked removes a handshake from the queue.
func (s *handshakes) unpendLocked(sh *shake) {
	if sh.place != nil {
		s.slow.asking.Remove(sh.place) // Remove does nothing in the list that it is not in
		s.slow.paying.Remove(sh.place)
		sh.place = nil
	}
}

// pendingLocked returns how many are queued.
func (s *handshakes) pendingLocked() int { return s.slow.asking.Len() + s.slow.paying.Len() }

// nextLocked starts the next handshake in the queue, unless one is starting.
func (s *handshakes) nextLocked() {
	w := &s.slow
	if w.starting || w.answered >= mostAnswered || s.stopped {
		return
	}
	from := &w.asking
	if w.paying.Len() > 0 && (w.turn || from.Len() == 0) {
		from = &w.paying
	}
	if from.Len() == 0 {
		return
	}
	w.turn = from == &w.asking
	c := from.Front().Value.(*conn)
	s.unpendLocked(c.tls.shake)
	w.starting = true
	c.l.post(c, (*conn).beginSlow)
}

// beginSlow starts the handshake of a suspect. Loop goroutine.
func (c *conn) beginSlow() {
	t, s := c.tls, c.l.h.shakes
	if c.phase != handshake {
		s.begun()
		return
	}
	if t.shake.ask != 0 {
		c.l.h.st.asked.Add(1)
	}
	t.pending = false
	t.start()
	c.mask()
}

// begun is called when the handshake that was started has had its first turn, or has closed.
func (s *handshakes) begun() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow.starting = false
	s.nextLocked()
}

// waitSlow acquires the slow place. again: the handshake has had a turn and its client has answered.
func (s *handshakes) waitSlow(again bool) time.Time {
	if !again {
		return s.slow.place.take()
	}
	s.mu.Lock()
	s.slow.answered++
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.slow.answered--
		s.nextLocked()
	}()
	return s.slow.place.take()
}
