package engine

import (
	"time"

	"millrace/codec"
	"millrace/engine/internal/budget"
	"millrace/engine/internal/flight"
	"millrace/engine/internal/netio"
	"millrace/engine/internal/sched"
)

// Tap is shown what sessions read and write, so that it can be kept with its bodies. The
// methods are called on the loops, each of which a call holds up with all its sessions: they
// must not block. Bytes are valid until a call returns. One session's calls come in order:
// Opened first, Closed last.
type Tap interface {
	// Opened: s has a slot, and its OnSocketAccept is on its way.
	Opened(s *Session, at time.Time)
	// Read brings whole frames, before they are handled. A frame that is refused for its
	// length, or cut by the end of the connection, is none. Of sessions that can be resumed
	// ACK and BYE are not in it.
	Read(s *Session, at time.Time, frames []byte)
	// Wrote brings what the kernel has taken, or a session that can be resumed keeps for its
	// peer: frames, the first cut bytes being the rest of one of which the beginning came
	// before; the last one's rest may be still to come.
	Wrote(s *Session, at time.Time, b []byte, cut int)
	// Closed: the descriptor is closed.
	Closed(s *Session, at time.Time, why Reason)
}

// tap is the connection of a session whose events are noted: it stands between the session
// and its connection, and has the session's ring, so that sessions without one are no larger
// and are spared the looks.
type tap struct {
	netio.Conn // nil where it is a line's, which has a reference to it
	s          *Session
	ring       flight.Ring
}

// tapCost is what a tap takes, in bytes.
const tapCost = 512

// lookMost is how many frames of what is read or written together are looked at one by one.
const lookMost = 4

// bare is the connection below a tap.
func bare(c netio.Conn) netio.Conn {
	if t, ok := c.(*tap); ok {
		return t.Conn
	}
	return c
}

// door is the session's connection where that is a door.
func (s *Session) door() (netio.Door, bool) {
	d, ok := bare(s.conn).(netio.Door)
	return d, ok
}

// addTap gives a new session its tap, unless memory is short.
func (srv *Server) addTap(s *Session) {
	if !srv.taps || srv.budget.Level() != budget.Free {
		return
	}
	t := &tap{s: s}
	if ln := s.line(); ln != nil {
		ln.tap = t
	} else {
		t.Conn = s.conn
		s.conn = t
	}
	srv.budget.Add(tapCost)
}

// dropTap counts a session's tap no longer.
func (srv *Server) dropTap(s *Session) {
	if s.tap() != nil {
		srv.budget.Add(-tapCost)
	}
}

// tap is the session's; nil: it has none.
func (s *Session) tap() *tap {
	switch c := s.conn.(type) {
	case *tap:
		return c
	case *line:
		return c.tap
	}
	return nil
}

// note notes an event, if the session's are noted. Any goroutine.
func (s *Session) note(k flight.Kind, a, b uint32) {
	if t := s.tap(); t != nil {
		t.ring.Add(s.srv.now(), k, a, b)
	}
}

// Write writes, and notes what.
func (t *tap) Write(p []byte) (int, error) {
	n, err := t.Conn.Write(p)
	t.wrote(p, n)
	return n, err
}

// wrote notes that n of the bytes of p have been written. Loop goroutine.
func (t *tap) wrote(p []byte, n int) {
	s, r := t.s, &t.ring
	now := s.loop.noted
	if now == 0 {
		now = s.srv.now()
	}
	at := int(r.Cut)
	if show := s.srv.cfg.Tap; show != nil && n > 0 {
		show.Wrote(s, s.srv.clock(now), p[:n], min(at, n))
	}
	f := s.written()
	out := alike{r: r, now: now, kind: flight.Out}
	for looked := 0; at < n; looked++ {
		if looked == lookMost {
			out.end()
			r.Sum(now, flight.OutMore, 0, uint32(n-at), 1)
		}
		if looked >= lookMost && n == len(p) && n < splitFrom {
			at = n
			break
		}
		size, handle, _ := frameAt(f, p[at:])
		switch {
		case size == 0:
			size = n - at
			if looked < lookMost {
				out.end()
				r.Sum(now, flight.OutMore, 0, uint32(size), 1)
			}
		case looked < lookMost:
			out.add(handle, size)
		}
		at += size
	}
	out.end()
	r.Cut = uint32(at - n)
	if n < len(p) {
		r.Add(now, flight.Block, 0, uint32(len(p)-n))
	}
}

// splitFrom is from how many bytes on a write that is taken whole may end within a frame.
const splitFrom = 64 << 10

// noteRead notes whole frames that have been read, and the beginning of one. Loop goroutine.
func (l *loop) noteRead(s *Session, b []byte) {
	t := s.tap()
	if t == nil || len(b) == 0 {
		return
	}
	f, now := s.framing.Load(), l.srv.now()
	if show := l.srv.cfg.Tap; show != nil {
		if whole := wholeIn(f.codec, b); whole > 0 {
			show.Read(s, l.srv.clock(now), b[:whole])
		}
	}
	in, at, rest := alike{r: &t.ring, now: now, kind: flight.In}, 0, flight.Part
	for looked := 0; at < len(b); looked++ {
		if looked == lookMost {
			rest = flight.InMore
			break
		}
		size, handle, missing := frameAt(f, b[at:])
		if size == 0 || missing > 0 {
			break
		}
		in.add(handle, size)
		at += size
	}
	in.end()
	if at < len(b) {
		t.ring.Sum(now, rest, 0, uint32(len(b)-at), 1)
	}
}

