package services

import (
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine"
)

// Next is the rest of a request: decoding, and the stages. It returns the result of the last stage
// that ran; nil also for a deferred answer.
type Next func(ctx *Context) error

// Middleware wraps every request of some handles. It may return an error of its own instead of
// calling next. It is not used for inline calls, delay events and Raw handles.
type Middleware func(next Next) Next

// use is one call of Use.
type use struct {
	first, last uint32
	middleware  []Middleware
}

// Use adds middleware to the services of the handles from first to last, inclusive, also to those
// registered later. The middleware given first is outermost.
func (c *Controller) Use(first, last uint32, m ...Middleware) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.uses = append(c.uses, use{first, last, m})
	for _, sv := range c.services.Load().all {
		sv.setMiddleware(c.uses)
	}
}

// UseAll is Use for every handle.
func (c *Controller) UseAll(m ...Middleware) { c.Use(0, math.MaxUint32, m...) }

func (r *registered[Req, Res]) setMiddleware(uses []use) {
	next := Next(func(ctx *Context) error { return ctx.self.run() })
	found := false
	for i := len(uses) - 1; i >= 0; i-- {
		u := uses[i]
		if r.info.handle < u.first || r.info.handle > u.last {
			continue
		}
		for j := len(u.middleware) - 1; j >= 0; j-- {
			next = u.middleware[j](next)
			found = true
		}
	}
	if found {
		r.chain.Store(&next)
	}
}

// Auth passes requests for which allowed returns true; others get ERROR unauthorised.
func Auth(allowed func(ctx *Context) bool) Middleware {
	return func(next Next) Next {
		return func(ctx *Context) error {
			if !allowed(ctx) {
				return &Error{Code: engine.CodeUnauthorised, Text: "unauthorised"}
			}
			return next(ctx)
		}
	}
}

// limiter is one rate limit, shared by all services it is used for.
type limiter struct {
	rate  float64 // requests per second
	burst float64
}

// bucket is a session's token bucket. Used in the session's order only.
type bucket struct {
	left float64
	at   time.Time
}

// RateLimit allows each session burst requests at once and perSecond on average, over all services
// it is used for; others get ERROR limit.
func RateLimit(perSecond float64, burst int) Middleware {
	l := &limiter{perSecond, float64(burst)}
	return func(next Next) Next {
		return func(ctx *Context) error {
			if !l.allow(ctx, time.Now()) {
				return &Error{Code: engine.CodeLimit, Text: "too many requests"}
			}
			return next(ctx)
		}
	}
}

func (l *limiter) allow(ctx *Context, now time.Time) bool {
	st := ctx.c.state(ctx.s, true)
	b := st.buckets[l]
	if b == nil {
		if st.buckets == nil {
			st.buckets = map[*limiter]*bucket{}
		}
		b = &bucket{left: l.burst, at: now}
		st.buckets[l] = b
	}
	b.left = min(l.burst, b.left+now.Sub(b.at).Seconds()*l.rate)
	b.at = now
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}

// Metrics counts requests per handle. Its zero value is ready.
type Metrics struct {
	handles atomic.Pointer[map[uint32]*handleMetrics] // copied on write, under mu
	mu      sync.Mutex
}

// handleMetrics are the counters of one handle. Loops use separate counters, so that they do not
// contend.
type handleMetrics struct {
	shards [meterShards]struct {
		requests, nanos atomic.Uint64
		_               [64 - 16]byte
	}
	errors [maxCode + 1]atomic.Uint64
}

const maxCode = int(engine.CodeLimit)

// HandleMetrics are the statistics of a handle.
type HandleMetrics struct {
	Requests uint64
	// Time is the total time of all requests until their stages returned. It does not include waits
	// for deferred answers.
	Time time.Duration
	// Errors counts the errors by code.
	Errors map[engine.ErrorCode]uint64
}

// Middleware counts the requests that pass it.
func (m *Metrics) Middleware() Middleware {
	return func(next Next) Next {
		return func(ctx *Context) error {
			start := time.Now()
			err := next(ctx)
			h := m.handle(ctx.Handle())
			sh := &h.shards[uint(ctx.s.Loop())%meterShards]
			sh.requests.Add(1)
			sh.nanos.Add(uint64(time.Since(start)))
			if err != nil && err != Answer && err != Stop {
				if code := int(ErrorOf(err).Code); code <= maxCode {
					h.errors[code].Add(1)
				}
			}
			return err
		}
	}
}

func (m *Metrics) handle(handle uint32) *handleMetrics {
	if h := m.all()[handle]; h != nil {
		return h
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.all()
	if old[handle] == nil {
		next := maps.Clone(old)
		if next == nil {
			next = map[uint32]*handleMetrics{}
		}
		next[handle] = &handleMetrics{} // only handles with a service are passed here
		m.handles.Store(&next)
	}
	return m.all()[handle]
}

// all returns the handles that were used. The map is not modified.
func (m *Metrics) all() map[uint32]*handleMetrics {
	if all := m.handles.Load(); all != nil {
		return *all
	}
	return nil
}

// Snapshot returns the counts of the handles that were used.
func (m *Metrics) Snapshot() map[uint32]HandleMetrics {
	all := map[uint32]HandleMetrics{}
	for handle, h := range m.all() {
		s := HandleMetrics{Errors: map[engine.ErrorCode]uint64{}}
		for i := range h.shards {
			s.Requests += h.shards[i].requests.Load()
			s.Time += time.Duration(h.shards[i].nanos.Load())
		}
		for code := range h.errors {
			if n := h.errors[code].Load(); n > 0 {
				s.Errors[engine.ErrorCode(code)] = n
			}
		}
		all[handle] = s
	}
	return all
}
