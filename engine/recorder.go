package engine

import (
	"net"
	"sync"
	"time"

	"millrace/engine/internal/flight"
	"millrace/engine/internal/sched"
	"millrace/engine/internal/strand"
)

// Recorder says whether the last events of each session are recorded, and which recordings are
// kept.
type Recorder uint8

const (
	// RecorderOff records nothing. It is the default.
	RecorderOff Recorder = iota
	// RecorderErrors records the last events of every session, and keeps the recordings of sessions
	// that end with an error: for any reason except the peer's FIN, the server's own close, a
	// drain, IdleTimeout, or a reset without pending answers.
	RecorderErrors
	// RecorderOn keeps the recordings of all sessions that end.
	RecorderOn
)

var recorderNames = []string{"off", "errors", "on"}

func (r Recorder) String() string { return name(recorderNames, int(r)) }

// MarshalText and UnmarshalText make Recorder usable as a flag.
func (r Recorder) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

func (r *Recorder) UnmarshalText(b []byte) error { return parse((*uint8)(r), recorderNames, b) }

// flights are the kept recordings.
type flights struct {
	mu   sync.Mutex
	list []keptFlight // guarded by mu; of RecorderKeep, made with the first
	n    uint64       // guarded by mu; number kept so far
}

// keptFlight is a kept recording. It copies the data of its session, so that the session need not
// be read.
type keptFlight struct {
	id        ID
	remote    net.Addr
	transport string
	accepted  int64 // unix nanoseconds
	why       string
	reason    Reason
	at        int64 // on the server's clock
	ended     bool  // the session has ended
	events    flight.Saved
}

// flightCost is the approximate memory of a kept recording, in bytes.
const flightCost = 640

// save copies a session's events.
func (k *keptFlight) save(s *Session, why string) {
	*k = keptFlight{
		id: s.id, remote: s.RemoteAddr(), transport: s.Transport(), accepted: s.accepted, why: why,
		reason: Reason(s.closing.Load()), at: s.srv.now(),
	}
	s.tap().ring.Save(&k.events)
}

// keep keeps the recording of a session with a tap. ended: the session has ended.
func (srv *Server) keep(s *Session, why string, ended bool) {
	f := &srv.flights
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.list == nil {
		f.list = make([]keptFlight, srv.cfg.RecorderKeep)
	}
	k := &f.list[f.n%uint64(len(f.list))]
	k.save(s, why)
	k.ended = ended
	f.n++
}

// update replaces a recording that was kept when its session began to close by the complete one;
// false if there was none.
func (srv *Server) update(s *Session) bool {
	f := &srv.flights
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.list {
		if k := &f.list[i]; k.id == s.id && k.reason != reasonNone {
			k.save(s, k.why)
			k.ended = true
			return true
		}
	}
	return false
}

// tapOpened records a new session, which other goroutines don't know yet. Loop goroutine.
func (s *Session) tapOpened() {
	if t := s.tap(); t != nil {
		now := s.srv.now()
		t.ring.Add(now, flight.Open, 0, 0)
		if show := s.srv.cfg.Tap; show != nil {
			show.Opened(s, s.srv.clock(now))
		}
	}
}

// tapClosed records that a session's descriptor is closed. Loop goroutine.
func (s *Session) tapClosed() {
	if t := s.tap(); t != nil {
		now := s.srv.now()
		t.ring.Add(now, flight.Gone, 0, 0)
		if show := s.srv.cfg.Tap; show != nil {
			why := Reason(s.closing.Load())
			if why == reasonNone {
				why = ReasonPeerClosed // the strand has not processed it yet
			}
			show.Closed(s, s.srv.clock(now), why)
		}
	}
}

// noteClose records that a session begins to close, and keeps its recording if it ends with an
// error.
func (s *Session) noteClose(why Reason) {
	if s.tap() == nil {
		return
	}
	s.note(flight.Close, uint32(why), 0)
	if s.srv.cfg.Recorder != RecorderOff && s.endsBadly(why) {
		s.srv.keep(s, why.String(), false)
		s.tellFlight(why.String())
	}
}

// endsBadly reports whether a session ends with an error.
func (s *Session) endsBadly(why Reason) bool {
	switch why {
	case ReasonPeerClosed, ReasonServerClosed, ReasonDrain, ReasonIdle:
		return false
	case ReasonPeerReset:
		return s.in.State() != strand.Idle || s.held.Load() > 0 || s.out.Size() > 0
	}
	return true
}

// noteEnd completes the recording of a session that has ended.
func (srv *Server) noteEnd(s *Session) {
	if s.tap() == nil {
		return
	}
	srv.budget.Add(-tapCost)
	if !srv.update(s) && srv.cfg.Recorder == RecorderOn {
		srv.keep(s, Reason(s.closing.Load()).String(), true)
	}
}

// noteQueued records that a session waits for a worker.
func (s *Session) noteQueued() {
	if t := s.tap(); t != nil {
		t.ring.Queue(s.srv.now())
	}
}

// noteWhole records a frame that arrived in pieces, and what followed it. Loop goroutine.
func (l *loop) noteWhole(s *Session, frame, rest []byte) {
	if isNear(len(frame), l.srv.cfg.MaxFrame) {
		l.srv.near(LimitFrame, s, len(frame), l.srv.cfg.MaxFrame)
	}
	if l.srv.taps {
		l.noteRead(s, frame)
		l.noteRead(s, rest)
	}
}

// stalls records that a callback of the session, which has taken d, blocks its goroutine.
func (s *Session) stalls(d time.Duration) {
	t := s.tap()
	if t == nil {
		return
	}
	t.ring.Add(s.srv.now(), flight.Stall, s.handle.Load(), uint32(min(d.Milliseconds(), maxUint32)))
	if s.srv.cfg.Recorder != RecorderOff {
		s.srv.keep(s, "stall", false)
		s.tellFlight("stall")
	}
}

// stalled keeps the report of the stall.
func (s *Session) stalled(st sched.Stall) { s.srv.stallLog.add(Stall(st)) }

// Stalls and Stalled make a session's task a sched.Staller.
func (t *strandTask) Stalls(d time.Duration) { (*Session)(t).stalls(d) }
func (t *strandTask) Stalled(st sched.Stall) { (*Session)(t).stalled(st) }

// Blocks makes it a sched.Blocker: it tells whether the packet that is handled has a handle that
// was declared to block.
func (t *strandTask) Blocks() bool {
	h := t.handle.Load()
	return h != 0 && t.srv.handles.table.Ordered(h)
}

// tellFlight calls Config.OnFlight.
func (s *Session) tellFlight(why string) {
	hook := s.srv.cfg.OnFlight
	if hook == nil {
		return
	}
	f := s.Flight()
	f.Why = why
	s.srv.hooks.call("OnFlight", s.id, func() { hook(f) })
}
