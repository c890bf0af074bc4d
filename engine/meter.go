package engine

import (
	"sync/atomic"
	"time"

	"millrace/engine/internal/bucket"
)

// meter has the measurements of a session that some settings need; without these settings sessions
// have no meter, and only a nil pointer is checked.
type meter struct {
	// Loop goroutine only.
	frames, bytes, cpu bucket.Bucket
	seenFrames         uint64 // part of Session.framesIn already taken from frames
	seenCPU            int64  // part of cost.spent already taken from cpu
	until              int64  // when reading paused for a rate is resumed
	slowed             bool   // on loop.slowed

	// On the strand only. wait is the state of its own queue.
	wait   standing // its own queue
	first  bool     // no request with a budget has run in this turn yet
	floor  int64    // requests read before this time count as read then
	parked bool     // it has waited for its peer to read, which does not count as waiting

	queued atomic.Int64 // since when it waits for a worker; 0 if it does not
	waited atomic.Int64 // nanoseconds waited before

	cost cost
}

// queues records that the strand waits for a worker from now on. Any goroutine, before it is
// queued.
func (m *meter) queues() {
	if m != nil && m.cost.costs.on {
		m.queued.Store(m.cost.srv.now())
	}
}

// waits returns how long the strand has waited for workers, including the current wait.
func (m *meter) waits(now int64) time.Duration {
	n := m.waited.Load()
	if at := m.queued.Load(); at != 0 {
		n += max(now-at, 0)
	}
	return time.Duration(n)
}

// newMeter returns a meter for a new session; nil if no setting needs one.
func (l *loop) newMeter() *meter {
	if !l.srv.cfg.metered() {
		return nil
	}
	m := &meter{}
	m.cost.init(l)
	return m
}

// turnBegins is called when the strand begins a turn on a worker.
func (s *Session) turnBegins() {
	m := s.meter()
	if m == nil {
		return
	}
	m.first = true
	if m.parked {
		m.parked, m.floor = false, s.srv.now()
	}
	if m.cost.costs.on {
		now := s.srv.now()
		if at := m.queued.Load(); at != 0 {
			m.waited.Add(now - at)
			m.queued.Store(0)
		}
		s.handle.Store(0)
		m.begin(now)
	}
}

// park ends a turn whose strand waits for its peer to read. On the strand.
func (m *meter) park() {
	if m != nil {
		m.parked = true
		m.end()
	}
}

// setHandle records whose packet is handled from now on; 0 for none. On the strand.
func (s *Session) setHandle(handle uint32) {
	s.handle.Store(handle)
	s.meter().turnTo(handle)
}

// Throttle is a cause of delaying a session, or of refusing its requests.
type Throttle uint8

const (
	ThrottleWait       Throttle = iota // WaitBudget and HandleWaits: requests that got ERROR 4
	ThrottleFrameRate                  // FrameRate: times reading was paused
	ThrottleByteRate                   // ByteRate: likewise
	ThrottleSessionCPU                 // SessionCPU: likewise
	throttleCount
)

var throttleNames = [throttleCount]string{"wait_budget", "frame_rate", "byte_rate", "session_cpu"}

func (t Throttle) String() string { return name(throttleNames[:], int(t)) }

// MarshalText makes Throttle usable as a key in JSON.
func (t Throttle) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

func (t *Throttle) UnmarshalText(b []byte) error { return parse((*uint8)(t), throttleNames[:], b) }
