package engine

import (
	"container/list"
	"sync/atomic"
	"time"

	"millrace/codec"
	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/inbox"
	"millrace/engine/internal/netio"
)

// link is one connection to a server whose sessions can be resumed: first it waits for the frame
// that says what it is, then it is the connection of a plain session, or for some time that of a
// line. Used on its loop's goroutine only, which may not be that of the line's session.
type link struct {
	srv      *Server
	loop     *loop
	c        netio.Conn
	fd       int
	place    int // index in loop.links plus 1; 0 if it is not in the list
	accepted time.Time
	state    linkState
	sink     netio.Sink // for a plain session
	line     *line

	since   int64         // when it was accepted, or later when it began to close
	partial inbox.Partial // of the first frame
	begun   int64         // when the first frame began
	queued  *list.Element // element of loop.silent, until its first frame arrives
	stash   []byte        // input after a HELLO whose session is looked up on another loop
	excess  int           // bytes discarded
	fin     bool          // the peer has sent a FIN; the descriptor is the engine's own duplicate

	blocked bool         // the kernel did not accept everything; wait for Writable
	ctl     []byte       // system frames being written, not counted and not kept
	finSent bool         // CloseWrite has been called
	paused  bool         // the session has paused reading
	crowded bool         // too much is queued for the session's loop
	mailbox atomic.Int64 // bytes queued for the session's loop
}

type linkState uint8

const (
	linkPending linkState = iota // waiting for its first frame
	linkJoining                  // its session is being looked up
	linkJoined                   // it belongs to a line
	linkPlain                    // it belongs to a session without resume
	linkClosing                  // waiting for the peer's FIN
	linkGone
)

var _ netio.Sink = (*link)(nil)

// resumeHost is a server with resume as seen by the network.
type resumeHost struct{ *host }

// Open accepts a connection, whose first frame says what it is.
func (h resumeHost) Open(t netio.Turner, c netio.Conn, fd int) (netio.Sink, netio.Refusal) {
	srv, l := (*Server)(h.host), t.(*loop)
	l.knowGoroutine()
	_, behind := c.(netio.Door)
	if why, ok := srv.mayAccept(c.RemoteAddr(), behind); !ok {
		return nil, srv.refuse(nil, why, "")
	}
	if srv.draining.Load() || fd >= int(srv.fdShed.Load()) || !l.roomForLink() {
		why := RefusedConns
		if refused, ok := srv.admit(fd, c.RemoteAddr()); !ok {
			why = refused
		} else {
			srv.leave(c.RemoteAddr())
		}
		return nil, srv.refuse(nil, why, "")
	}
	k := &link{srv: srv, loop: l, c: c, fd: fd, accepted: time.Now(), since: srv.now()}
	if d, ok := c.(netio.Door); ok {
		k.since = max(k.since-int64(time.Since(d.Since())), 1)
		k.accepted = d.Since()
	}
	srv.pending.Add(1)
	l.addLink(k)
	k.queued = l.silent.PushBack(k)
	return k, netio.Refusal{}
}

// Writable is called by the network when the socket is writable again.
func (h resumeHost) Writable(id uint64) {
	s := (*Server)(h.host).table.lookup(ID(id))
	switch {
	case s == nil:
	case s.line() != nil:
		s.line().writable()
	default:
		s.canWrite()
	}
}

// Received processes input.
func (k *link) Received(b []byte) {
	switch k.state {
	case linkPlain:
		k.sink.Received(b)
	case linkJoined:
		k.deliver(b)
	case linkPending:
		k.first(b)
	case linkJoining:
		k.keep(b)
	case linkClosing:
		if k.excess += len(b); k.excess > lingerExcess {
			k.close()
		}
	}
}

// HungUp is called at the connection's end while a callback blocks the loop. A session that can be
// resumed continues.
func (k *link) HungUp(broken bool) {
	if k.state == linkPlain {
		k.sink.HungUp(broken)
	}
}

