package door

import (
	"container/list"
	"crypto/tls"
	"io"
	"net"
	"sync"
	"time"
)

// shake is a handshake under way: what its goroutine and the loop have in common.
type shake struct {
	mu      sync.Mutex
	more    sync.Cond
	in, out []byte      // guarded by mu
	shut    bool        // guarded by mu
	eof     bool        // guarded by mu; no more will come
	asked   bool        // guarded by mu; the loop has been asked to write out
	started bool        // guarded by mu
	wrote   bool        // guarded by mu; since it waited for its client last
	flights int         // guarded by mu; how often it has written and then waited
	busy    bool        // guarded by mu; it counts as working
	done    bool        // guarded by mu; the goroutine has ended
	slow    bool        // guarded by mu; it is a suspect's, and has its turns in the slow place
	ask     tls.CurveID // the group that its client is asked for; 0: none. It is set before the goroutine begins

	// The lock of the handshakes guards these. Who needs both locks takes mu first.
	place *list.Element // where it waits for its first turn
	wait  *list.Element // where it waits for its client
	since time.Time     // and from when on
	works bool          // it is worked at, and does not wait now

	// Its goroutine's.
	turns  int
	placed time.Time // when it got its place
	inSlow bool      // and that this is the slow one
}

// hold stops the handshake from being read, or lets it be: then it waits for its client.
func (t *tlsLayer) hold(hold bool) {
	t.shake.mu.Lock()
	switch s := t.c.l.h.shakes; {
	case t.shake.started:
	case hold:
		s.unwait(t.shake)
	default:
		s.waits(t.c, t.shake, false)
	}
	t.shake.mu.Unlock()
	if t.held != hold {
		t.held = hold
		t.c.mask()
	}
}

// run is the handshake's goroutine.
func (t *tlsLayer) run() {
	s, sh := t.c.l.h.shakes, t.shake
	sh.take(s)
	err := t.tc.Handshake()
	if t.rest(true) {
		s.idle()
	}
	t.c.l.post(t.c, func(c *conn) { t.shaken(err) })
	sh.leave(s)
}

// take waits for a place.
func (sh *shake) take(s *handshakes) {
	sh.mu.Lock()
	sh.inSlow = sh.slow
	sh.mu.Unlock()
	if sh.inSlow {
		sh.placed = s.waitSlow(sh.turns > 0)
	} else {
		sh.placed = s.places.take()
	}
	sh.turns++
}

// leave gives up its place.
func (sh *shake) leave(s *handshakes) {
	if !sh.inSlow {
		s.places.leave()
		return
	}
	times, then := time.Duration(payRest), func() {}
	if sh.ask != 0 {
		times = askRest
	}
	if sh.turns == 1 {
		then = s.begun
	}
	s.slow.place.rest(sh.placed, times, then)
}

// noMore says that the socket has ended: the handshake goes on with what there is.
func (t *tlsLayer) noMore() {
	sh := t.shake
	sh.mu.Lock()
	sh.eof = true
	sh.more.Signal()
	sh.mu.Unlock()
}

// read waits for bytes of the handshake. While it does it has no place.
func (t *tlsLayer) read(p []byte) (int, error) {
	s, sh := t.c.l.h.shakes, t.shake
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for len(sh.in) == 0 && !sh.shut && !sh.eof {
		sh.mu.Unlock()
		if t.rest(false) {
			s.idle()
		}
		sh.leave(s)
		sh.mu.Lock()
		for len(sh.in) == 0 && !sh.shut && !sh.eof {
			sh.more.Wait()
		}
		sh.mu.Unlock()
		sh.take(s)
		sh.mu.Lock()
	}
	if sh.shut {
		return 0, net.ErrClosed
	}
	if len(sh.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p, sh.in)
	sh.in = append(sh.in[:0], sh.in[n:]...)
	return n, nil
}

// paid tells whether its answer to the client was computed.
func (sh *shake) paid() bool {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.flights > 0
}

// rest notes that there is nothing to work at: the handshake has ended, or it waits for its client, unless more has come.
// It tells whether it had counted as working.
func (t *tlsLayer) rest(ended bool) (was bool) {
	sh := t.shake
	sh.mu.Lock()
	defer sh.mu.Unlock()
	newly := sh.wrote
	if newly {
		sh.wrote = false
		sh.flights++
		sh.slow = sh.slow && sh.ask != 0 && sh.flights == 1 // that was the question only
	}
	if len(sh.in) > 0 && !ended {
		return false
	}
	was, sh.busy, sh.done = sh.busy, false, ended
	if ended || sh.shut {
		t.c.l.h.shakes.unwait(sh)
	} else {
		t.c.l.h.shakes.waits(t.c, sh, newly)
	}
	return was
}
