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

// line is the connection of a session that can be resumed, as the session sees it: it stays
// while the connections below it, its links, come and go. What is written to it is kept in
// a ring until the peer has acknowledged it, and written to the link of the moment from
// there. The session's loop, home, has it; what a link on another loop needs is under mu.
type line struct {
	srv  *Server
	s    *Session
	home *loop
	at   atomic.Pointer[endpoint] // of the link that is or was there last

	// Home loop's goroutine only.
	cur       *link        // the same as link, or nil a little earlier
	token     replay.Token // finds the session
	next      replay.Token // does too when the peer has shown that it has it
	unproven  bool         // next is set
	received  uint64       // counted frames of the peer
	told      uint64       // of them, those that it knows we have
	owedSince int64        // when received first was more than told
	bye       bool         // the session ends with this link
	finned    bool         // the peer has sent its FIN; what is owed goes out, then the link is left
	away      int64        // since when the peer is away; 0: it is not
	tap       *tap         // nil: the session's events are not noted; set before it has a slot
	unasked   int          // bytes that nobody asked for, written since its link went
	logPos    uint64       // how far it had the broadcasts then
	asked     atomic.Bool  // a look at a link on another loop is under way
	hasty     bool         // the peer's acknowledgements have stood behind its requests

	mu        sync.Mutex
	ring      replay.Ring // guarded by mu
	link      *link       // guarded by mu; nil: none
	ctl       []byte      // guarded by mu; system frames to be written in front of the ring's
	wish      bool        // guarded by mu; the session wants to be told when bytes are taken again
	need      int         // guarded by mu; bytes of the frame that was not taken last
	ctlOut    int         // guarded by mu; bytes of them that the link has taken and not written
	drainWish bool        // guarded by mu; the session wants to be told when nothing is left
	fin       bool        // guarded by mu; the FIN follows what is left
	ended     bool        // guarded by mu; Close has been called
	hold      bool        // guarded by mu; nothing is taken while there is no link
	loose     bool        // guarded by mu; what was sent may be forgotten although nobody has acknowledged it
	seen      kernelView  // guarded by mu; of a link on another loop
}

// kernelView is what the kernel was last seen to hold of a link on another loop.
type kernelView struct {
	unread, unacked int
	acks            netio.Acks
}

// endpoint is where a link comes from.
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
	aheadMost = 64 << 10 // bytes of the ring that a link has still to be written before no more are taken
	ctlMost   = 16 << 10 // bytes of system frames that wait
	ackFrames = 64       // that many frames are acknowledged at once,
	ackTime   = time.Second
)

// newLine makes the line of a new session, and the session.
func newLine(k *link) *line {
	ln := &line{srv: k.srv, home: k.loop, cur: k, link: k, token: replay.NewToken()}
	ln.s = &Session{srv: k.srv, loop: k.loop, conn: ln, accepted: k.accepted.UnixNano()}
	ln.s.rd.opened = true
	ln.ring.Init(k.srv.wholeFrame, k.loop.budget)
	ln.at.Store(endpointOf(k.c))
	return ln
}

// most is what the ring may hold of a session that is away, in bytes: unread answers count
// once, in the larger of the two limits.
func (srv *Server) mostKept() int { return max(srv.cfg.ResumeBytes, srv.cfg.MaxOutbound) }