// Closed is called at the connection's end.
func (k *link) Closed(how netio.End) {
	state := k.state
	switch state {
	case linkPlain:
		k.state = linkGone
		k.sink.Closed(how)
		return
	case linkJoined, linkJoining:
		if how == netio.EndHangup {
			// What is unread stays so: the session has no room for it, or it would be read. The
			// peer sends it again.
			how = netio.EndReset
		}
		if how == netio.EndFIN && k.c.Detach() {
			k.fin = true
			if k.blocked {
				_ = k.c.NotifyWritable(uint64(k.line.s.id))
			}
			if state == linkJoined {
				k.line.toldEnd(k, true)
			}
			return
		}
	}
	k.gone()
	if state == linkJoined {
		k.line.toldEnd(k, false)
	}
}

// gone removes the connection, whose descriptor is closed, from the loop.
func (k *link) gone() {
	k.passed()
	k.state = linkGone
	k.stash = nil
	k.loop.dropLink(k)
}

// passed ends the wait for the first frame.
func (k *link) passed() {
	if k.state == linkPending {
		k.srv.pending.Add(-1)
		k.loop.silent.Remove(k.queued)
		k.queued = nil
		k.partial.Drop(k.loop.budget)
	}
}

// close closes the descriptor.
func (k *link) close() {
	if k.state != linkGone {
		k.gone()
		k.c.Close()
	}
}

// finish sends the FIN, with that code for a WebSocket, and waits for the peer's: closing now could
// send a reset that destroys data in transit.
func (k *link) finish(code uint16) {
	if k.state >= linkClosing {
		return
	}
	k.passed()
	if d, ok := k.c.(netio.Door); ok {
		if rest := k.owed(d.Owed()); len(rest) > 0 {
			d.Finish(rest)
		}
		d.SetCloseCode(code)
	}
	k.state, k.since = linkClosing, k.srv.now()
	if k.fin || len(k.loop.links) > k.srv.cfg.MaxConns {
		k.close()
		return
	}
	k.loop.addLink(k)
	k.paused, k.crowded = false, false
	k.c.PauseReading(false)
	if !k.finSent {
		k.finSent = true
		k.c.CloseWrite()
	}
}

// turnAway refuses a connection.
func (k *link) turnAway(no netio.Refusal) {
	if len(no.Goodbye) > 0 {
		_, _ = k.c.Write(no.Goodbye) // the FIN follows in any case
	}
	k.finish(no.Code)
}

// first collects the first frame, and acts on it when it is complete.
func (k *link) first(b []byte) {
	c := k.srv.framing.codec
	var own *bufpool.Buf
	frame, rest := b, []byte(nil)
	if k.partial.Some() {
		whole, behind, err := k.partial.Add(c, b, k.loop.budget)
		if err != nil {
			k.badFrame(err)
			return
		} else if whole == nil {
			return
		}
		own, frame, rest = whole, whole.B, behind
	} else {
		size, missing, err := c.Frame(b)
		switch {
		case err != nil:
			k.badFrame(err)
			return
		case size == 0 || missing > 0:
			k.partial.Begin(b, k.loop.budget)
			k.begun = k.srv.now()
			return
		}
		frame, rest = b[:size:size], b[size:]
	}
	p := c.Packet(frame)
	h, ok := codec.Hello{}, false
	if p.Main == SystemMain && p.Sub == SubHello {
		h, ok = c.ParseHello(p.Body)
	}
	k.passed()
	switch {
	case !ok:
		k.plain(frame, rest)
	case h.Resume:
		k.join(h, p.Seq, rest)
	default:
		k.fresh(p.Seq, rest)
	}
	if own != nil {
		own.Free()
	}
}

func (k *link) badFrame(err error) {
	k.loop.sum.errors.Add(1)
	k.turnAway(netio.Refusal{Goodbye: k.srv.encodeError(codec.Packet{}, CodeBadFrame, frameFault(err)), Code: closeCode(ReasonBadFrame)})
}

