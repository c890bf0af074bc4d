package engine

import (
	"crypto/tls"
	"sync"
	"sync/atomic"
	"time"

	"millrace/codec"
	"millrace/engine/internal/netio"
	"millrace/engine/internal/replay"
)

// line is the connection of a session that can be resumed, as the session sees it: it remains while
// the connections below it, its links, change. Output is kept in a ring until the peer has
// acknowledged it, and written from there to the current link. It belongs to the session's loop,
// home; fields needed by a link on another loop are guarded by mu.
type line struct {
	srv  *Server
	s    *Session
	home *loop
	at   atomic.Pointer[endpoint] // of the current or last link

	// Home loop's goroutine only. cur is the same as link, or nil slightly earlier.
	cur       *link        // the same as link, or nil a little earlier
	token     replay.Token // identifies the session
	next      replay.Token // replaces token when the peer has proved that it has it
	unproven  bool         // next is set
	received  uint64       // counted frames received from the peer
	told      uint64       // of these, those acknowledged to the peer
	owedSince int64        // when received first was more than told
	bye       bool         // the session ends with this link
	finned    bool         // the peer has sent its FIN; pending answers are sent, then the link ends
	away      int64        // since when there is no link; 0 if there is one
	tap       *tap         // nil if events are not recorded; set before the session has a slot
	unasked   int          // unsolicited bytes written since the link was lost
	logPos    uint64       // position in the broadcast log at that time
	asked     atomic.Bool  // a query of a link on another loop is in progress
	depart    *Departure   // another server is taking the session; nil: none is
	hasty     bool         // the peer's acknowledgements have been queued behind its requests

	mu        sync.Mutex
	ring      replay.Ring // guarded by mu
	link      *link       // guarded by mu; nil for none
	ctl       []byte      // guarded by mu; system frames to be written before the ring
	wish      bool        // guarded by mu; the session must be notified when bytes are accepted again
	need      int         // guarded by mu; size of the last frame that was not accepted
	ctlOut    int         // guarded by mu; bytes of ctl that the link has taken and not written
	drainWish bool        // guarded by mu; the session must be notified when everything is written
	fin       bool        // guarded by mu; the FIN follows what is left
	ended     bool        // guarded by mu; Close has been called
	waits     bool        // guarded by mu; as of the last Write: without a link, no more is accepted than with one
	hold      bool        // guarded by mu; nothing is accepted while there is no link
	embryo    bool        // written by home with mu; the session is to come from another server, and nothing is taken yet
	loose     bool        // guarded by mu; the ring may hold mostKept, see loosen
	seen      kernelView  // guarded by mu; for a link on another loop
}

// kernelView is the last known state in the kernel of a link on another loop.
type kernelView struct {
	unread, unacked int
	acks            netio.Acks
}

// endpoint describes the connection of a link.
type endpoint struct {
	c         netio.Conn
	transport string
	tls       *tls.ConnectionState
}

func endpointOf(c netio.Conn) *endpoint {
	if d, ok := c.(netio.Door); ok {
		return &endpoint{c, d.Transport(), d.TLS()}
	}
	return &endpoint{c, c.LocalAddr().Network(), nil}
}

var _ netio.Door = (*line)(nil)

const (
	aheadMost = 64 << 10 // most unwritten bytes of the ring for a link; then no more are accepted
	ctlMost   = 16 << 10 // most bytes of waiting system frames
	ackFrames = 64       // after this many frames an ACK is sent at once,
	ackTime   = time.Second
)

// newLine creates the line of a new session, and the session.
func newLine(k *link) *line {
	ln := &line{srv: k.srv, home: k.loop, cur: k, link: k, token: k.srv.newToken()}
	ln.s = &Session{srv: k.srv, loop: k.loop, conn: ln, accepted: k.accepted.UnixNano()}
	ln.s.rd.opened = true
	ln.ring.Init(k.srv.wholeFrame, k.loop.budget)
	ln.at.Store(endpointOf(k.c))
	return ln
}

