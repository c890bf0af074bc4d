package admin

import (
	"cmp"
	"net/http"
	"slices"
	"strings"
	"time"

	"millrace/engine"
	"millrace/services/admin/live"
)

// Costs is the answer of /costs: what used the time of callbacks and writes to sockets in the last
// ?seconds=. Times are in seconds. Each list is sorted by time, largest first, and has at most
// ?limit= entries.
type Costs struct {
	Counted  bool          `json:"counted"` // false: accounting is off, and everything else is 0
	Seconds  float64       `json:"seconds"` // duration of the measurement
	Process  float64       `json:"process"` // CPU time of the whole process
	Busy     float64       `json:"busy"`    // of all callbacks and writes
	Closed   float64       `json:"closed"`  // part of Busy used by sessions that have closed
	Sessions []SessionCost `json:"sessions"`
	Handles  []HandleCost  `json:"handles"`
	Tags     []TagCost     `json:"tags"`
}

// SessionCost is the time used by one session.
type SessionCost struct {
	Session string  `json:"session"` // INDEX.ROUND
	Addr    string  `json:"addr"`    // empty if it has closed
	Tag     string  `json:"tag"`
	Seconds float64 `json:"seconds"`
}

// HandleCost is the time used by the requests of one handle: MAIN/SUB, "none" for time outside of
// requests, or "other" for requests to unknown handles.
type HandleCost struct {
	Handle  string  `json:"handle"`
	Seconds float64 `json:"seconds"`
}

// TagCost is the time used by the sessions with one tag.
type TagCost struct {
	Tag     string  `json:"tag"`
	Seconds float64 `json:"seconds"`
}

const (
	// noHandle is the time used outside of requests: other callbacks, functions submitted to
	// sessions, writes.
	noHandle = "none"
	maxTag   = 64 // most bytes shown of a tag
	topCosts = 10 // entries of each list of /live
)

// counted reports whether the server accounts what sessions cost.
func (d *Door) counted() bool {
	c := d.cfg.Server.Config()
	return c.Costs || c.SessionCPU > 0
}

// notCounted is the error when costs are requested and accounting is off.
const notCounted = "the costs of sessions are not accounted: start the server with --costs"

// handleOf names an account: MAIN/SUB, noHandle, or otherHandle for unknown handles and those
// beyond the limit.
func handleOf(c engine.HandleCost) string {
	switch {
	case c.Other:
		return otherHandle
	case c.Main == 0 && c.Sub == 0:
		return noHandle
	}
	return handleText(uint32(c.Main)<<16 | uint32(c.Sub))
}

// tagText returns a tag as text of limited length.
func tagText(tag string) string {
	if len(tag) > maxTag {
		tag = tag[:maxTag]
	}
	return strings.ToValidUTF8(tag, "\ufffd")
}

// addrOf returns the address of a session's peer; empty if it has closed.
func (d *Door) addrOf(id engine.ID) string {
	if s := d.cfg.Server.Session(id); s != nil {
		return s.RemoteAddr().String()
	}
	return ""
}

// costs is GET /costs: it takes two readings, ?seconds=1 apart.
func costs(r *request) (any, error) {
	limit, err := r.number("limit", topCosts)
	if err != nil {
		return nil, err
	}
	d, err := r.seconds(time.Second)
	if err != nil {
		return nil, err
	}
	out := Costs{Counted: r.d.counted(), Sessions: []SessionCost{}, Handles: []HandleCost{}, Tags: []TagCost{}}
	if !out.Counted {
		return out, nil
	}
	reader := r.d.cfg.Server.CostReader()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.Context().Done():
		return nil, &refusal{http.StatusServiceUnavailable, "the client disconnected"}
	}
	c := reader.Next(min(limit, r.d.cfg.MaxList))
	out.Seconds, out.Process, out.Busy, out.Closed = c.For.Seconds(), c.Process.Seconds(), c.Busy.Seconds(), c.Closed.Seconds()
	for _, x := range c.Sessions {
		out.Sessions = append(out.Sessions, SessionCost{x.ID.String(), r.d.addrOf(x.ID), tagText(x.Tag), x.Busy.Seconds()})
	}
	for _, x := range c.Handles {
		out.Handles = append(out.Handles, HandleCost{handleOf(x), x.Busy.Seconds()})
	}
	for _, x := range c.Tags {
		out.Tags = append(out.Tags, TagCost{tagText(x.Tag), x.Busy.Seconds()})
	}
	return out, nil
}

