package live

import (
	"cmp"
	"fmt"
	"slices"

	"millrace/engine"
)

// mostHandles is the number of handles in a View.
const mostHandles = 16

// View is everything that is shown. Rates are per second, over the last ten seconds unless stated
// otherwise.
type View struct {
	Seq      uint64    `json:"seq"` // of the newest point; pass it as since the next time
	At       int64     `json:"at"`  // milliseconds of Unix time
	Ready    bool      `json:"ready"`
	Reasons  []string  `json:"reasons"`
	Draining bool      `json:"draining"`
	Findings []Finding `json:"findings"`
	History  []Point   `json:"history"` // the oldest first
	Loops    []Loop    `json:"loops"`
	Pool     Pool      `json:"pool"`
	Handles  []Run     `json:"handles"` // sorted by time used, largest first
	Others   int       `json:"others"`  // number of omitted handles
	Limits   []Use     `json:"limits"`  // the fullest first
	Closes   []Count   `json:"closes"`  // reasons that occurred
	Refused  []Count   `json:"refused"`
	Totals   []Value   `json:"totals"`
	Backs    []Behind  `json:"backs"`
	Costs    *Costs    `json:"costs,omitempty"` // of the last second; absent if accounting is off
	Events   []Event   `json:"events"`          // the oldest first
	EventSeq uint64    `json:"event_seq"`

	Goroutines int `json:"goroutines"`
	Waiting    int `json:"waiting"`  // sessions waiting to be resumed
	Starving   int `json:"starving"` // sessions paused for memory
}

// Loop is one loop.
type Loop struct {
	Loop     int     `json:"loop"`
	Sessions int     `json:"sessions"`
	Dirty    int     `json:"dirty"`  // sessions waiting to be written
	Outbox   int     `json:"outbox"` // bytes of broadcasts waiting
	Accepts  float64 `json:"accepts"`
	Frames   float64 `json:"frames"`
	Inline   float64 `json:"inline"` // frames handled on the loop
	BytesIn  float64 `json:"bytes_in"`
	BytesOut float64 `json:"bytes_out"`
	Writes   float64 `json:"writes"`
	Blocked  float64 `json:"blocked"` // writes not fully accepted by the kernel
	Pauses   float64 `json:"pauses"`
	HandOver float64 `json:"handover"`
}

// Pool is the worker pool.
type Pool struct {
	Workers  int     `json:"workers"`
	Idle     int     `json:"idle"`
	Blocked  int     `json:"blocked"`
	Sessions int     `json:"sessions"` // sessions waiting for a worker
	Queue    int     `json:"queue"`    // functions waiting for a worker
	Ran      float64 `json:"ran"`
	Refused  float64 `json:"refused"`
	Stalls   uint64  `json:"stalls"` // in all
	Spawned  uint64  `json:"spawned"`
}

// Run is one handle: its rates, and its times in milliseconds.
type Run struct {
	Handle   string  `json:"handle"`
	Requests float64 `json:"requests"`
	Errors   float64 `json:"errors"`
	P50      float64 `json:"p50"`
	P99      float64 `json:"p99"`
	Total    uint64  `json:"total"` // requests in all
	Busy     float64 `json:"busy"`  // CPUs used by its handler, estimated from the histogram's bounds
}

// Use is a limit and how much of it is used.
type Use struct {
	Flag  string `json:"flag"`
	Used  int64  `json:"used"`
	Max   int64  `json:"max"`
	Bytes bool   `json:"bytes"`
	Near  uint64 `json:"near"`
	Last  int64  `json:"last,omitempty"` // milliseconds of Unix time
	Who   string `json:"who,omitempty"`
}

// Count is how often something happened for a reason.
type Count struct {
	Reason string  `json:"reason"`
	Total  uint64  `json:"total"`
	Rate   float64 `json:"rate"`
	Fault  bool    `json:"fault"`
}

// Behind is a backend of the handlers.
type Behind struct {
	Name   string  `json:"name"`
	Down   string  `json:"down,omitempty"`
	Values []Value `json:"values"`
}

