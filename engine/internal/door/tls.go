package door

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync/atomic"
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
	c        *conn
	tc       *tls.Conn // from its ClientHello on
	shake    *shake    // while the handshake runs
	in       []byte    // what has just been received and is not decrypted
	out      []byte    // records that the kernel has not taken
	ahead    int       // bytes of the next write that are in out already
	kept     int       // of out, in the budget
	left     bool      // it counts no longer as an open handshake
	straight bool      // a record goes to the socket as crypto/tls writes it
	said     bool      // a close_notify, or an alert, was the last that we send
	whole    records   // that have come and are not decrypted: at most so many

	crowded bool // too much waits for the handshake's goroutine
	held    bool // it is not the handshake's turn to be read
	pending bool // its hello is there, and it is not its turn
	paid    bool // its handshake has ended, and was answered

	known atomic.Pointer[tls.ConnectionState] // its state, once somebody has asked
	done  atomic.Bool                         // the handshake has succeeded
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
	t := &tlsLayer{c: c, shake: &shake{}}
	t.shake.more.L = &t.shake.mu
	c.tls = t
	c.l.h.st.handshaking.Add(1)
	c.startClock()
	if !c.l.h.shakes.enter(c) {
		c.kill()
	}
}

// state is the connection's, which does not change once the handshake is done; nil before.
// Few ask for it, and it is not small. Any goroutine.
func (t *tlsLayer) state() *tls.ConnectionState {
	if !t.done.Load() {
		return nil
	}
	if t.known.Load() == nil {
		state := t.tc.ConnectionState()
		t.known.CompareAndSwap(nil, &state)
	}
	return t.known.Load()
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
	t.c.l.h.cfg.Budget.Add(cap(sh.in) - before)
	started := sh.started
	crowded := len(sh.in) > maxHello
	sh.mu.Unlock()
	switch {
	case started:
		t.work()
		if crowded != t.crowded {
			t.crowded = crowded
			t.c.mask()
		}
	case t.pending:
	case !helloWhole(sh.in):
		t.hold(false)
	case t.c.l.h.shakes.suspect(t.c):
		t.c.l.h.shakes.pend(t)
	default:
		t.start()
	}
}

// start begins the handshake.
func (t *tlsLayer) start() {
	t.tc = tls.Server(t, t.c.l.h.cfg.TLS)
	t.work()
	t.c.l.h.bg.Go(t.run)
}

// work has the handshake's goroutine go on with what has come.
func (t *tlsLayer) work() {
	sh := t.shake
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.started = true
	t.c.l.h.shakes.works(sh)
	if !sh.busy && !sh.done && !sh.slow {
		sh.busy = true
		t.c.l.h.shakes.working.Add(1)
	}
	sh.more.Signal()
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
	t.shake, t.paid = nil, sh.paid()
	c.l.h.cfg.Budget.Add(-cap(sh.in))
	t.in, t.crowded = sh.in, false
	if err != nil {
		t.said = true // crypto/tls has sent its alert
		c.l.h.st.handshakeFails.Add(1)
		c.l.h.cfg.Logger.Debug("TLS handshake failed", "peer", c.RemoteAddr().String(), "err", err)
		c.refuse(nil)
		return
	}
	c.l.h.st.handshakes.Add(1)
	t.done.Store(true)
	c.l.h.shakes.leave(c)
	c.phase = innerByte
	c.startClock()
	c.mask()
	if a := c.x.addr; !a.WS && !a.Auto && !c.offer() {
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

// pump decrypts what has come and hands it on, in as few pieces as it can be.
func (t *tlsLayer) pump() {
	c, l := t.c, t.c.l
	buf := l.plain
	if l.plain = nil; buf == nil { // a call that brings what was in it is held up
		buf = make([]byte, maxPlain)
	}
	for more := true; more; {
		n, end := 0, error(nil)
		for more && len(buf)-n >= maxRecord {
			var m int
			m, end = t.tc.Read(buf[n:])
			n += m
			more = end == nil && !t.whole.took()
		}
		c.inner(buf[:n])
		if c.phase >= closing || c.phase == open && !c.up && !c.taking() {
			t.in, l.plain = nil, buf
			return
		}
		switch {
		case more:
		case end == nil || end == error(errWait{}):
			t.whole.n = 0
		case errors.Is(end, io.EOF):
			c.peerDone()
		default:
			t.said = true // crypto/tls has sent its alert
			c.broken()
		}
	}
	t.in, l.plain = nil, buf
	if len(t.out) > 0 && c.phase != gone {
		_ = c.flush()
	}
}

// Read is crypto/tls's view of what has come.
func (t *tlsLayer) Read(p []byte) (int, error) {
	if t.shake != nil {
		return t.read(p)
	}
	if len(t.in) == 0 {
		return 0, errWait{}
	}
	n := copy(p, t.in)
	t.in = t.in[n:]
	return n, nil
}

// Write is how crypto/tls sends records.
func (t *tlsLayer) Write(p []byte) (int, error) {
	sh := t.shake
	switch {
	case sh != nil:
	case t.straight && len(t.out) == 0:
		n, err := t.c.Conn.Write(p)
		if n < len(p) {
			t.keep(bytes.Clone(p[n:]))
		}
		return len(p), err
	default:
		t.out = append(t.out, p...)
		return len(p), nil
	}
	sh.mu.Lock()
	sh.out = append(sh.out, p...)
	sh.wrote = true
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
		t.ahead = n
		if err := t.seal(p[done : done+n]); err != nil || len(t.out) > 0 {
			return done, err
		}
	}
}

// seal encrypts p and writes it. What the kernel does not take is kept. A single record goes
// out of crypto/tls's own memory; several are put together for one write.
func (t *tlsLayer) seal(p []byte) error {
	if len(p) <= maxRecord {
		t.straight = true
		_, err := t.tc.Write(p)
		t.straight = false
		return err
	}
	l := t.c.l
	t.out = l.cipher[:0]
	if _, err := t.tc.Write(p); err != nil {
		t.out = nil
		return err
	}
	b := t.out
	l.cipher, t.out = b[:0], nil
	n, err := t.c.Conn.Write(b)
	t.keep(bytes.Clone(b[n:]))
	return err
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
	t.c.l.h.cfg.Budget.Add(cap(rest) - t.kept)
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
		t.c.l.h.shakes.leave(t.c)
		sh.mu.Lock()
		sh.shut = true
		t.c.l.h.cfg.Budget.Add(-cap(sh.in))
		sh.in = nil
		sh.more.Signal()
		sh.mu.Unlock()
	}
}

func (t *tlsLayer) Close() error                     { return nil }
func (t *tlsLayer) LocalAddr() net.Addr              { return t.c.LocalAddr() }
func (t *tlsLayer) RemoteAddr() net.Addr             { return t.c.RemoteAddr() }
func (t *tlsLayer) SetDeadline(time.Time) error      { return nil }
func (t *tlsLayer) SetReadDeadline(time.Time) error  { return nil }
func (t *tlsLayer) SetWriteDeadline(time.Time) error { return nil }
