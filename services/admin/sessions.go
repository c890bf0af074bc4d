package admin

import (
	"cmp"
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"millrace/engine"
	"millrace/services/admin/live"
)

// Session is a session as shown by /sessions.
type Session struct {
	ID          string    `json:"id"`
	Index       uint32    `json:"index"`
	Round       uint32    `json:"round"`
	Addr        string    `json:"addr"`
	Transport   string    `json:"transport"`
	ConnectedAt time.Time `json:"connected_at"`
	FramesIn    uint64    `json:"frames_in"`
	FramesOut   uint64    `json:"frames_out"`
	BytesIn     uint64    `json:"bytes_in"`
	BytesOut    uint64    `json:"bytes_out"`
	Unsent      int       `json:"unsent"`
	Pending     int       `json:"pending"`
	Loop        int       `json:"loop"`
	Paused      []string  `json:"paused"` // the limits because of which reading is paused
	Away        bool      `json:"away"`   // it has no connection and may be resumed

	// Only if the server accounts costs, otherwise 0 and empty. Times are in seconds, since it
	// connected.
	CPU  float64 `json:"cpu_seconds"`  // time of its callbacks and of writes to it
	Wait float64 `json:"wait_seconds"` // time that its requests waited for a worker
	Tag  string  `json:"tag"`

	ClosedAt *time.Time `json:"closed_at,omitempty"` // for ?closed=1
	Reason   string     `json:"reason,omitempty"`    // for ?closed=1
}

// Sessions is the answer of /sessions.
type Sessions struct {
	Sessions []Session `json:"sessions"`
	Total    int       `json:"total"` // matching sessions, listed or not
	Note     string    `json:"note,omitempty"`
}

// SessionDetail is the answer of /sessions/INDEX.ROUND.
type SessionDetail struct {
	Session
	Local  string        `json:"local"`
	TLS    string        `json:"tls,omitempty"` // the version
	Groups []string      `json:"groups"`
	State  *SessionState `json:"state"` // null: its loop did not answer
	Events any           `json:"events"`
}

// SessionState is the current activity of a session; see engine.SessionState. Times are in seconds.
type SessionState struct {
	Life    string  `json:"life"`
	Reason  string  `json:"reason,omitempty"`
	Strand  string  `json:"strand"`
	Handle  string  `json:"handle,omitempty"` // of the running request
	Held    int     `json:"held"`
	Partial int     `json:"partial"`
	Owed    int     `json:"owed"`
	Silent  float64 `json:"silent_seconds"`
	Stuck   float64 `json:"stuck_seconds"`
}

// processName returns a random name that distinguishes this process's sessions from those of
// others.
func processName() string { return strings.ToLower(rand.Text()[:10]) }

func (d *Door) sessionID(s *engine.Session) string {
	if d.cfg.SessionID != nil {
		return d.cfg.SessionID(s)
	}
	return d.name + "." + s.ID().String()
}

func (d *Door) describe(s *engine.Session) Session {
	st := s.Stats()
	return Session{
		ID: d.sessionID(s), Index: s.Index(), Round: s.Round(), Addr: s.RemoteAddr().String(), Transport: s.Transport(), ConnectedAt: s.ConnectedAt(),
		FramesIn: st.FramesIn, FramesOut: st.FramesOut, BytesIn: st.BytesIn, BytesOut: st.BytesOut, Unsent: st.Unsent, Pending: st.Pending,
		Loop: s.Loop(), Paused: append([]string{}, st.Paused.Reasons()...), Away: s.Detached(),
		CPU: st.Busy.Seconds(), Wait: st.Waited.Seconds(), Tag: tagText(s.Tag()),
	}
}

// orders are the values of ?sort=; the largest come first.
var orders = map[string]func(s *engine.Session) uint64{
	"unsent":  func(s *engine.Session) uint64 { return uint64(s.Stats().Unsent) },
	"pending": func(s *engine.Session) uint64 { return uint64(s.Stats().Pending) },
	"bytes":   func(s *engine.Session) uint64 { st := s.Stats(); return st.BytesIn + st.BytesOut },
	"frames":  func(s *engine.Session) uint64 { st := s.Stats(); return st.FramesIn + st.FramesOut },
	"paused":  func(s *engine.Session) uint64 { return uint64(s.Stats().Paused) },
	"age":     func(s *engine.Session) uint64 { return uint64(max(time.Since(s.ConnectedAt()), 0)) },
	"cpu":     func(s *engine.Session) uint64 { return uint64(s.Stats().Busy) },
	"wait":    func(s *engine.Session) uint64 { return uint64(s.Stats().Waited) },
}

// byCost are the orders that need cost accounting.
var byCost = []string{"cpu", "wait"}

// sorts returns the orders available on this server.
func (d *Door) sorts() []string {
	all := sorted(orders)
	if !d.counted() {
		all = slices.DeleteFunc(all, func(by string) bool { return slices.Contains(byCost, by) })
	}
	return append(all, sortEnded)
}

// defaultList is how many sessions are listed without ?limit=.
const defaultList = 100

