package door

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// maxPlain is how much is encrypted ahead of what the kernel has taken, in bytes: four
	// full records.
	maxPlain = 64 << 10
	// maxCiphertext is how much that is nobody's data may wait before its peer is not read.
	maxCiphertext = 16 << 10
	// maxHello is how much of a handshake may wait to be worked at.
	maxHello = 64 << 10
)

// tlsLayer is the TLS of a connection: crypto/tls over a net.Conn in memory. Loop goroutine,
// but for what shake is for.
//
// A Read that has nothing returns errWait, a temporary net.Error, which crypto/tls survives
// except during the handshake. So the handshake runs on a goroutine of its own, where Read
// waits.
type tlsLayer struct {
	c     *conn
	tc    *tls.Conn
	state *tls.ConnectionState
	shake *shake  // while the handshake runs
	in    []byte  // what has just been received and is not decrypted
	out   []byte  // records that the kernel has not taken
	ahead int     // bytes of the next write that are in out already
	kept  int     // of out, in the budget
	left  bool    // it counts no longer as an open handshake
	said  bool    // a close_notify, or an alert, was the last that we send
	whole records // that have come and are not decrypted: at most so many

	crowded bool // too much waits for the handshake's goroutine
	held    bool // it is not the handshake's turn to be read
}

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

// errWait says that nothing is there now.
type errWait struct{}

func (errWait) Error() string   { return "door: nothing to read now" }
func (errWait) Timeout() bool   { return true }
func (errWait) Temporary() bool { return true }

var _ net.Error = errWait{}

