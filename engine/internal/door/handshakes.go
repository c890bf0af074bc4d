package door

import (
	"container/list"
	"crypto/tls"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine/internal/perip"
)

// handshakes are the TLS handshakes of a Host.
//
// A handshake that has input to process is working. While MaxHandshakes are working, new ones are not
// read. A handshake that waits for its client does not count; but if more than MaxHandshakes are
// open, those that have waited for their clients longest are closed. The handshakes of suspects (see
// accounts) begin one at a time (see slow).
type handshakes struct {
	h       *Host
	most    int // MaxHandshakes
	places  places
	working atomic.Int32
	groups  []tls.CurveID // key shares that suspects may be asked for

	mu      sync.Mutex
	open    map[*conn]struct{} // guarded by mu
	waiters list.List          // guarded by mu; of waiter: handshakes that wait for their clients, longest first
	queue   []*conn            // guarded by mu; held until fewer are working; some may have closed
	again   *time.Timer        // guarded by mu; calls shedLocked again
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
	// shedAfter is how long a handshake must have waited for its client before it may be closed.
	shedAfter = 250 * time.Millisecond
	// shedStep is the time between two closings of a part of those that are too many: attackers reconnect at once, and
	// closing and accepting many together would block their loop.
	shedStep = 4 * time.Millisecond
	shedPart = 128
)

// enter adds a new handshake. It is held, that is not read, while too many are working or its address has begun too many;
// false if it would be held for longer than HandshakeTimeout.
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

// admit adds a handshake, and returns whether it must be held, and how long for its address's rate.
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
		s.enqueueLocked(c)
	}
	return hold, 0
}

func (s *handshakes) fullLocked() bool { return int(s.working.Load()) >= s.most || len(s.queue) > 0 }

// queueSlack is how many closed handshakes the queue may contain beyond as many as are open.
const queueSlack = 64

// enqueueLocked adds a handshake to the queue. Those that close stay in it; when they are more than
// all that are open, and queueSlack, they are removed, as in a flood of clients that give up the queue
// would otherwise grow for as long as no working one ends.
func (s *handshakes) enqueueLocked(c *conn) {
	if len(s.queue) >= 2*len(s.open)+queueSlack {
		s.queue = slices.DeleteFunc(s.queue, func(c *conn) bool { _, open := s.open[c]; return !open })
	}
	s.queue = append(s.queue, c)
}

// readShake ends the holding of a handshake for its address's rate.
func (c *conn) readShake() {
	s := c.l.h.shakes
	s.mu.Lock()
	full := c.phase == handshake && s.fullLocked()
	if full {
		s.enqueueLocked(c)
	}
	s.mu.Unlock()
	if !full {
		c.unholdShake()
	}
}

// unholdShake ends the holding of a handshake. If it has no input yet, or has closed, the next one may be read too.
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

// idle is called when a handshake stops working.
func (s *handshakes) idle() {
	s.working.Add(-1)
	s.promote()
}

// promote ends the holding of the first handshake in the queue, if fewer than MaxHandshakes are working.
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

// leave removes a connection from the open handshakes, and counts its handshake as completed or wasted.
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

// suspect reports whether c's address is suspect.
func (s *handshakes) suspect(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.of.suspect(s.of.address(c.RemoteAddr()), time.Now())
}

// shedLocked closes some of the handshakes that have waited longest for their clients, if too many are open, and
// schedules itself if that is not enough.
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

// waits is called when a handshake waits for its client. With newly, because the server has sent something, the waiting
// time begins now. Else it continues, so that a client can't extend it by sending byte by byte. sh.mu is held.
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

// works is called when a handshake's input is being processed: it stays in waiters, but is not closed.
func (s *handshakes) works(sh *shake) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh.works = true
}

// unwait removes a handshake from waiters.
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

// waiter is a handshake that waits for its client.
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
