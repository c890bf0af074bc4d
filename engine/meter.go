package engine

import (
	"sync/atomic"
	"time"

	"millrace/engine/internal/bucket"
)

// meter is what is counted of one session where a setting asks for it: who has none of
// those settings has no meters, and pays one look at a nil pointer.
type meter struct {
	// Loop goroutine only.
	frames, bytes, cpu bucket.Bucket
	seenFrames         uint64 // of Session.framesIn, taken from frames
	seenCPU            int64  // of cost.spent, taken from cpu
	until              int64  // when reading goes on that a rate has paused
	slowed             bool   // on loop.slowed

	// Strand only.
	wait   standing // its own queue
	first  bool     // no request with a budget has run in this turn
	floor  int64    // requests that were read before count as read then
	parked bool     // it has waited since for its peer to read: requests may take their time

	queued atomic.Int64 // since when it has waited for a worker; 0: it does not
	waited atomic.Int64 // nanoseconds that it waited before

	cost cost
}

// queues notes that the strand waits for a worker from now on. Any goroutine, before it does.
func (m *meter) queues() {
	if m != nil && m.cost.costs.on {
		m.queued.Store(m.cost.srv.now())
	}
}

// waits is how long the strand has waited for workers, with how long it does now.
func (m *meter) waits(now int64) time.Duration {
	n := m.waited.Load()
	if at := m.queued.Load(); at != 0 {
		n += max(now-at, 0)
	}
	return time.Duration(n)
}

// newMeter is a new session's; nil: nothing asks for one.
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
	m := s.meter
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

// park ends a turn whose strand waits for its peer to read. Strand.
func (m *meter) park() {
	if m != nil {
		m.parked = true
		m.end()
	}
}

// setHandle notes whose packet is handled from now on; 0: none's. Strand.
func (s *Session) setHandle(handle uint32) {
	s.handle.Store(handle)
	s.meter.turnTo(handle)
}

// Throttle is what has held a session up, or refused a request of its.
type Throttle uint8

const (
	ThrottleWait       Throttle = iota // WaitBudget and HandleWaits: requests that got ERROR 4
	ThrottleFrameRate                  // FrameRate: times reading was paused
	ThrottleByteRate                   // ByteRate: the same
	ThrottleSessionCPU                 // SessionCPU: the same
	throttleCount
)

var throttleNames = [throttleCount]string{"wait_budget", "frame_rate", "byte_rate", "session_cpu"}

func (t Throttle) String() string { return name(throttleNames[:], int(t)) }

// MarshalText makes Throttle usable as a key in JSON.
func (t Throttle) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

func (t *Throttle) UnmarshalText(b []byte) error { return parse((*uint8)(t), throttleNames[:], b) }
