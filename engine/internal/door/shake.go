package door

import (
	"io"
	"net"
	"sync"
	"time"
)

// shake is a handshake under way: what its goroutine and the loop have in common.
type shake struct {
	mu      sync.Mutex
	more    sync.Cond
	in, out []byte    // guarded by mu
	shut    bool      // guarded by mu
	eof     bool      // guarded by mu; no more will come
	asked   bool      // guarded by mu; the loop has been asked to write out
	started bool      // guarded by mu
	placed  time.Time // when it got its place; its goroutine's
	busy    bool      // guarded by mu; it counts as working
	done    bool      // guarded by mu; the goroutine has ended
	waits   time.Time // guarded by mu; since when it has waited for its client; zero: it does not
}

// hold stops the handshake from being read, or lets it be.
func (t *tlsLayer) hold(hold bool) {
	t.held = hold
	since := time.Now()
	if hold {
		since = time.Time{} // it is not its client that it waits for
	}
	t.shake.mu.Lock()
	if !t.shake.started {
		t.shake.waits = since
	}
	t.shake.mu.Unlock()
	t.c.mask()
}

// run is the handshake's goroutine.
func (t *tlsLayer) run() {
	s, sh := t.c.l.h.shakes, t.shake
	sh.placed = s.places.take()
	err := t.tc.Handshake()
	if sh.rest(time.Time{}) {
		s.idle()
	}
	t.c.l.post(t.c, func(c *conn) { t.shaken(err) })
	s.places.leave(sh.placed)
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
func (sh *shake) read(p []byte, s *handshakes) (int, error) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for len(sh.in) == 0 && !sh.shut && !sh.eof {
		sh.mu.Unlock()
		if sh.rest(time.Now()) {
			s.idle()
		}
		s.places.leave(sh.placed)
		sh.mu.Lock()
		for len(sh.in) == 0 && !sh.shut && !sh.eof {
			sh.more.Wait()
		}
		sh.mu.Unlock()
		sh.placed = s.places.take()
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

// rest notes that there is nothing to work at, unless more has come; since: from when on it
// waits for its client, zero: it has ended. It tells whether it had counted as working.
func (sh *shake) rest(since time.Time) (was bool) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if len(sh.in) > 0 && !since.IsZero() {
		return false
	}
	was = sh.busy
	sh.busy, sh.waits, sh.done = false, since, since.IsZero()
	return was
}
