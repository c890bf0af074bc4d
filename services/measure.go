package services

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"millrace/engine"
	"millrace/internal/hist"
)

// HandleStats is what is known of one handle.
type HandleStats struct {
	Handle   uint32
	Name     string
	Blocking bool

	Requests uint64 // those that got ERROR limit for the answers they wait for are not in it
	Errors   map[engine.ErrorCode]uint64
	// Time is how long requests took, of the first ones and then of one in 64: until the
	// stages returned. An answer that comes later is not waited for.
	Time engine.Histogram
}

// HandleStats tells of every handle that peers can ask for, ascending. Without
// ControllerConfig.Measure nothing has been counted.
func (c *Controller) HandleStats() []HandleStats {
	var all []HandleStats
	for h, sv := range c.services.Load().all {
		i := sv.meta()
		if i.internal {
			continue
		}
		st := HandleStats{Handle: h, Name: i.name, Blocking: i.blocking, Errors: map[engine.ErrorCode]uint64{}}
		i.meter.read(&st)
		all = append(all, st)
	}
	slices.SortFunc(all, func(a, b HandleStats) int { return cmp.Compare(a.Handle, b.Handle) })
	return all
}

const (
	meterShards = 8  // loops that count apart, so that they don't wait for each other's cache lines
	timedFirst  = 64 // requests of a shard that are timed, all of them
	timedEvery  = 64 // and later one in so many
)

// meter counts one handle's requests.
type meter struct {
	shards [meterShards]struct {
		requests atomic.Uint64
		_        [56]byte
	}
	errors [maxCode + 1]atomic.Uint64
	took   hist.Histogram
}

// timing is a request that is timed; its zero value one that is not.
type timing struct {
	m     *meter
	began time.Time
}

// count counts a request of s, which begins, and says whether it is timed.
func (m *meter) count(s *engine.Session) timing {
	n := m.shards[uint(s.Loop())%meterShards].requests.Add(1)
	if n > timedFirst && n%timedEvery != 0 {
		return timing{}
	}
	return timing{m, time.Now()}
}

func (t timing) end() {
	if t.m != nil {
		t.m.took.Observe(time.Since(t.began))
	}
}

// failed counts an ERROR; m may be nil.
func (m *meter) failed(code engine.ErrorCode) {
	if m != nil && int(code) <= maxCode {
		m.errors[code].Add(1)
	}
}

// read fills in what m, which may be nil, has counted.
func (m *meter) read(st *HandleStats) {
	if m == nil {
		return
	}
	st.Time = m.took.Snapshot() // first: its count is no more than Requests
	for i := range m.shards {
		st.Requests += m.shards[i].requests.Load()
	}
	for code := range m.errors {
		if n := m.errors[code].Load(); n > 0 {
			st.Errors[engine.ErrorCode(code)] = n
		}
	}
}
