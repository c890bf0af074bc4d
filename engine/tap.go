package engine

import (
	"time"

	"millrace/codec"
	"millrace/engine/internal/budget"
	"millrace/engine/internal/flight"
	"millrace/engine/internal/netio"
	"millrace/engine/internal/sched"
)

// Tap receives what sessions read and write, so that it can be recorded with bodies. The methods
// are called on the loops and delay all sessions of the loop: they must not block. Bytes are valid
// until a call returns. The calls for one session are in order: Opened first, Closed last.
type Tap interface {
	// Opened: s has a slot, and its OnSocketAccept has been queued.
	Opened(s *Session, at time.Time)
	// Read is called with complete frames, before they are handled. It does not include frames
	// refused because of their length, or cut off by the end of the connection, nor, for sessions
	// that can be resumed, ACK and BYE.
	Read(s *Session, at time.Time, frames []byte)
	// Wrote is called with bytes that the kernel has accepted, or that a session that can be
	// resumed keeps for its peer: frames, of which the first cut bytes are the rest of one whose
	// beginning came earlier; the last one may be incomplete.
	Wrote(s *Session, at time.Time, b []byte, cut int)
	// Closed: the descriptor is closed.
	Closed(s *Session, at time.Time, why Reason)
}

// tap is the connection of a session whose events are recorded: it wraps the session's connection,
// and holds the session's ring, so that sessions without a recording are no larger and need no
// checks.
type tap struct {
	netio.Conn // nil for a line, which refers to the tap
	s          *Session
	ring       flight.Ring
}

// tapCost is the memory of a tap, in bytes.
const tapCost = 512

// lookMost is how many of the frames read or written together are recorded one by one.
const lookMost = 4

// bare returns the connection wrapped by a tap.
func bare(c netio.Conn) netio.Conn {
	if t, ok := c.(*tap); ok {
		return t.Conn
	}
	return c
}

// door returns the session's connection if it is a door.
func (s *Session) door() (netio.Door, bool) {
	d, ok := bare(s.conn).(netio.Door)
	return d, ok
}

// addTap gives a new session a tap, unless memory is short.
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

// dropTap removes a session's tap from the count.
func (srv *Server) dropTap(s *Session) {
	if s.tap() != nil {
		srv.budget.Add(-tapCost)
	}
}

// tap returns the session's tap, or nil.
func (s *Session) tap() *tap {
	switch c := s.conn.(type) {
	case *tap:
		return c
	case *line:
		return c.tap
	}
	return nil
}

// note records an event, if the session has a tap. Any goroutine.
func (s *Session) note(k flight.Kind, a, b uint32) {
	if t := s.tap(); t != nil {
		t.ring.Add(s.srv.now(), k, a, b)
	}
}

// Write writes, and records what was written.
func (t *tap) Write(p []byte) (int, error) {
	n, err := t.Conn.Write(p)
	t.wrote(p, n)
	return n, err
}

// wrote records that n bytes of p have been written. Loop goroutine.
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

// splitFrom is the size from which on a completely accepted write may end within a frame.
const splitFrom = 64 << 10

// noteRead records complete frames that have been read, and a partial one. Loop goroutine.
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

// notePart records that n bytes of a still incomplete frame were read.
func (t *tap) notePart(n int) { t.ring.Sum(t.s.srv.now(), flight.Part, 0, uint32(n), 1) }

// alike is a run of frames of one handle, recorded as one event.
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

// frameAt returns the size of the frame at the start of b, 0 if unknown, its handle, and how many
// bytes of it are missing.
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

// wholeIn returns how many bytes at the start of b are complete frames.
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

// clock converts a time on the server's clock.
func (srv *Server) clock(now int64) time.Time { return srv.epoch.Add(time.Duration(now - 1)) }

// tapSink is a session with a tap as seen by the network.
type tapSink Session

// Received records input, and processes it.
func (k *tapSink) Received(b []byte) {
	s := (*Session)(k)
	switch {
	case s.rd.life != lifeOpen || s.rd.input == inputBad || s.closed():
	case s.rd.input == inputSteps:
		s.tap().notePart(len(b))
	case s.rd.partial.Some(): // complete records the completed frame
	default:
		s.loop.noteRead(s, b)
	}
	s.loop.received(s, b)
}

// HungUp is sink's.
func (k *tapSink) HungUp(broken bool) { (*sink)(k).HungUp(broken) }

// Closed is sink's.
func (k *tapSink) Closed(how netio.End) { (*sink)(k).Closed(how) }

// sink returns the session as the network must see it.
func (s *Session) sink() netio.Sink {
	if _, ok := s.conn.(*tap); ok {
		return (*tapSink)(s)
	}
	return (*sink)(s)
}

// behindSink returns the session of a sink; nil for none.
func behindSink(k netio.Sink) *Session {
	switch k := k.(type) {
	case *sink:
		return (*Session)(k)
	case *tapSink:
		return (*Session)(k)
	}
	return nil
}

// tapTask is a session with a tap as seen by the pool.
type tapTask Session

var _ sched.Owner = (*tapTask)(nil)

// Run is a worker's turn with the session, recorded.
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
func (t *tapTask) Blocks() bool                                { return (*strandTask)(t).Blocks() }

// owner returns the session as the pool must see it.
func (s *Session) owner() sched.Owner {
	if s.tap() != nil {
		return (*tapTask)(s)
	}
	return (*strandTask)(s)
}

// ownerSession returns the session of a task's owner; nil for none.
func ownerSession(o sched.Owner) *Session {
	switch o := o.(type) {
	case *strandTask:
		return (*Session)(o)
	case *tapTask:
		return (*Session)(o)
	}
	return nil
}
