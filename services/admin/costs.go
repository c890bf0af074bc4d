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

// Costs is /costs: who took the time of callbacks and writes to sockets, in the last ?seconds=.
// Times are in seconds. Each list has those that took most first, and ?limit= at most.
type Costs struct {
	Counted  bool          `json:"counted"` // false: nobody keeps account, and all else is 0
	Seconds  float64       `json:"seconds"` // how long it was looked at
	Process  float64       `json:"process"` // CPU time of the whole process
	Busy     float64       `json:"busy"`    // of all callbacks and writes
	Closed   float64       `json:"closed"`  // of it that of sessions that have closed
	Sessions []SessionCost `json:"sessions"`
	Handles  []HandleCost  `json:"handles"`
	Tags     []TagCost     `json:"tags"`
}

// SessionCost is what one session took.
type SessionCost struct {
	Session string  `json:"session"` // INDEX.ROUND
	Addr    string  `json:"addr"`    // empty: it has gone
	Tag     string  `json:"tag"`
	Seconds float64 `json:"seconds"`
}

// HandleCost is what the requests of one handle took; see handleOf.
type HandleCost struct {
	Handle  string  `json:"handle"`
	Seconds float64 `json:"seconds"`
}

// TagCost is what the sessions with one tag took.
type TagCost struct {
	Tag     string  `json:"tag"`
	Seconds float64 `json:"seconds"`
}

const (
	// noHandle is what no request took: other callbacks, functions given to sessions, writes.
	noHandle = "none"
	maxTag   = 64 // bytes of a tag that are shown
	topCosts = 10 // entries of each list of /live
)

// counted tells whether the server keeps account of what sessions cost.
func (d *Door) counted() bool {
	c := d.cfg.Server.Config()
	return c.Costs || c.SessionCPU > 0
}

// notCounted is what is said where cost is asked for and nobody keeps account.
const notCounted = "nobody counts what sessions cost: start the server with --costs"

// handleOf names an account: MAIN/SUB, noHandle, or otherHandle for those together that are
// no handles, or too many.
func handleOf(c engine.HandleCost) string {
	switch {
	case c.Other:
		return otherHandle
	case c.Main == 0 && c.Sub == 0:
		return noHandle
	}
	return handleText(uint32(c.Main)<<16 | uint32(c.Sub))
}

// tagText is a tag as text of a bounded length.
func tagText(tag string) string {
	if len(tag) > maxTag {
		tag = tag[:maxTag]
	}
	return strings.ToValidUTF8(tag, "\ufffd")
}

// addrOf is where a session's peer is; empty: it has gone.
func (d *Door) addrOf(id engine.ID) string {
	if s := d.cfg.Server.Session(id); s != nil {
		return s.RemoteAddr().String()
	}
	return ""
}

// costs is GET /costs: it looks twice, ?seconds=1 apart.
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
		return nil, &refusal{http.StatusServiceUnavailable, "the client left"}
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

// costWatch reads the costs for /live while somebody watches. The sampler's goroutine only.
type costWatch struct {
	reader *engine.CostReader // nil: nobody has watched
}

// read is what was spent since the sample before; nil: nobody keeps account.
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

// labels are the values of a label that have metrics of their own: the first that come, so
// that a counter only grows. What comes later is one with the others.
type labels struct {
	most int
	seen []string
}

// of is the label for a name.
func (l *labels) of(name string) string {
	if !slices.Contains(l.seen, name) {
		if len(l.seen) >= l.most {
			return otherHandle
		}
		l.seen = append(l.seen, name)
	}
	return name
}

// costs puts what handles and tags have cost since the server began.
func (s sink) costs() {
	d := s.c.d
	if !d.counted() {
		return
	}
	c := d.cfg.Server.Costs()
	// In an order of their own, so that it is not chance which of too many are named.
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
