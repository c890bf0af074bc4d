package admin

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/engine"
	"millrace/services/admin/live"
)

// Stall is a callback that blocked its goroutine, as listed by /stalls.
type Stall struct {
	At      time.Time `json:"at"`    // when it was reported
	Where   string    `json:"where"` // worker or loop
	Session string    `json:"session,omitempty"`
	Addr    string    `json:"addr,omitempty"`   // of the session, while it exists
	Handle  string    `json:"handle,omitempty"` // empty if the callback is not for a request
	Seconds float64   `json:"seconds"`          // duration when it was reported
	Place   string    `json:"place,omitempty"`  // in the code; the log has the stack
}

// Stalls is the answer of /stalls: the most recent ones, oldest first.
type Stalls struct {
	Stalls []Stall `json:"stalls"`
	Total  uint64  `json:"total"` // since the start, including functions of the pool
}

// NearMisses is the answer of /near: the most recent limits nearly reached, oldest first.
type NearMisses struct {
	Near  []NearMiss        `json:"near"`
	Total map[string]uint64 `json:"total"` // since the start, by the limit's flag
}

// NearMiss is a limit nearly reached. Used and Max are bytes or a count.
type NearMiss struct {
	At      time.Time `json:"at"`
	Limit   string    `json:"limit"`             // its flag
	Session string    `json:"session,omitempty"` // the session it belongs to, or the one that connected then
	Addr    string    `json:"addr,omitempty"`
	Used    int       `json:"used"`
	Max     int       `json:"max"`
}

func (d *Door) stallOf(st engine.Stall) Stall {
	out := Stall{At: st.At, Where: st.Where, Session: st.Session, Seconds: st.For.Seconds(), Place: st.Place()}
	if st.Main != 0 || st.Sub != 0 {
		out.Handle = handleText(uint32(st.Main)<<16 | uint32(st.Sub))
	}
	if s := d.session(st.Session); s != nil {
		out.Addr = s.RemoteAddr().String()
	}
	return out
}

func limitFlag(l engine.Limit) string { return strings.ReplaceAll(l.String(), "_", "-") }

func nearOf(n engine.NearMiss) NearMiss {
	out := NearMiss{At: n.At, Limit: limitFlag(n.Limit), Addr: n.Remote, Used: n.Used, Max: n.Most}
	if n.Session != 0 {
		out.Session = n.Session.String()
	}
	return out
}

// lastOf returns the last n elements of a list.
func lastOf[T any](list []T, n int) []T { return list[max(0, len(list)-n):] }

// stalls is GET /stalls.
func stalls(r *request) (any, error) {
	limit, err := r.number("limit", defaultList)
	if err != nil {
		return nil, err
	}
	st := r.d.cfg.Server.Stats()
	out := Stalls{Stalls: []Stall{}, Total: st.Stalls + st.Pool.Stalls}
	for _, s := range lastOf(r.d.cfg.Server.Stalls(), limit) {
		out.Stalls = append(out.Stalls, r.d.stallOf(s))
	}
	return out, nil
}

// near is GET /near.
func near(r *request) (any, error) {
	limit, err := r.number("limit", defaultList)
	if err != nil {
		return nil, err
	}
	out := NearMisses{Near: []NearMiss{}, Total: map[string]uint64{}}
	for l, n := range r.d.cfg.Server.Stats().Near {
		out.Total[limitFlag(l)] = n
	}
	for _, n := range lastOf(r.d.cfg.Server.NearMisses(), limit) {
		out.Near = append(out.Near, nearOf(n))
	}
	return out, nil
}

// noted writes stalls and near misses of the engine to the log. Used by the sampler's goroutine
// only.
type noted struct {
	stall engine.Stall // the last one logged; likewise
	near  engine.NearMiss
}

// mostNoted is how many stalls, and near misses, are logged one by one in one pass: the
// most recent ones.
const mostNoted = 8

// newer returns the elements after last; the list may have dropped some of them.
func newer[T comparable](list []T, last T) []T {
	for i, x := range slices.Backward(list) {
		if x == last {
			return list[i+1:]
		}
	}
	return list
}

// tell logs what is new.
func (n *noted) tell(d *Door) {
	rec := d.watcher.rec
	some := func(level, kind string, fresh int) {
		if fresh > mostNoted {
			rec.Event(time.Now(), level, kind, fmt.Sprintf("%d or more others in the same second", fresh-mostNoted))
		}
	}
	if list := newer(d.cfg.Server.Stalls(), n.stall); len(list) > 0 {
		n.stall = list[len(list)-1]
		some(live.Bad, live.Stalled, len(list))
		for _, st := range lastOf(list, mostNoted) {
			rec.Event(st.At, live.Bad, live.Stalled, stallText(d.stallOf(st)))
		}
	}
	if list := newer(d.cfg.Server.NearMisses(), n.near); len(list) > 0 {
		n.near = list[len(list)-1]
		some(live.Warn, live.Near, len(list))
		for _, x := range lastOf(list, mostNoted) {
			rec.Event(x.At, live.Warn, live.Near, nearText(nearOf(x)))
		}
	}
}

// stallText describes a stall: what ran, for which session, for how long, and where.
func stallText(st Stall) string {
	what := "a callback"
	switch {
	case st.Handle != "":
		what = st.Handle
	case st.Session == "":
		what = "a function"
	}
	text := what + " blocked a " + st.Where + " for " + live.Duration(st.Seconds)
	if st.Session != "" {
		text += ", of " + who(st.Session, st.Addr)
	}
	if st.Place != "" {
		text += ", at " + st.Place
	}
	return text
}

// nearText describes a near miss.
func nearText(n NearMiss) string {
	used, most := fmt.Sprint(n.Used), fmt.Sprint(n.Max)
	if inBytes[n.Limit] {
		used, most = live.Size(float64(n.Used)), live.Size(float64(n.Max))
	}
	text := fmt.Sprintf("%s: %s of %s", n.Limit, used, most)
	if n.Session != "" {
		text += ", " + who(n.Session, n.Addr)
	}
	return text
}

func who(session, addr string) string {
	if addr == "" {
		return session
	}
	return session + " of " + addr
}