// notePart notes that n bytes of a frame were read, which is not whole yet.
func (t *tap) notePart(n int) { t.ring.Sum(t.s.srv.now(), flight.Part, 0, uint32(n), 1) }

// alike is a run of frames of one handle, which is one event.
type alike struct {
	r      *flight.Ring
	now    int64
	kind   flight.Kind
	handle uint32
	bytes  int
	count  int
}

func (a *alike) add(handle uint32, size int) {
	if a.count > 0 && a.handle != handle {
		a.end()
	}
	a.handle = handle
	a.bytes += size
	a.count++
}

func (a *alike) end() {
	if a.count > 0 {
		a.r.Sum(a.now, a.kind, a.handle, uint32(a.bytes), a.count)
		a.bytes, a.count = 0, 0
	}
}

// frameAt is the frame at the start of b: its size, 0 if that can't be told, its handle, and
// how many bytes of it are missing.
func frameAt(f *framing, b []byte) (size int, handle uint32, missing int) {
	c := f.codec
	p, size, missing, err := c.Decode(b)
	if err == nil && missing == 0 {
		return size, p.Handle(), 0
	}
	if err == nil {
		size, missing, err = c.Frame(b)
	} else { // the engine's own frames may be larger than a small MaxFrame
		c = f.brief
		size, missing, err = c.Frame(b)
	}
	switch {
	case err != nil || size == 0:
		return 0, 0, 0
	case missing > 0 && (c.Searches() || len(b) < c.Overhead()):
		return size, 0, missing
	}
	return size, c.Packet(b[:min(size, len(b))]).Handle(), missing
}

// wholeIn is how many bytes at the start of b are whole frames.
func wholeIn(c *codec.Codec, b []byte) (whole int) {
	for whole < len(b) {
		size, missing, err := c.Frame(b[whole:])
		if err != nil || size == 0 || missing > 0 {
			break
		}
		whole += size
	}
	return whole
}

// clock is the time on the server's clock as the world's.
func (srv *Server) clock(now int64) time.Time { return srv.epoch.Add(time.Duration(now - 1)) }

// tapSink is a session with a tap as the network sees it.
type tapSink Session

// Received notes what has just been read, and takes it.
func (k *tapSink) Received(b []byte) {
	s := (*Session)(k)
	switch {
	case s.rd.life != lifeOpen || s.rd.input == inputBad || s.closed():
	case s.rd.input == inputSteps:
		s.tap().notePart(len(b))
	case s.rd.partial.Some(): // complete knows what it makes whole
	default:
		s.loop.noteRead(s, b)
	}
	s.loop.received(s, b)
}

// HungUp is sink's.
func (k *tapSink) HungUp(broken bool) { (*sink)(k).HungUp(broken) }

// Closed is sink's.
func (k *tapSink) Closed(how netio.End) { (*sink)(k).Closed(how) }

// sink is the session as the network is to see it.
func (s *Session) sink() netio.Sink {
	if _, ok := s.conn.(*tap); ok {
		return (*tapSink)(s)
	}
	return (*sink)(s)
}

// behindSink is the session behind a sink; nil: it is none's.
func behindSink(k netio.Sink) *Session {
	switch k := k.(type) {
	case *sink:
		return (*Session)(k)
	case *tapSink:
		return (*Session)(k)
	}
	return nil
}

// tapTask is a session with a tap as the pool sees it.
type tapTask Session

var _ sched.Owner = (*tapTask)(nil)

// Run is a worker's turn with the session, noted.
func (t *tapTask) Run() {
	s := (*Session)(t)
	r := &s.tap().ring
	turn := r.Begin(s.srv.now())
	defer func() { r.End(turn, s.srv.now()) }() // also after a runtime.Goexit
	(*strandTask)(t).Run()
}

func (t *tapTask) Step() uint32                                { return (*strandTask)(t).Step() }
func (t *tapTask) Long()                                       { (*strandTask)(t).Long() }
func (t *tapTask) Running() (session string, main, sub uint16) { return (*strandTask)(t).Running() }
func (t *tapTask) Stalls(d time.Duration)                      { (*strandTask)(t).Stalls(d) }
func (t *tapTask) Stalled(st sched.Stall)                      { (*strandTask)(t).Stalled(st) }

// owner is the session as the pool is to see it.
func (s *Session) owner() sched.Owner {
	if s.tap() != nil {
		return (*tapTask)(s)
	}
	return (*strandTask)(s)
}

// ownerSession is the session behind a task's owner; nil: it is none's.
func ownerSession(o sched.Owner) *Session {
	switch o := o.(type) {
	case *strandTask:
		return (*Session)(o)
	case *tapTask:
		return (*Session)(o)
	}
	return nil
}