// Write stores frames and arranges for them to be written. What it does not accept must be written
// again when the peer has acknowledged some frames, or the kernel has accepted them. A session that
// waits for its peer is no different: what the ring does not accept waits in the outbox, and behind
// it the strand. Of one with keyed pushes nothing is accepted then, so that these can be replaced
// where they are. Of one that ends or moves to another server everything is.
func (ln *line) Write(p []byte) (n int, err error) {
	waits := ln.cur == nil && ln.depart == nil && !ln.s.closed()
	hold := waits && ln.s.out.Keyed()
	ln.mu.Lock()
	ln.waits, ln.hold = waits, hold
	for n < len(p) {
		m := ln.takeFrame(p[n:], n == 0)
		if m == 0 {
			break
		}
		n += m
	}
	if ln.link == nil {
		ln.ring.Forget(ln.srv.mostKept())
	}
	k := ln.link
	ln.mu.Unlock()
	if ln.tap != nil {
		ln.tap.wrote(p, n)
	}
	ln.kick(k)
	return n, nil
}

// takeFrame accepts the frame at the start of p, or the part of it that p has, and returns its
// number of bytes; 0 if it can't be accepted now. mu is held.
func (ln *line) takeFrame(p []byte, first bool) int {
	r := &ln.ring
	switch {
	case ln.ended:
		return len(p)
	case ln.embryo:
		return 0
	}
	if r.Open() > 0 {
		return r.Continue(p)
	}
	ln.need = 1
	size, missing := ln.srv.frameSize(p)
	if size == 0 || missing > 0 && !first {
		return 0
	}
	head := ln.srv.framing.codec.Packet(p[:min(size, len(p))])
	if head.Main == SystemMain && head.Sub != SubError && missing == 0 {
		switch {
		case ln.link == nil: // unsolicited while there is no link
		case len(ln.ctl) >= ctlMost:
			return 0
		default:
			ln.ctl = append(ln.ctl, p[:size]...)
		}
		return size
	}
	if !ln.room(size) {
		ln.need = size
		return 0
	}
	if missing > 0 {
		r.Begin(p, size)
		return len(p)
	}
	r.Append(p[:size], &ln.home.recent)
	return size
}

// room reports whether the ring accepts n more bytes. mu is held.
func (ln *line) room(n int) bool {
	r, most := &ln.ring, ln.srv.cfg.ResumeBytes
	switch {
	case ln.link == nil && (ln.hold || !ln.waits):
		return !ln.hold
	case r.Bytes() == 0:
		return true
	case r.Unsent() >= aheadMost:
		return false
	case ln.loose && ln.link != nil:
		most = ln.srv.mostKept()
	}
	return r.Bytes()+n <= most
}

// starved reports whether more can be sent, or more requests handled, only after an acknowledgement.
func (ln *line) starved() bool {
	full := ln.s.out.Full()
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return ln.link != nil && (ln.wish || full) && ln.ring.Unsent() == 0
}

// awaits reports whether everything passed to the link has been written, as far as is known: a link
// on another loop may still be about to write it. More is sent after an acknowledgement, or at the
// next pass.
func (ln *line) awaits() bool {
	return ln.cur != nil && (ln.cur.loop != ln.home || ln.unsent() == 0)
}

// takeWish reports whether the waiting session can be notified that more is accepted. mu is held.
func (ln *line) takeWish() bool {
	if !ln.wish || ln.embryo || !ln.room(ln.need) || len(ln.ctl) >= ctlMost {
		return false
	}
	ln.wish = false
	return true
}

// kick makes a link write pending data.
func (ln *line) kick(k *link) {
	switch {
	case k == nil:
	case k.loop == ln.home:
		k.pump()
	default:
		k.loop.onLoop(func(*loop) { k.pump() })
	}
}

// writable makes the link continue when its socket is writable again. Any goroutine.
func (ln *line) writable() {
	ln.mu.Lock()
	k := ln.link
	ln.mu.Unlock()
	if k != nil {
		k.loop.onLoop(func(*loop) {
			k.blocked = false
			k.pump()
		})
	}
}

// NotifyWritable requests a notification of the session when more is accepted.
func (ln *line) NotifyWritable(uint64) error {
	ln.mu.Lock()
	ln.wish = true
	now := ln.takeWish()
	ln.mu.Unlock()
	if now {
		ln.s.canWrite()
	}
	return nil
}

// PauseReading stops reading from the current link. For a link on another loop it is unknown
// whether that was possible.
func (ln *line) PauseReading(pause bool) bool {
	k := ln.cur
	switch {
	case k == nil:
		return true
	case k.loop == ln.home:
		k.paused = pause
		return k.mask()
	}
	k.loop.run(ln.home, func() {
		k.paused = pause
		k.mask()
	})
	return true
}