// View returns what is shown, with the points newer than number since and the events newer than
// eventsSince; 0 for all that are kept.
func (r *Recorder) View(since, eventsSince uint64) View {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := View{Seq: r.seq, Ready: true, Reasons: []string{}, Findings: append([]Finding{}, r.found...), EventSeq: r.log.seq, History: []Point{}, Events: []Event{},
		Loops: []Loop{}, Handles: []Run{}, Limits: []Use{}, Closes: []Count{}, Refused: []Count{}, Totals: []Value{}, Backs: []Behind{}}
	for _, p := range r.points {
		if p.Seq > since || since > r.seq { // since is from an earlier server
			v.History = append(v.History, p)
		}
	}
	for _, e := range r.log.list {
		if e.Seq > eventsSince || eventsSince > r.log.seq {
			v.Events = append(v.Events, e)
		}
	}
	if len(r.samples) > 0 {
		v.fill(span{&r.samples[0], r.newest()})
	}
	return v
}

func (v *View) fill(d span) {
	a, b := &d.a.Engine, &d.b.Engine
	v.At = d.b.At.UnixMilli()
	v.Ready, v.Reasons = len(d.b.Reasons) == 0, append(v.Reasons, d.b.Reasons...)
	v.Draining, v.Waiting, v.Starving, v.Goroutines = b.Draining, b.Waiting, b.Starving, d.b.Goroutines
	v.Loops = loops(d)
	v.Pool = Pool{
		Workers: b.Pool.Workers, Idle: b.Pool.Idle, Blocked: b.Pool.Blocked, Sessions: b.Pool.Sessions, Queue: b.Pool.Queue,
		Ran: d.rate(a.Pool.Ran, b.Pool.Ran), Refused: d.rate(a.Pool.Refused, b.Pool.Refused), Stalls: b.Pool.Stalls, Spawned: b.Pool.Spawned,
	}
	v.Handles, v.Others = handles(d)
	v.Limits = limits(d.b)
	v.Closes = counts(d, a.Closes, b.Closes, func(name string) bool { _, ok := faults[name]; return ok })
	v.Refused = counts(d, a.Refused, b.Refused, func(string) bool { return true })
	v.Totals = totals(d)
	v.Costs = d.b.Costs.view()
	v.Backs = []Behind{}
	for _, back := range d.b.Backs {
		values := append([]Value{}, back.Values...)
		for i := range values {
			if values[i].Total {
				values[i].Rate = d.of(values[i].Value - valueOf(d.a, back.Name, values[i].Name))
			}
		}
		v.Backs = append(v.Backs, Behind{back.Name, back.Down, values})
	}
}

// view returns c with empty lists instead of nil ones.
func (c *Costs) view() *Costs {
	if c == nil {
		return nil
	}
	out := *c
	for _, list := range []*[]Cost{&out.Sessions, &out.Handles, &out.Tags} {
		*list = append([]Cost{}, *list...)
	}
	return &out
}

func loops(d span) []Loop {
	out := make([]Loop, len(d.b.Engine.Loops))
	for i := range out {
		b := &d.b.Engine.Loops[i]
		a := &engine.LoopStats{}
		if i < len(d.a.Engine.Loops) {
			a = &d.a.Engine.Loops[i]
		}
		out[i] = Loop{
			Loop: i, Sessions: b.Conns, Dirty: b.Dirty, Outbox: b.Outbox, Accepts: d.rate(a.Accepts, b.Accepts),
			Frames: d.rate(a.FramesIn, b.FramesIn), Inline: d.rate(a.Inline, b.Inline),
			BytesIn: d.rate(a.BytesIn, b.BytesIn), BytesOut: d.rate(a.BytesOut, b.BytesOut),
			Writes: d.rate(a.Writes, b.Writes), Blocked: d.rate(a.Blocked, b.Blocked),
			Pauses: d.rate(a.Pauses, b.Pauses), HandOver: d.rate(a.HandOver, b.HandOver),
		}
	}
	return out
}