// plain opens a session that ends with its connection.
func (k *link) plain(frame, rest []byte) {
	s := &Session{srv: k.srv, loop: k.loop, conn: k.c, accepted: k.accepted.UnixNano()}
	k.state, k.sink = linkPlain, (*sink)(s)
	k.loop.dropLink(k)
	no, ok := k.loop.open(s, k.fd)
	if !ok {
		k.state = linkJoining // reading has stopped; finish closes it
		k.turnAway(no)
		return
	}
	k.sink = s.sink()
	k.sink.Received(frame)
	if len(rest) > 0 && k.state == linkPlain {
		k.sink.Received(rest)
	}
}

// fresh opens a session that can be resumed.
func (k *link) fresh(seq uint32, rest []byte) {
	ln := newLine(k)
	k.state, k.line = linkJoined, ln
	k.loop.dropLink(k)
	ln.welcome(false, seq)
	k.srv.tokens.Put(ln.token, ln)
	no, ok := k.loop.open(ln.s, k.fd)
	if !ok {
		k.srv.tokens.Delete(ln.token)
		k.state, k.line = linkJoining, nil
		k.turnAway(no)
		return
	}
	k.pump()
	k.deliver(rest)
}

// join looks up the session of the token; meanwhile input is kept.
func (k *link) join(h codec.Hello, seq uint32, rest []byte) {
	ln, ok := k.srv.tokens.Find(h.Token)
	if !ok {
		if e := k.srv.otherServers(); e != nil && e.Lives(h.Token) {
			k.arrive(e, h, seq, rest)
			return
		}
		k.fresh(seq, rest)
		return
	}
	k.state = linkJoining
	k.keep(rest)
	k.attach(ln, h, seq, func() { k.follow(h, seq) })
}

// stashMost is how many bytes may follow a HELLO before its session was found.
const stashMost = 64 << 10

func (k *link) keep(b []byte) {
	k.stash = append(k.stash, b...)
	if len(k.stash) > stashMost && !k.crowded {
		k.crowded = true
		k.mask()
	}
}

// unstash returns and removes the kept input.
func (k *link) unstash() []byte {
	b := k.stash
	k.stash = nil
	if k.crowded {
		k.crowded = false
		k.mask()
	}
	return b
}

// strange opens a new session because the requested one can't be resumed.
func (k *link) strange(seq uint32) {
	if k.state == linkJoining {
		k.fresh(seq, k.unstash())
		k.ended()
	}
}

// joined is called when a line has taken the connection.
func (k *link) joined(ln *line) {
	if k.state != linkJoining {
		ln.toldEnd(k, false) // it has ended meanwhile
		return
	}
	k.state = linkJoined
	if ln.home == k.loop {
		k.loop.dropLink(k)
	}
	k.pump()
	k.deliver(k.unstash())
	k.ended()
}

// ended reports a FIN that arrived while the session was looked up.
func (k *link) ended() {
	if k.fin && k.state == linkJoined {
		k.line.toldEnd(k, true)
	}
}

// sweepLinks checks the timeouts of connections without a session, or with one of another loop.
func (l *loop) sweepLinks(now int64) {
	c, a := &l.srv.cfg, l.srv.adjusted.Load()
	for i := len(l.links) - 1; i >= 0; i-- { // a removed one is replaced by one already checked
		k := l.links[i]
		why := reasonNone
		switch {
		case k.state == linkClosing && past(now, k.since, c.Linger):
			k.close()
		case k.state != linkPending:
		case k.partial.Some() && past(now, k.begun, a.FrameTimeout):
			why = ReasonFrame
		case past(now, k.since, a.FirstFrameTimeout) && k.c.Unread() == 0:
			why = ReasonFirstFrame
		}
		if why != reasonNone {
			k.timedOut(why)
		}
	}
}

// timedOut refuses a connection that has no session yet.
func (k *link) timedOut(why Reason) {
	k.loop.sum.errors.Add(1)
	k.turnAway(netio.Refusal{Goodbye: k.srv.encodeError(codec.Packet{}, CodeTimeout, why.String()), Code: closeCode(why)})
}
