package services

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"millrace/engine"
	"millrace/internal/hist"
)

// HandleStats are the statistics of one handle.
type HandleStats struct {
	Handle   uint32
	Name     string
	Blocking bool

	Requests uint64 // without those refused with ERROR limit because of pending answers
	Errors   map[engine.ErrorCode]uint64
	// Time is the time until the stages of a request returned, for the first requests and then for
	// one in 64. It does not include the wait for a deferred answer.
	Time engine.Histogram
}

// HandleStats returns the statistics of every handle that peers can use, ascending. Without
// ControllerConfig.Measure they are zero.
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
	meterShards = 8  // separate counters, so that loops don't contend for cache lines
	timedFirst  = 64 // number of first requests of a shard, all of which are timed
	timedEvery  = 64 // afterwards one in timedEvery is timed
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

// timing is the measurement of a request; the zero value means not timed.
type timing struct {
	m     *meter
	began time.Time
}

// count counts a request of s, and starts its measurement if it is in the sample.
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

// read adds the counts of m, which may be nil, to st.
func (m *meter) read(st *HandleStats) {
	if m == nil {
		return
	}
	st.Time = m.took.Snapshot() // first, so that its count is at most Requests
	for i := range m.shards {
		st.Requests += m.shards[i].requests.Load()
	}
	for code := range m.errors {
		if n := m.errors[code].Load(); n > 0 {
			st.Errors[engine.ErrorCode(code)] = n
		}
	}
}
