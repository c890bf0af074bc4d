package door

import (
	"container/list"
	"crypto/tls"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine/internal/perip"
)

// handshakes are the TLS handshakes of a Host.
//
// One that has bytes to be worked at is working. While as many as MaxHandshakes are, new ones
// are not read from. One that waits for its client holds no place; when more are open than
// MaxHandshakes, those that have waited longest are closed. Those of suspects begin one by one.
type handshakes struct {
	h       *Host
	most    int // MaxHandshakes
	places  places
	working atomic.Int32
	groups  []tls.CurveID // that suspects may be asked for

	mu      sync.Mutex
	open    map[*conn]struct{} // guarded by mu
	waiters list.List          // guarded by mu; waiter, those that wait for their clients, who has longest first
	queue   []*conn            // guarded by mu; held, until fewer are working
	again   *time.Timer        // guarded by mu; sheds once more
	stopped bool               // guarded by mu
	rate    perip.Rate         // guarded by mu
	of      accounts           // guarded by mu
	slow    slow
}

func newHandshakes(h *Host) *handshakes {
	most := h.cfg.MaxHandshakes
	s := &handshakes{h: h, most: most, open: map[*conn]struct{}{}, rate: perip.Rate{Most: h.cfg.HandshakeRate, Bits: h.cfg.IPv6Prefix}}
	s.of.key.Bits = h.cfg.IPv6Prefix
	s.places = make(places, max(1, min(most, 2*runtime.GOMAXPROCS(0))))
	s.slow.place = make(places, 1)
	return s
}

const (
	// shedAfter is how long a handshake may wait for its client where others want its place.
	shedAfter = 250 * time.Millisecond
	// shedStep is how often some are closed, a part of those that are too many: who means no good comes again at once, and
	// many closed and accepted together hold up their loop.
	shedStep = 4 * time.Millisecond
	shedPart = 128
)

// enter notes a new handshake. It is held, not read from, while too many are working or its
// address has begun too many; false: it would be held for too long.
func (s *handshakes) enter(c *conn) bool {
	hold, wait := s.admit(c)
	if wait > s.h.cfg.HandshakeTimeout {
		s.h.st.limited.Add(1)
		return false
	}
	c.tls.hold(hold)
	if wait > 0 {
		time.AfterFunc(wait, func() { c.l.post(c, (*conn).readShake) })
	}
	return true
}

// admit is enter without what follows of it: whether the handshake is held, and for how long it is for its rate.
func (s *handshakes) admit(c *conn) (hold bool, wait time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if wait = s.rate.Next(c.RemoteAddr(), now); wait > s.h.cfg.HandshakeTimeout {
		return true, wait
	}
	s.open[c] = struct{}{}
	s.shedLocked()
	if wait > 0 {
		return true, wait
	}
	hold = s.fullLocked() && !s.of.suspect(s.of.address(c.RemoteAddr()), now) // those have a queue of their own
	if hold {
		s.queue = append(s.queue, c)
	}
	return hold, 0
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
	sh := c.tls.shake
	done, paid := c.tls.done.Load(), c.tls.paid || sh != nil && sh.paid()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	if sh != nil {
		s.unpendLocked(sh)
		s.unwaitLocked(sh)
	}
	if done {
		s.of.ended(s.of.address(c.RemoteAddr()))
	} else if paid {
		s.of.wasted(s.of.address(c.RemoteAddr()), time.Now())
	}
}

// suspect tells whether c's handshake is a suspect's.
func (s *handshakes) suspect(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of.suspect(s.of.address(c.RemoteAddr()), time.Now())
}

// shedLocked closes some of those that have waited longest for their clients where there are
// too many.
func (s *handshakes) shedLocked() {
	over := len(s.open) - s.pendingLocked() - s.most
	if over <= 0 || s.again != nil || s.stopped {
		return
	}
	next := shedAfter
	left := 1 + over/shedPart
	for e := s.waiters.Front(); e != nil && over > 0; {
		w := e.Value.(waiter)
		e = e.Next() // w may leave the list
		if w.sh.works {
			continue
		}
		if age := time.Since(w.sh.since); age < shedAfter {
			next = shedAfter - age
			break
		}
		if left == 0 {
			next = shedStep
			break
		}
		delete(s.open, w.c)
		s.unwaitLocked(w.sh)
		over--
		left--
		s.h.st.shed.Add(1)
		w.c.l.post(w.c, func(c *conn) {
			if c.phase == handshake {
				c.kill()
			}
		})
	}
	if over > 0 {
		s.again = time.AfterFunc(max(next, shedStep), func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.again = nil
			s.shedLocked()
		})
	}
}

// waits notes that a handshake waits for its client: from now on where it is newly the client's turn, or else for as long
// as before it got what was not enough, so that who sends byte by byte keeps no place by that. The caller holds the lock of sh.
func (s *handshakes) waits(c *conn, sh *shake, newly bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.works = false
	if newly {
		s.unwaitLocked(sh)
	}
	if sh.wait == nil {
		sh.since = time.Now()
		sh.wait = s.waiters.PushBack(waiter{c, sh})
	}
}

// works notes that what has come of a handshake is worked at: it keeps its place among those that wait, but is not closed.
func (s *handshakes) works(sh *shake) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.works = true
}

// unwait notes that a handshake waits for its client no more.
func (s *handshakes) unwait(sh *shake) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unwaitLocked(sh)
}

func (s *handshakes) unwaitLocked(sh *shake) {
	if sh.wait != nil {
		s.waiters.Remove(sh.wait)
		sh.wait = nil
	}
}

// waiter is one that waits for its client.
type waiter struct {
	c  *conn
	sh *shake
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