func handles(d span) (out []Run, others int) {
	out = []Run{}
	before := make(map[string]*Handle, len(d.a.Handles))
	for i := range d.a.Handles {
		before[d.a.Handles[i].Name] = &d.a.Handles[i]
	}
	for i := range d.b.Handles {
		b, a := &d.b.Handles[i], before[d.b.Handles[i].Name]
		if a == nil {
			a = &Handle{}
		}
		run := b.Run.since(a.Run)
		r := Run{
			Handle: b.Name, Requests: d.rate(a.Requests, b.Requests), Errors: d.rate(a.Errors, b.Errors), Total: b.Requests,
			P50: millis(run.quantile(0.5)), P99: millis(run.quantile(0.99)),
		}
		if n := run.count(); n > 0 { // the histogram may cover only a sample of the requests
			r.Busy = r.Requests * run.upper() / float64(n)
		}
		out = append(out, r)
	}
	slices.SortFunc(out, func(x, y Run) int {
		return cmp.Or(cmp.Compare(y.Busy, x.Busy), cmp.Compare(y.Requests, x.Requests), cmp.Compare(y.Total, x.Total), cmp.Compare(x.Handle, y.Handle))
	})
	if len(out) > mostHandles {
		others = len(out) - mostHandles
		out = out[:mostHandles]
	}
	return out, others
}

// upper returns an upper bound for the sum of all values of h, in seconds.
func (h Hist) upper() (s float64) {
	bound := 0.0
	for _, b := range h {
		if b.Le > maxSeconds {
			b.Le = 2 * bound
		}
		bound = b.Le
		s += bound * float64(b.N)
	}
	return s
}

func limits(s *Sample) []Use {
	out := []Use{}
	for _, l := range s.Limits {
		u := Use{Flag: l.Flag, Used: l.Used, Max: l.Max, Bytes: l.Bytes, Near: l.Near, Who: l.Who}
		if !l.Last.IsZero() {
			u.Last = l.Last.UnixMilli()
		}
		out = append(out, u)
	}
	slices.SortStableFunc(out, func(x, y Use) int { return cmp.Compare(y.part(), x.part()) })
	return out
}

func (u Use) part() float64 {
	if u.Max <= 0 {
		return 0
	}
	return float64(u.Used) / float64(u.Max)
}

func counts[K interface {
	comparable
	fmt.Stringer
}](d span, a, b map[K]uint64, fault func(string) bool) []Count {
	out := []Count{}
	for _, k := range sortedNames(b) {
		if n := b[k.key]; n > 0 {
			out = append(out, Count{k.name, n, d.rate(a[k.key], n), fault(k.name)})
		}
	}
	slices.SortStableFunc(out, func(x, y Count) int { return cmp.Or(cmp.Compare(y.Rate, x.Rate), cmp.Compare(y.Total, x.Total)) })
	return out
}

func totals(d span) []Value {
	a, b := &d.a.Engine, &d.b.Engine
	out := []Value{}
	for _, t := range []struct {
		name string
		a, b uint64
	}{
		{"accepted", a.Accepts, b.Accepts}, {"frames received", a.FramesIn, b.FramesIn}, {"broadcasts", a.Broadcasts, b.Broadcasts},
		{"ERROR frames sent", a.Errors, b.Errors}, {"panics", a.Panics, b.Panics}, {"sends refused as busy", a.Busy, b.Busy},
		{"sends to closed sessions", a.Stale, b.Stale}, {"strands that waited for clients", a.Parks, b.Parks},
		{"frames dropped at close", a.Dropped, b.Dropped}, {"bytes never sent", a.LostBytes, b.LostBytes},
		{"handles moved to workers", a.Demoted, b.Demoted}, {"closed for memory", a.Shed, b.Shed},
		{"connections broken, kept", a.Detached, b.Detached}, {"resumed", a.Resumed, b.Resumed},
		{"stalls on loops", a.Stalls, b.Stalls}, {"stalls on workers", a.Pool.Stalls, b.Pool.Stalls},
	} {
		out = append(out, Value{Name: t.name, Value: float64(t.b), Total: true, Rate: d.rate(t.a, t.b)})
	}
	return out
}