// costWatch reads the costs for /live while somebody watches. Used by the sampler's goroutine only.
type costWatch struct {
	reader *engine.CostReader // nil before the first use
}

// read returns what was used since the previous sample; nil if accounting is off.
func (w *costWatch) read(d *Door, watched bool) *live.Costs {
	switch {
	case !d.counted():
		return nil
	case !watched:
		w.reader = nil
		return &live.Costs{}
	case w.reader == nil:
		w.reader = d.cfg.Server.CostReader()
		return &live.Costs{}
	}
	c := w.reader.Next(topCosts)
	share := func(busy time.Duration) float64 { return 1000 * busy.Seconds() / max(c.For.Seconds(), 1e-3) }
	out := &live.Costs{Known: true, Process: share(c.Process), Busy: share(c.Busy), Closed: share(c.Closed)}
	for _, x := range c.Sessions {
		out.Sessions = append(out.Sessions, live.Cost{Name: x.ID.String(), Addr: d.addrOf(x.ID), Tag: tagText(x.Tag), Busy: share(x.Busy)})
	}
	for _, x := range c.Handles {
		out.Handles = append(out.Handles, live.Cost{Name: handleOf(x), Busy: share(x.Busy)})
	}
	for _, x := range c.Tags {
		out.Tags = append(out.Tags, live.Cost{Name: tagText(x.Tag), Busy: share(x.Busy)})
	}
	return out
}

// labels are the values of a label that have their own metrics: the first ones to appear, so that
// each counter only grows. Later values share one.
type labels struct {
	most int
	seen []string
}

// of returns the label for a name.
func (l *labels) of(name string) string {
	if !slices.Contains(l.seen, name) {
		if len(l.seen) >= l.most {
			return otherHandle
		}
		l.seen = append(l.seen, name)
	}
	return name
}

// costs writes the costs of handles and tags since the server started.
func (s sink) costs() {
	d := s.c.d
	if !d.counted() {
		return
	}
	c := d.cfg.Server.Costs()
	// In a fixed order, so that the choice among too many is deterministic.
	slices.SortFunc(c.Handles, func(a, b engine.HandleCost) int {
		return cmp.Or(cmp.Compare(a.Main, b.Main), cmp.Compare(a.Sub, b.Sub))
	})
	slices.SortFunc(c.Tags, func(a, b engine.TagCost) int { return cmp.Compare(a.Tag, b.Tag) })
	handles := map[string]time.Duration{noHandle: 0, otherHandle: 0}
	tags := map[string]time.Duration{otherHandle: 0}
	s.c.mu.Lock()
	known, _ := d.handleStats()
	for i, h := range known {
		if i < maxHandles-1 {
			handles[s.c.handles.of(handleText(h.Handle))] += 0
		}
	}
	for _, x := range c.Handles {
		switch name := handleOf(x); name {
		case noHandle, otherHandle:
			handles[name] += x.Busy
		default:
			handles[s.c.handles.of(name)] += x.Busy
		}
	}
	for _, x := range c.Tags {
		tags[s.c.tags.of(tagText(x.Tag))] += x.Busy
	}
	s.c.mu.Unlock()
	s.seconds("handle_busy_seconds_total", "handle", handles)
	s.seconds("tag_busy_seconds_total", "tag", tags)
}