// sessions is GET /sessions.
func sessions(r *request) (any, error) {
	q := r.URL.Query()
	limit, err := r.number("limit", defaultList)
	if err != nil {
		return nil, err
	}
	limit = min(limit, r.d.cfg.MaxList)
	closed, err := r.flag("closed")
	if err != nil {
		return nil, err
	}
	if closed {
		return r.d.closed.last(limit, q.Get("q")), nil
	}
	by := q.Get("sort")
	order := orders[by]
	if by != "" && order == nil {
		return nil, badRequest("sort=%q: must be one of %s", by, strings.Join(sorted(orders), ", "))
	}
	out := r.d.listSessions(limit, q.Get("q"), order)
	if slices.Contains(byCost, by) && !r.d.counted() {
		out.Note = "sort=" + by + ": " + notCounted
	}
	return out, nil
}

// listSessions lists the matching sessions, sorted by order if it is not nil.
func (d *Door) listSessions(limit int, query string, order func(*engine.Session) uint64) Sessions {
	type place struct {
		s   *engine.Session
		key uint64
	}
	var found []place
	out := Sessions{Sessions: []Session{}}
	d.cfg.Server.Sessions(func(s *engine.Session) bool {
		if !fits(query, s.RemoteAddr().String(), s.ID().String()) {
			return true
		}
		out.Total++
		switch {
		case order != nil:
			found = append(found, place{s, order(s)})
		case len(found) < limit:
			found = append(found, place{s: s})
		}
		return true
	})
	if order != nil {
		slices.SortFunc(found, func(a, b place) int { return cmp.Compare(b.key, a.key) })
	}
	for _, f := range found[:min(limit, len(found))] {
		out.Sessions = append(out.Sessions, d.describe(f.s))
	}
	return out
}

func fits(query, addr, id string) bool {
	return query == "" || strings.Contains(addr, query) || id == query
}

func sorted[T any](m map[string]T) []string {
	var names []string
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// session is GET /sessions/INDEX.ROUND.
func session(r *request) (any, error) {
	s := r.session
	out := SessionDetail{Session: r.d.describe(s), Local: s.LocalAddr().String(), Groups: append([]string{}, s.Groups()...), Events: []any{}}
	if t := s.TLS(); t != nil {
		out.TLS = tlsVersion(t.Version)
	}
	ctx, cancel := context.WithTimeout(r.Context(), time.Second)
	defer cancel()
	if st, err := s.State(ctx); err == nil {
		out.State = stateOf(st)
	}
	if r.d.cfg.Events != nil {
		if ev := r.d.cfg.Events(s.ID()); ev != nil {
			out.Events = ev
		}
	}
	return out, nil
}

func stateOf(st engine.SessionState) *SessionState {
	out := &SessionState{
		Life: st.Life, Strand: st.Strand, Held: st.Held, Partial: st.Partial, Owed: st.Owed,
		Silent: st.Silent.Seconds(), Stuck: st.Stuck.Seconds(),
	}
	if st.Reason != 0 {
		out.Reason = st.Reason.String()
	}
	if st.Main != 0 || st.Sub != 0 {
		out.Handle = handleText(uint32(st.Main)<<16 | uint32(st.Sub))
	}
	return out
}

// maxReason is the longest text sent to a kicked client, in bytes.
const maxReason = 256

// kick is POST /sessions/INDEX.ROUND/kick, with ?reason= or {"reason":"…"}.
func kick(r *request) (any, error) {
	var body struct {
		Reason string `json:"reason"`
	}
	if err := r.object(&body); err != nil {
		return nil, err
	}
	query := r.URL.Query().Get("reason")
	if body.Reason != "" && query != "" {
		return nil, badRequest("reason: given twice")
	}
	text := cmp.Or(body.Reason, query, "kicked")
	if len(text) > maxReason || !utf8.ValidString(text) {
		return nil, badRequest("reason: must be text of at most %d bytes", maxReason)
	}
	if err := r.session.Kick(text); err != nil {
		return nil, &refusal{http.StatusNotFound, "the session has closed"}
	}
	r.d.cfg.Logger.Info("admin: session kicked", "session", r.session.ID().String(), "addr", r.session.RemoteAddr().String(), "reason", text)
	r.d.Event(live.Info, "kick", fmt.Sprintf("session %v of %v: %s", r.session.ID(), r.session.RemoteAddr(), text))
	return map[string]any{"kicked": true, "reason": text}, nil
}

// closedRing remembers the most recently closed sessions.
type closedRing struct {
	max int

	mu    sync.Mutex
	list  []Session // guarded by mu; a ring once it is full
	next  int       // guarded by mu; the oldest of a full one
	total int       // guarded by mu; sessions closed so far
}

// Closed records a session that has closed. A Config.Controller calls it; without one, call it from
// OnSocketClose.
func (d *Door) Closed(s *engine.Session, why engine.Reason) {
	if d.closed.max == 0 {
		return
	}
	c, now := d.describe(s), time.Now()
	c.ClosedAt, c.Reason = &now, why.String()
	d.closed.add(c)
}

func (c *closedRing) add(s Session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.total++
	if len(c.list) < c.max {
		c.list = append(c.list, s)
		return
	}
	c.list[c.next] = s
	c.next = (c.next + 1) % len(c.list)
}

// last returns the most recently closed sessions, newest first. Total is the number of sessions
// closed so far.
func (c *closedRing) last(limit int, query string) Sessions {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := Sessions{Sessions: []Session{}, Total: c.total}
	for i := range c.list {
		s := c.list[(c.next+len(c.list)-1-i)%len(c.list)]
		if len(out.Sessions) == limit {
			break
		}
		if id := (engine.ID(s.Round)<<32 | engine.ID(s.Index)).String(); fits(query, s.Addr, id) {
			out.Sessions = append(out.Sessions, s)
		}
	}
	return out
}
