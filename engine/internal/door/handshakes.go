package door

import (
	"cmp"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine/internal/perip"
)

// handshakes are the TLS handshakes of a Host.
//
// One that has bytes to be worked at is working. While as many as MaxHandshakes are, new ones
// are not read from. One that waits for its client holds no place; when more are open than
// MaxHandshakes, those that have waited longest are closed.
type handshakes struct {
	h       *Host
	most    int // MaxHandshakes
	places  places
	working atomic.Int32

	mu      sync.Mutex
	open    map[*conn]*shake // guarded by mu
	queue   []*conn          // guarded by mu; held, until fewer are working
	again   *time.Timer      // guarded by mu; sheds once more
	stopped bool             // guarded by mu
	rate    perip.Rate       // guarded by mu
}

func newHandshakes(h *Host) *handshakes {
	most := h.cfg.MaxHandshakes
	s := &handshakes{h: h, most: most, open: map[*conn]*shake{}, rate: perip.Rate{Most: h.cfg.HandshakeRate, Bits: h.cfg.IPv6Prefix}}
	s.places.free = make(chan struct{}, max(1, min(most, 2*runtime.GOMAXPROCS(0))))
	return s
}

// shedAfter is how long a handshake may wait for its client where others want its place.
const shedAfter = 250 * time.Millisecond

// enter notes a new handshake. It is held, not read from, while too many are working or its
// address has begun too many; false: it would be held for too long.
func (s *handshakes) enter(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	wait := s.rate.Next(c.RemoteAddr(), time.Now())
	if wait > s.h.cfg.HandshakeTimeout {
		s.h.st.limited.Add(1)
		return false
	}
	s.open[c] = c.tls.shake
	switch {
	case wait > 0:
		c.tls.hold(true)
		time.AfterFunc(wait, func() { c.l.post(c, (*conn).readShake) })
	case s.fullLocked():
		c.tls.hold(true)
		s.queue = append(s.queue, c)
	}
	s.shedLocked()
	return true
}

func (s *handshakes) fullLocked() bool { return int(s.working.Load()) >= s.most || len(s.queue) > 0 }

// readShake lets a handshake be read that was held for its address's rate.
func (c *conn) readShake() {
	s := c.l.h.shakes
	s.mu.Lock()
	full := c.phase == handshake && s.fullLocked()
	if full {
		s.queue = append(s.queue, c)
	}
	s.mu.Unlock()
	if !full {
		c.unholdShake()
	}
}

// unholdShake lets a handshake be read; where that takes no place, the next one may be too.
func (c *conn) unholdShake() {
	if c.phase != handshake || !c.tls.held {
		c.l.h.shakes.promote()
		return
	}
	unread := c.Conn.Unread()
	c.tls.hold(false)
	if unread == 0 {
		c.l.h.shakes.promote()
	}
}

// idle notes that a handshake is working no more.
func (s *handshakes) idle() {
	s.working.Add(-1)
	s.promote()
}

// promote lets the first of the queue be read, if few are working.
func (s *handshakes) promote() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.queue) == 0 || int(s.working.Load()) >= s.most {
		return
	}
	c := s.queue[0]
	s.queue = s.queue[1:]
	c.l.post(c, (*conn).unholdShake)
}

// leave takes a connection off the open handshakes.
func (s *handshakes) leave(c *conn) {
	if c.tls == nil || c.tls.left {
		return
	}
	c.tls.left = true
	s.h.st.handshaking.Add(-1)
	s.mu.Lock()
	delete(s.open, c)
	s.mu.Unlock()
}

// shedLocked closes those that have waited longest for their clients where there are too
// many.
func (s *handshakes) shedLocked() {
	over := len(s.open) - s.most
	if over <= 0 || s.again != nil || s.stopped {
		return
	}
	type waiter struct {
		c     *conn
		since time.Time
	}
	var list []waiter
	for c, sh := range s.open {
		if since := sh.waiting(); !since.IsZero() {
			list = append(list, waiter{c, since})
		}
	}
	slices.SortFunc(list, func(a, b waiter) int { return cmp.Compare(a.since.UnixNano(), b.since.UnixNano()) })
	next := shedAfter
	for _, w := range list[:min(over, len(list))] {
		if age := time.Since(w.since); age < shedAfter {
			next = shedAfter - age
			break
		}
		delete(s.open, w.c)
		over--
		s.h.st.shed.Add(1)
		s.places.noteShed()
		w.c.l.post(w.c, func(c *conn) {
			if c.phase == handshake {
				c.kill()
			}
		})
	}
	if over > 0 {
		s.again = time.AfterFunc(max(next, 10*time.Millisecond), func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.again = nil
			s.shedLocked()
		})
	}
}

// waiting tells since when the handshake has waited for its client; zero: it is worked at.
func (sh *shake) waiting() time.Time {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.waits
}

// stop ends the timer.
func (s *handshakes) stop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stopped = true
	if s.again != nil {
		s.again.Stop()
	}
}