// view returns the state of the link in the kernel. For a link on another loop it is as of the last
// call.
func (ln *line) view() kernelView {
	k := ln.cur
	switch {
	case k == nil || k.loop == ln.home && k.state != linkJoined:
		return kernelView{}
	case k.loop == ln.home:
		return kernelView{k.c.Unread(), k.c.Unacked(), k.c.Acks()}
	}
	if !ln.asked.Swap(true) {
		k.loop.onLoop(func(*loop) {
			v := kernelView{}
			if k.state == linkJoined {
				v = kernelView{k.c.Unread(), k.c.Unacked(), k.c.Acks()}
			}
			ln.mu.Lock()
			if ln.link == k {
				ln.seen = v
			}
			ln.mu.Unlock()
			ln.asked.Store(false)
		})
	}
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return ln.seen
}

// unsent returns how many bytes of the link are unwritten.
func (ln *line) unsent() int {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return ln.ring.Unsent() + len(ln.ctl) + ln.ctlOut
}

// kept returns how many bytes the ring holds.
func (ln *line) kept() int {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return ln.ring.Bytes()
}

// gone reports whether there is no link.
func (ln *line) gone() bool { return ln != nil && ln.cur == nil }

// drained reports whether everything is written; if not, the session is checked again when it is.
func (ln *line) drained() bool {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.drainWish = ln.link != nil && ln.ring.Unsent()+len(ln.ctl)+ln.ctlOut > 0
	return !ln.drainWish
}

// ReadRest does nothing: a link reads everything before it ends.
func (ln *line) ReadRest(func([]byte)) bool { return true }

// Detach reports whether pending answers can still be sent: the link has taken care of that.
func (ln *line) Detach() bool { return ln.cur != nil && ln.cur.fin }

// CloseWrite sends the FIN after the remaining data.
func (ln *line) CloseWrite() {
	ln.mu.Lock()
	ln.fin = true
	k := ln.link
	ln.mu.Unlock()
	ln.kick(k)
}

// Abort makes Close send a reset.
func (ln *line) Abort() {
	if k := ln.cur; k != nil {
		k.loop.run(ln.home, func() {
			if k.state == linkJoined {
				k.c.Abort()
			}
		})
	}
}

// Close ends the session's side: the session can't be found any more, and stored frames are
// dropped.
func (ln *line) Close() {
	ln.forgetTokens()
	if ln.away != 0 {
		ln.away = 0
		ln.srv.waiting.Add(-1)
	}
	ln.mu.Lock()
	if ln.depart != nil {
		ln.depart.end(ln)
	}
	ln.ended, ln.link, ln.ctl = true, nil, nil
	ln.ring.Close()
	ln.mu.Unlock()
	if k := ln.cur; k != nil {
		ln.cur = nil
		k.loop.run(ln.home, k.close)
	}
}

// welcome queues a WELCOME, before everything else. Home loop's goroutine; for a new session any
// goroutine.
func (ln *line) welcome(resumed bool, seq uint32) {
	token := ln.token
	if resumed {
		token = ln.next
	}
	body := ln.srv.framing.codec.AppendWelcome(nil, codec.Welcome{Resumed: resumed, Token: token, Received: ln.received})
	ln.ctl = ln.srv.encodeFrame(ln.ctl[:0], codec.Packet{Main: SystemMain, Sub: SubWelcome, Seq: seq, Body: body})
	ln.told = ln.received
}

// acknowledge sends the peer the number of its frames received. Home loop's goroutine.
func (ln *line) acknowledge() {
	ln.told = ln.received
	ln.mu.Lock()
	k := ln.link
	if k != nil {
		body := ln.srv.framing.codec.ByteOrder().AppendUint64(nil, ln.received)
		ln.ctl = ln.srv.encodeFrame(ln.ctl, codec.Packet{Main: SystemMain, Sub: SubAck, Body: body})
	}
	ln.mu.Unlock()
	ln.kick(k)
}

// toldEnd notifies the session of a link's end: its peer's FIN, or a lost connection. On the link's
// loop goroutine.
func (ln *line) toldEnd(k *link, fin bool) {
	ln.home.with(ln.s, k.loop, func() { ln.home.linkEnded(ln, k, fin) })
}