// beginTLS expects a handshake.
func (c *conn) beginTLS() {
	c.phase = handshake
	t := &tlsLayer{c: c, shake: &shake{waits: time.Now()}}
	t.shake.more.L = &t.shake.mu
	t.tc = tls.Server(t, c.h.cfg.TLS)
	c.tls = t
	c.h.st.handshaking.Add(1)
	c.startTimer()
	if !c.h.shakes.enter(c) {
		c.kill()
	}
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

// received takes bytes of the socket.
func (t *tlsLayer) received(b []byte) {
	t.whole.add(b)
	sh := t.shake
	if sh == nil {
		t.in = b
		t.pump()
		return
	}
	sh.mu.Lock()
	before := cap(sh.in)
	sh.in = append(sh.in, b...)
	t.c.h.cfg.Budget.Add(cap(sh.in) - before)
	crowded := len(sh.in) > maxHello
	start := !sh.started
	sh.started = true
	sh.waits = time.Time{}
	if !sh.busy && !sh.done {
		sh.busy = true
		t.c.h.shakes.working.Add(1)
	}
	sh.more.Signal()
	sh.mu.Unlock()
	if crowded != t.crowded {
		t.crowded = crowded
		t.c.mask()
	}
	if start {
		t.c.h.bg.Go(t.run)
	}
}

// run is the handshake's goroutine.
func (t *tlsLayer) run() {
	s, sh := t.c.h.shakes, t.shake
	sh.placed = s.places.take()
	err := t.tc.Handshake()
	if sh.rest(time.Time{}) {
		s.idle()
	}
	t.c.l.post(t.c, func(c *conn) { t.shaken(err) })
	s.places.leave(sh.placed)
}

// shaken ends the handshake. Loop goroutine.
func (t *tlsLayer) shaken(err error) {
	c := t.c
	if c.phase != handshake {
		return
	}
	if t.flush() != nil {
		c.kill()
		return
	}
	sh := t.shake
	t.shake = nil
	c.h.cfg.Budget.Add(-cap(sh.in))
	t.in, t.crowded = sh.in, false
	if err != nil {
		t.said = true // crypto/tls has sent its alert
		c.h.st.handshakeFails.Add(1)
		c.h.cfg.Logger.Debug("TLS handshake failed", "peer", c.remote.String(), "err", err)
		c.refuse(nil)
		return
	}
	c.h.st.handshakes.Add(1)
	c.h.shakes.places.noteDone()
	state := t.tc.ConnectionState()
	t.state = &state
	c.h.shakes.leave(c)
	c.phase = innerByte
	c.startTimer()
	c.mask()
	if !c.addr.WS && !c.addr.Auto && !c.offer() {
		return
	}
	t.pump()
	if c.phase == open {
		c.noteHalf() // it may have come with the handshake's end
	}
	if c.ended {
		c.afterFIN()
	}
}

// noMore says that the socket has ended: the handshake goes on with what there is.
func (t *tlsLayer) noMore() {
	sh := t.shake
	sh.mu.Lock()
	sh.eof = true
	sh.more.Signal()
	sh.mu.Unlock()
}

// pump decrypts what has come and hands it on, in as few pieces as it can be.
func (t *tlsLayer) pump() {
	c := t.c
	box := c.h.plain.Get().(*[]byte)
	defer c.h.plain.Put(box)
	buf := *box
	for end := error(nil); end == nil; {
		n := 0
		for end == nil && len(buf)-n >= maxRecord {
			var m int
			if m, end = t.tc.Read(buf[n:]); end == nil && t.whole.took() {
				end = errWait{} // as the next Read would say
			}
			n += m
		}
		c.inner(buf[:n])
		var wait errWait
		switch {
		case c.phase >= closing || c.phase == open && !c.up && c.take == nil:
			t.in = nil
			return
		case end == nil:
		case errors.As(end, &wait):
			t.whole.n = 0
		case errors.Is(end, io.EOF):
			t.in = nil
			c.peerDone()
		default:
			t.in, t.said = nil, true // crypto/tls has sent its alert
			c.broken()
		}
	}
	if len(t.out) > 0 && c.phase != gone {
		_ = c.flush()
	}
}

// Read is crypto/tls's view of what has come.
func (t *tlsLayer) Read(p []byte) (int, error) {
	if t.shake != nil {
		return t.shake.read(p, t.c.h.shakes)
	}
	if len(t.in) == 0 {
		return 0, errWait{}
	}
	n := copy(p, t.in)
	t.in = t.in[n:]
	return n, nil
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

// Write is how crypto/tls sends records.
func (t *tlsLayer) Write(p []byte) (int, error) {
	sh := t.shake
	if sh == nil {
		t.out = append(t.out, p...)
		return len(p), nil
	}
	sh.mu.Lock()
	sh.out = append(sh.out, p...)
	ask := !sh.asked
	sh.asked = true
	sh.mu.Unlock()
	if ask {
		t.c.l.post(t.c, func(c *conn) {
			if c.flush() != nil {
				c.kill()
			}
		})
	}
	return len(p), nil
}

// write encrypts p and sends it. It has taken what the kernel has: what is encrypted and
// not taken is the beginning of the next write.
func (t *tlsLayer) write(p []byte) (done int, err error) {
	for {
		if err := t.flush(); err != nil {
			return done, err
		}
		if len(t.out) > 0 {
			return done, nil
		}
		n := min(t.ahead, len(p)-done)
		done += n
		t.ahead -= n
		if done == len(p) {
			return done, nil
		}
		n = min(len(p)-done, maxPlain)
		t.out = t.c.l.cipher[:0]
		if _, err := t.tc.Write(p[done : done+n]); err != nil {
			t.out = nil
			return done, err
		}
		t.c.l.cipher = t.out[:0]
		t.ahead = n
		m, err := t.c.Conn.Write(t.out)
		t.keep(append([]byte(nil), t.out[m:]...))
		if err != nil {
			return done, err
		}
	}
}

// flush writes the records that wait.
func (t *tlsLayer) flush() error {
	if sh := t.shake; sh != nil {
		sh.mu.Lock()
		t.out = append(t.out, sh.out...)
		sh.out, sh.asked = nil, false
		unread := len(sh.in)
		sh.mu.Unlock()
		if t.crowded && unread <= maxHello/2 {
			t.crowded = false
			t.c.mask()
		}
	}
	if len(t.out) == 0 {
		return nil
	}
	n, err := t.c.Conn.Write(t.out)
	if n == len(t.out) {
		t.keep(nil)
	} else {
		t.keep(t.out[n:])
	}
	return err
}

// keep notes what the kernel has not taken.
func (t *tlsLayer) keep(rest []byte) {
	if len(rest) == 0 {
		rest = nil
	}
	t.c.h.cfg.Budget.Add(cap(rest) - t.kept)
	t.out, t.kept = rest, cap(rest)
}

// sayClose sends the close_notify.
func (t *tlsLayer) sayClose() {
	t.said = true
	_ = t.tc.CloseWrite()
}

// release ends the handshake's goroutine, and gives the memory back.
func (t *tlsLayer) release() {
	t.keep(nil)
	if sh := t.shake; sh != nil {
		t.c.h.shakes.leave(t.c)
		sh.mu.Lock()
		sh.shut = true
		t.c.h.cfg.Budget.Add(-cap(sh.in))
		sh.in = nil
		sh.more.Signal()
		sh.mu.Unlock()
	}
}

func (t *tlsLayer) Close() error                     { return nil }
func (t *tlsLayer) LocalAddr() net.Addr              { return t.c.LocalAddr() }
func (t *tlsLayer) RemoteAddr() net.Addr             { return t.c.remote }
func (t *tlsLayer) SetDeadline(time.Time) error      { return nil }
func (t *tlsLayer) SetReadDeadline(time.Time) error  { return nil }
func (t *tlsLayer) SetWriteDeadline(time.Time) error { return nil }