// Write keeps frames and has them written. What it does not take comes again when the peer
// has acknowledged some of what is kept, or the kernel has taken it. While the peer is away
// everything is taken; but of a session with keyed pushes nothing, as they may be replaced
// where they are.
func (ln *line) Write(p []byte) (n int, err error) {
	hold := ln.cur == nil && !ln.s.closed() && ln.s.out.Keyed()
	ln.mu.Lock()
	ln.hold = hold
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

// takeFrame takes the frame at the start of p, or what there is of it, and returns how many
// bytes that is; 0: not now. mu is held.
func (ln *line) takeFrame(p []byte, first bool) int {
	r := &ln.ring
	if ln.ended {
		return len(p)
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
		case ln.link == nil: // due while nobody is there
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

// room tells whether the ring takes n bytes more. mu is held.
func (ln *line) room(n int) bool {
	r, most := &ln.ring, ln.srv.cfg.ResumeBytes
	switch {
	case ln.link == nil:
		return !ln.hold
	case r.Bytes() == 0:
		return true
	case r.Unsent() >= aheadMost:
		return false
	case r.Bytes()+n > most && ln.loose:
		r.Forget(max(most-n, 0))
	}
	return r.Bytes()+n <= most || r.Bytes() == 0
}

// starved tells whether more is sent only when the peer has acknowledged some.
func (ln *line) starved() bool {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return ln.link != nil && ln.wish && ln.ring.Unsent() == 0
}

// awaits tells whether what has been given to the link has gone, as far as is known: a link
// on another loop may still be about to write it. More goes when the peer has acknowledged
// some, or at the next turn.
func (ln *line) awaits() bool {
	return ln.cur != nil && (ln.cur.loop != ln.home || ln.unsent() == 0)
}

// takeWish tells whether the session, which waits for that, can be told that more is
// taken. mu is held.
func (ln *line) takeWish() bool {
	if !ln.wish || !ln.room(ln.need) || len(ln.ctl) >= ctlMost {
		return false
	}
	ln.wish = false
	return true
}

// kick has a link write what there is.
func (ln *line) kick(k *link) {
	switch {
	case k == nil:
	case k.loop == ln.home:
		k.pump()
	default:
		k.loop.onLoop(func(*loop) { k.pump() })
	}
}

// writable has the link go on that the kernel takes bytes of again. Any goroutine.
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

// NotifyWritable has the session told when more is taken.
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

// PauseReading stops reading from the link of the moment. Of a link on another loop it is not known whether that could be
// done.
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

// view is what the kernel holds of the link. That of a link on another loop is as old as
// the last call.
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
			ln.seen = v
			ln.mu.Unlock()
			ln.asked.Store(false)
		})
	}
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return ln.seen
}

// Unread is how many bytes the kernel holds for reading.
func (ln *line) Unread() int { return ln.view().unread }

// Unacked counts what has still to be written.
func (ln *line) Unacked() int { return ln.view().unacked + ln.unsent() }

// Acks tells what the kernel knows of the peer's acknowledgements.
func (ln *line) Acks() netio.Acks { return ln.view().acks }

// unsent is how many bytes the link has still to be written.
func (ln *line) unsent() int {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return ln.ring.Unsent() + len(ln.ctl) + ln.ctlOut
}

// kept is how many bytes the ring holds.
func (ln *line) kept() int {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	return ln.ring.Bytes()
}

// gone tells whether nobody is there.
func (ln *line) gone() bool { return ln != nil && ln.cur == nil }

// drained tells whether nothing is left to be written; if not, the session is looked at
// again when that is so.
func (ln *line) drained() bool {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	ln.drainWish = ln.link != nil && ln.ring.Unsent()+len(ln.ctl)+ln.ctlOut > 0
	return !ln.drainWish
}

// ReadRest has nothing: a link reads all there is before it ends.
func (ln *line) ReadRest(func([]byte)) bool { return true }

// Detach tells whether what is owed can still be sent: the link has seen to that.
func (ln *line) Detach() bool { return ln.cur != nil && ln.cur.fin }

// CloseWrite sends the FIN behind what is left.
func (ln *line) CloseWrite() {
	ln.mu.Lock()
	ln.fin = true
	k := ln.link
	ln.mu.Unlock()
	ln.kick(k)
}

// Abort makes Close a reset.
func (ln *line) Abort() {
	if k := ln.cur; k != nil {
		k.loop.run(ln.home, func() {
			if k.state == linkJoined {
				k.c.Abort()
			}
		})
	}
}

// Close ends the session's part: nothing finds it any more, and what was kept is gone.
func (ln *line) Close() {
	ln.forgetTokens()
	if ln.away != 0 {
		ln.away = 0
		ln.srv.waiting.Add(-1)
	}
	ln.mu.Lock()
	ln.ended, ln.link, ln.ctl = true, nil, nil
	ln.ring.Close()
	ln.mu.Unlock()
	if k := ln.cur; k != nil {
		ln.cur = nil
		k.loop.run(ln.home, k.close)
	}
}

// welcome queues a WELCOME, in front of all else. Home loop's goroutine; of a new session
// any.
func (ln *line) welcome(resumed bool, seq uint32) {
	token := ln.token
	if resumed {
		token = ln.next
	}
	body := ln.srv.framing.codec.AppendWelcome(nil, codec.Welcome{Resumed: resumed, Token: token, Received: ln.received})
	ln.ctl = ln.srv.encodeFrame(ln.ctl[:0], codec.Packet{Main: SystemMain, Sub: SubWelcome, Seq: seq, Body: body})
	ln.told = ln.received
}

// acknowledge tells the peer how many of its frames we have. Home loop's goroutine.
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

// toldEnd has the session hear of a link's end: of its peer's FIN, or that it has broken.
// Link's loop goroutine.
func (ln *line) toldEnd(k *link, fin bool) {
	ln.home.with(ln.s, k.loop, func() { ln.home.linkEnded(ln, k, fin) })
}
