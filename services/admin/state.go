package admin

import (
	"crypto/tls"
	"fmt"
	"strings"

	"millrace/engine"
	"millrace/services"
)

func handleText(h uint32) string { return fmt.Sprintf("%d/%d", h>>16, h&0xffff) }

func tlsVersion(v uint16) string { return strings.TrimPrefix(tls.VersionName(v), "TLS ") }

// stats is GET /stats: the server as a whole.
func stats(r *request) (any, error) { return object(r.d.cfg.Server.Stats()), nil }

// loops is GET /loops.
func loops(r *request) (any, error) {
	list := []map[string]any{}
	for i, l := range r.d.loopStats() {
		o := object(l)
		o["loop"] = i
		list = append(list, o)
	}
	return map[string]any{"loops": list}, nil
}

// loopStats returns the statistics of every configured loop, also of those that have not
// had a connection yet.
func (d *Door) loopStats() []engine.LoopStats {
	all := d.cfg.Server.Stats().Loops
	for len(all) < d.cfg.Server.Config().Loops {
		all = append(all, engine.LoopStats{})
	}
	return all
}

// Handle is an entry of /handles.
type Handle struct {
	Handle   string            `json:"handle"` // MAIN/SUB
	Name     string            `json:"name"`
	Blocking bool              `json:"blocking"`
	Inline   bool              `json:"inline"` // its requests currently run on the loops
	Requests uint64            `json:"requests"`
	Errors   map[string]uint64 `json:"errors"`  // by the code's name
	Seconds  Quantiles         `json:"seconds"` // time taken, of a sample
}

// Handles is the answer of /handles.
type Handles struct {
	Handles []Handle `json:"handles"`
	Unknown uint64   `json:"unknown"` // requests to unknown handles
}

func (d *Door) handleStats() ([]services.HandleStats, services.ControllerStats) {
	if d.cfg.Controller == nil {
		return nil, services.ControllerStats{}
	}
	return d.cfg.Controller.HandleStats(), d.cfg.Controller.Stats()
}

// handles is GET /handles.
func handles(r *request) (any, error) {
	all, c := r.d.handleStats()
	out := Handles{Handles: []Handle{}, Unknown: c.Unknown}
	for _, h := range all {
		one := Handle{
			Handle: handleText(h.Handle), Name: h.Name, Blocking: h.Blocking, Inline: r.d.cfg.Server.RunsInline(h.Handle),
			Requests: h.Requests, Errors: map[string]uint64{}, Seconds: quantiles(&h.Time),
		}
		for code, n := range h.Errors {
			one.Errors[code.String()] = n
		}
		out.Handles = append(out.Handles, one)
	}
	return out, nil
}

// pool is GET /pool.
func pool(r *request) (any, error) {
	p := r.d.cfg.Server.Pool()
	out, waits := object(p.Stats()), p.Waits()
	out["wait"] = quantiles(&waits)
	return out, nil
}

// timers is GET /timers.
func timers(r *request) (any, error) {
	if r.d.cfg.Timers == nil {
		return map[string]any{"configured": false}, nil
	}
	out := object(r.d.cfg.Timers.Stats())
	out["configured"] = true
	return out, nil
}

// database is GET /db.
func database(r *request) (any, error) { return optional(r.d.cfg.DB), nil }

// cache is GET /cache.
func cache(r *request) (any, error) { return optional(r.d.cfg.Cache), nil }

// clusterStats is GET /cluster.
func clusterStats(r *request) (any, error) { return optional(r.d.cfg.Cluster), nil }

func optional(snapshot func() any) map[string]any {
	if snapshot == nil {
		return map[string]any{"configured": false}
	}
	out := object(snapshot())
	out["configured"] = true
	return out
}

// of sets the session that a limit is reported for.
func (l Limit) of(s *engine.Session) Limit {
	if s != nil {
		l.Who = fmt.Sprintf("%v of %v", s.ID(), s.RemoteAddr())
	}
	return l
}

// limits is GET /limits.
func limits(r *request) (any, error) { return map[string]any{"limits": r.d.limits(true)}, nil }

// most is the session that has the most of something.
type most struct {
	n   int
	who *engine.Session // nil: none has any
}

func (m *most) see(s *engine.Session, n int) {
	if n > m.n {
		m.n, m.who = n, s
	}
}

// limits returns the limits of the server, with the session or loop of largest use if each has its
// own. Without sessions, those are omitted for which each session must be read.
func (d *Door) limits(sessions bool) []Limit {
	srv := d.cfg.Server
	st, c := srv.Stats(), srv.Config()
	outbox := 0
	var unsent, pending, tasks, groups, kept most
	for _, l := range st.Loops {
		outbox = max(outbox, l.Outbox)
	}
	if sessions {
		srv.Sessions(func(s *engine.Session) bool {
			st := s.Stats()
			unsent.see(s, st.Unsent)
			pending.see(s, st.Pending)
			tasks.see(s, st.Tasks)
			groups.see(s, st.Groups)
			kept.see(s, st.Kept)
			return true
		})
	}
	row := func(name string, used, most int) Limit {
		return Limit{Name: name, Used: float64(used), Max: float64(max(most, 0))}
	}
	all := []Limit{
		row("max-conns", st.Conns, c.MaxConns),
		row("max-conns-per-ip", srv.MostPerIP(), c.MaxConnsPerIP),
		row("memory-budget", st.Memory, c.MemoryBudget),
		row("max-outbox", outbox, min(c.MaxOutbox, c.MemoryBudget/8)),
		row("max-queue", st.Pool.Queue, c.MaxQueue),
		row("spare-workers", max(st.Pool.Workers-c.Workers, 0), c.SpareWorkers),
		row("max-handshakes", st.Doors.Handshaking, c.MaxHandshakes),
		row("max-refused", st.Doors.Closing, c.MaxRefused),
		row("admin-clients", int(d.clients.Load()), d.cfg.MaxClients),
	}
	if sessions {
		resume := 0 // sessions end with their connections, and nothing is kept
		if c.Resume > 0 {
			resume = c.ResumeBytes
		}
		for _, l := range []struct {
			name string
			most
			limit int
		}{
			{"max-outbound", unsent, c.MaxOutbound}, {"max-pending", pending, c.MaxPending}, {"max-tasks", tasks, c.MaxTasks},
			{"max-groups", groups, c.MaxGroups}, {"resume-bytes", kept, resume},
		} {
			all = append(all, row(l.name, l.n, l.limit).of(l.who))
		}
	}
	if d.cfg.Limits != nil {
		all = append(all, d.cfg.Limits()...)
	}
	return all
}
