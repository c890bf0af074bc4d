package door

import (
	"container/list"
	"crypto/tls"
	"time"
)

// slow is where the handshakes of suspects begin, one after the other.
//
// A flood of ClientHellos that nobody means to follow up would keep the processors busy, and each that is answered holds
// up a loop for as long as that takes. So a suspect whose client could be asked for another key share is asked
// (HelloRetryRequest): that is cheap, and who answers has shown that it goes on. The others have their turn when
// there is none of those, or every second one, the last that came first: under more of them than can be
// served, some then get through at once, in place of all being late. After each turn the place rests, for times the turn.
//
// Once a suspect's handshake has been answered it goes on in the places of all the others.
type slow struct {
	place places

	// The lock of the handshakes guards these.
	asking   list.List // *conn, with a group to ask for; the first is next
	paying   list.List // *conn, without
	turn     bool      // the next is one of paying
	starting bool      // one has been let begin and has not had its first turn
	answered int       // have answered and wait for their turn
}

const (
	// payRest makes half a hundredth of a processor of it: one handshake delays the answers of a loop by some 0.3 ms, and a
	// hundredth of a loop's answers are what a p99 is made of.
	payRest = 199
	askRest = 19 // one that is asked takes a tenth of the time of one that is answered
	// mostAnswered is how many may wait for their turn, having answered, before no other is asked.
	mostAnswered = 64
)

// retryable are the groups that a client may be asked for.
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

// only is c for a client that is to be asked for g.
func only(c *tls.Config, g tls.CurveID) *tls.Config {
	c = c.Clone()
	c.CurvePreferences = []tls.CurveID{g}
	return c
}

// asks has the handshakes that are marked for it ask for another key share.
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

// pend puts a suspect whose hello is there in front of its turn. Loop goroutine.
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

// unpendLocked takes one that ends off those that wait.
func (s *handshakes) unpendLocked(sh *shake) {
	if sh.place != nil {
		s.slow.asking.Remove(sh.place) // of one of them it is no element
		s.slow.paying.Remove(sh.place)
		sh.place = nil
	}
}

// pendingLocked is how many wait.
func (s *handshakes) pendingLocked() int { return s.slow.asking.Len() + s.slow.paying.Len() }

// nextLocked lets the next one begin.
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

// beginSlow begins the handshake of a suspect.
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

// begun notes that the one that was let begin has had its turn, or needs none any more.
func (s *handshakes) begun() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.slow.starting = false
	s.nextLocked()
}

// waitSlow waits for a turn in the slow place.
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
