package live

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"millrace/engine"
)

// The kinds of findings, in the order in which they are shown.
const (
	Down    = "down"
	Failing = "failing"
	Refused = "refused"
	Full    = "full"
	Paused  = "paused"
	Slow    = "slow"
)

var kinds = []string{Down, Failing, Refused, Full, Paused, Slow}

// Finding is a problem.
type Finding struct {
	Kind  string `json:"kind"`
	Level string `json:"level"` // Warn or Bad
	What  string `json:"what"`  // constant as long as the problem lasts
	Text  string `json:"text"`  // its present state
	Do    string `json:"do"`    // where to look, or what to change
	Since int64  `json:"since"` // milliseconds of Unix time
}

const (
	slowWait   = 0.05 // p99 of the wait for a worker that is too long, in seconds
	slowRun    = 0.1  // p99 of a handler's time that is too long, in seconds
	fewest     = 10   // fewest requests for a meaningful quantile
	mostSlow   = 5    // most handles listed
	nearlyFull = 0.9
	lateLoop   = time.Second
)

// found collects findings.
type found struct {
	span
	list []Finding
}

func (f *found) add(kind, level, what, do, text string, args ...any) {
	f.list = append(f.list, Finding{Kind: kind, Level: level, What: what, Do: do, Text: fmt.Sprintf(text, args...)})
}

// grew returns by how much a counter grew over the span.
func (f *found) grew(a, b uint64) uint64 {
	if b < a {
		return 0
	}
	return b - a
}

// often formats how often something happened in the span.
func (f *found) often(n uint64) string {
	if r := f.of(float64(n)); r >= 1 {
		return fmt.Sprintf("%.0f a second", r)
	}
	return fmt.Sprintf("%d in %.0f s", n, f.seconds())
}

// find returns the problems between two samples, the worst first.
func find(a, b *Sample) []Finding {
	f := &found{span: span{a, b}}
	f.down()
	f.failing()
	f.refused()
	f.full()
	f.paused()
	f.slow()
	slices.SortStableFunc(f.list, func(x, y Finding) int {
		if x.Level != y.Level {
			return cmp.Compare(x.Level, y.Level) // bad, warn
		}
		return cmp.Compare(slices.Index(kinds, x.Kind), slices.Index(kinds, y.Kind))
	})
	return f.list
}

func (f *found) down() {
	if f.b.Engine.Draining {
		f.add(Down, Warn, "draining", "sessions are sent GOAWAY; undrain cancels the drain", "%d sessions left", f.b.Engine.Conns)
	}
	for _, why := range f.b.Reasons {
		if why != "draining" {
			f.add(Down, Bad, why, "/readyz is 503: load balancers should send no clients here", "not ready")
		}
	}
	for _, back := range f.b.Backs {
		if back.Down != "" {
			f.add(Down, Bad, back.Name, "requests that need it get ERROR 11", "%s", back.Down)
		}
	}
}

// faults are the close reasons that indicate a problem, and what to do.
var faults = map[string]struct{ level, do string }{
	"panic":               {Bad, "a handler panicked: the log has its stack"},
	"memory_budget":       {Bad, "--memory-budget: sort sessions by unsent to see which hold most"},
	"slow_consumer":       {Warn, "clients read more slowly than data is sent to them: --max-outbound"},
	"overflow":            {Warn, "clients left too much unread, or sent too much, where reading can't be paused: --max-outbound, --max-pending"},
	"bad_frame":           {Warn, "input was not a frame: another protocol, or --max-frame"},
	"first_frame_timeout": {Warn, "connected and sent no frame: --first-frame-timeout"},
	"frame_timeout":       {Warn, "began a frame and did not end it: --frame-timeout"},
	"rate":                {Warn, "clients sent faster than allowed"},
	"resume_overrun":      {Warn, "more unacknowledged bytes than --resume-bytes"},
	"stopped":             {Warn, "cut off before they were done: --drain-timeout"},
}

func (f *found) failing() {
	a, b := &f.a.Engine, &f.b.Engine
	for _, r := range sortedNames(b.Closes) {
		fault, ok := faults[r.name]
		if n := f.grew(a.Closes[r.key], b.Closes[r.key]); ok && n > 0 {
			f.add(Failing, fault.level, r.name, fault.do, "sessions closed: %s", f.often(n))
		}
	}
	if n := f.grew(a.Pool.Panics, b.Pool.Panics); n > 0 {
		f.add(Failing, Bad, "panic in the pool", "the log has the stack", "functions that panicked: %s", f.often(n))
	}
	if n := f.grew(a.LostBytes, b.LostBytes); n > 0 {
		f.add(Failing, Warn, "bytes lost", "sessions ended before their clients had read everything: --linger", "%s were not sent", Size(float64(n)))
	}
	for _, back := range f.b.Backs {
		for _, v := range back.Values {
			switch before := valueOf(f.a, back.Name, v.Name); {
			case v.Bad && v.Total && v.Value > before:
				f.add(Failing, Warn, back.Name+": "+v.Name, "", "%s", f.often(uint64(v.Value-before)))
			case v.Bad && !v.Total && v.Value > 0:
				f.add(Failing, Warn, back.Name+": "+v.Name, "", "%.0f", v.Value)
			}
		}
	}
}

func valueOf(s *Sample, back, name string) float64 {
	for _, b := range s.Backs {
		for _, v := range b.Values {
			if b.Name == back && v.Name == name {
				return v.Value
			}
		}
	}
	return 0
}

// ways are the refusal reasons, and what to do.
var ways = map[string]struct{ level, do string }{
	"max_conns":        {Bad, "--max-conns, and the open-file limit that bounds it"},
	"max_conns_per_ip": {Warn, "--max-conns-per-ip: one address has too many"},
	"open_files":       {Bad, "the process is short of descriptors: ulimit -n"},
	"not_admitted":     {Warn, "the program's Admit function refuses them"},
	"draining":         {Warn, "the server is draining"},
}

func (f *found) refused() {
	a, b := &f.a.Engine, &f.b.Engine
	for _, r := range sortedNames(b.Refused) {
		if n := f.grew(a.Refused[r.key], b.Refused[r.key]); n > 0 {
			way, ok := ways[r.name]
			if !ok {
				way.level, way.do = Warn, "--"+dashes(r.name)
			}
			f.add(Refused, way.level, r.name, way.do, "connections refused: %s", f.often(n))
		}
	}
	if n := f.grew(a.Limited[engine.ThrottleWait], b.Limited[engine.ThrottleWait]); n > 0 {
		f.add(Refused, Warn, "wait_budget", "requests waited longer than --wait-budget or --handle-wait, and got ERROR 4", "requests refused: %s", f.often(n))
	}
	if n := f.grew(a.AcceptErrs, b.AcceptErrs); n > 0 {
		f.add(Refused, Bad, "accept failed", "not enough files or memory: connections wait in the kernel's queue", "%s", f.often(n))
	}
	if n := f.grew(a.Pool.Refused, b.Pool.Refused); n > 0 {
		f.add(Refused, Bad, "pool", "--max-queue, --workers, --spare-workers", "functions refused: %s", f.often(n))
	}
	if n := f.grew(a.Busy, b.Busy); n > 0 {
		f.add(Refused, Warn, "busy", "sends reach --max-outbound, --max-outbox, --max-tasks or --memory-budget", "sends refused: %s", f.often(n))
	}
}

// fills says what uses up each limit.
var fills = map[string]string{
	"max-conns-per-ip": "of one address",
	"max-tasks":        "functions waiting in a session",
	"max-groups":       "groups of a session",
	"resume-bytes":     "unacknowledged bytes of a session",
	"max-conns":        "open sessions",
	"max-outbound":     "unread bytes of a session",
	"max-pending":      "requests of a session waiting for its handler",
	"max-outbox":       "broadcasts waiting in a loop",
	"memory-budget":    "memory held by all sessions, in and out",
	"max-queue":        "functions waiting for a worker",
	"spare-workers":    "handlers blocking at the same time",
	"max-handshakes":   "TLS handshakes in progress",
	"max-refused":      "refused connections kept until the ERROR is read",
	"admin-clients":    "connections to this admin server",
}

func (f *found) full() {
	for _, l := range f.b.Limits {
		if l.Max <= 0 {
			continue
		}
		do, who := "--"+l.Flag, ""
		if why := fills[l.Flag]; why != "" {
			do += ": " + why
		}
		if l.Who != "" {
			who = ", " + l.Who
		}
		part := float64(l.Used) / float64(l.Max)
		switch {
		case part >= 1:
			f.add(Full, Bad, l.Flag, do, "%s, all of it%s", f.used(l), who)
		case part >= nearlyFull:
			f.add(Full, Warn, l.Flag, do, "%s, %.0f %%%s", f.used(l), 100*part, who)
		default:
			if n := f.grew(nearBefore(f.a, l.Flag), l.Near); n > 0 {
				f.add(Full, Warn, l.Flag, do, "within a tenth: %s%s", f.often(n), who)
			}
		}
	}
}

func (f *found) used(l Limit) string {
	if l.Bytes {
		return Size(float64(l.Used)) + " of " + Size(float64(l.Max))
	}
	return fmt.Sprintf("%d of %d", l.Used, l.Max)
}

func nearBefore(s *Sample, flag string) uint64 {
	for _, l := range s.Limits {
		if l.Flag == flag {
			return l.Near
		}
	}
	return 0
}

func (f *found) paused() {
	a, b := &f.a.Engine, &f.b.Engine
	if b.Starving > 0 {
		f.add(Paused, Bad, "memory budget", "--memory-budget: the sessions that hold most are not read", "%d sessions are not read", b.Starving)
	}
	if n := f.grew(pauses(f.a), pauses(f.b)); n > 0 {
		f.add(Paused, Warn, "reading", "clients send faster than handlers work, or leave answers unread: --max-pending, --max-outbound", "reading of a session paused: %s", f.often(n))
	}
	for _, r := range sortedNames(b.Limited) {
		if n := f.grew(a.Limited[r.key], b.Limited[r.key]); n > 0 && r.key != engine.ThrottleWait {
			f.add(Paused, Warn, r.name, "sessions exceed --"+dashes(r.name)+"", "reading of a session paused: %s", f.often(n))
		}
	}
	if n := f.grew(a.Parks, b.Parks); n > 0 {
		f.add(Paused, Warn, "outboxes", "strands wait until clients have read: --max-outbound", "a strand waited for its client: %s", f.often(n))
	}
}

func (f *found) slow() {
	a, b := &f.a.Engine, &f.b.Engine
	for i, l := range b.Loops {
		if l.Late >= lateLoop {
			f.add(Slow, Bad, fmt.Sprintf("loop %d", i), "a callback blocks it, or the machine does not schedule it", "it has not ticked for %s", Duration(l.Late.Seconds()))
		}
	}
	if n := f.grew(a.Stalls+a.Pool.Stalls, b.Stalls+b.Pool.Stalls); n > 0 {
		f.add(Slow, Bad, "stalls", "the log names handle, session and stack: --stall-after", "callbacks that blocked a loop or a worker: %s", f.often(n))
	}
	if p := &b.Pool; p.Workers > 0 && p.Blocked >= p.Workers && p.Sessions+p.Queue > 0 {
		f.add(Slow, Bad, "workers", "all are inside handlers that block: --workers, --spare-workers", "%d of %d blocked, %d sessions and %d functions wait", p.Blocked, p.Workers, p.Sessions, p.Queue)
	}
	if w := f.b.Wait.since(f.a.Wait); w.count() >= fewest && w.quantile(0.99) >= slowWait {
		f.add(Slow, level(w.quantile(0.99) >= 20*slowWait), "waiting", "requests wait for a worker: handlers block, or --workers are too few", "one in a hundred waits %s or more", Duration(w.quantile(0.99)))
	}
	f.slowHandles()
}

func level(bad bool) string {
	if bad {
		return Bad
	}
	return Warn
}

func (f *found) slowHandles() {
	type slow struct {
		name string
		p99  float64
		n    uint64
	}
	var all []slow
	for _, h := range f.b.Handles {
		run := h.Run.since(runOf(f.a, h.Name))
		if s := (slow{h.Name, run.quantile(0.99), run.count()}); s.n > 0 && s.p99 >= slowRun {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(x, y slow) int { return cmp.Or(cmp.Compare(y.p99, x.p99), cmp.Compare(x.name, y.name)) })
	for _, s := range all[:min(len(all), mostSlow)] {
		f.add(Slow, Warn, "handle "+s.name, "its handler, or a backend that it uses", "p99 %s", Duration(s.p99))
	}
}

func runOf(s *Sample, name string) Hist {
	for i := range s.Handles {
		if s.Handles[i].Name == name {
			return s.Handles[i].Run
		}
	}
	return nil
}

// named is a key of a map of counters, with its name.
type named[K comparable] struct {
	key  K
	name string
}

// sortedNames returns the keys of m sorted by name.
func sortedNames[K interface {
	comparable
	fmt.Stringer
}](m map[K]uint64) []named[K] {
	out := make([]named[K], 0, len(m))
	for k := range maps.Keys(m) {
		out = append(out, named[K]{k, k.String()})
	}
	slices.SortFunc(out, func(a, b named[K]) int { return cmp.Compare(a.name, b.name) })
	return out
}

// Duration formats seconds with at most three digits.
func Duration(seconds float64) string {
	d := time.Duration(seconds * float64(time.Second))
	switch {
	case d >= 10*time.Second:
		return d.Round(time.Second).String()
	case d >= time.Second:
		return d.Round(10 * time.Millisecond).String()
	case d >= time.Millisecond:
		for unit := time.Millisecond; ; unit /= 10 {
			if d >= 100*unit || unit < 100*time.Microsecond {
				return d.Round(unit).String()
			}
		}
	default:
		return d.Round(time.Microsecond).String()
	}
}

// Size formats a number of bytes.
func Size(bytes float64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	i := 0
	for bytes >= 1000 && i < len(units)-1 {
		bytes, i = bytes/1024, i+1
	}
	if bytes >= 100 || i == 0 {
		return fmt.Sprintf("%.0f %s", bytes, units[i])
	}
	return fmt.Sprintf("%.1f %s", bytes, units[i])
}

// dashes converts max_conns to the name of a flag.
func dashes(s string) string {
	b := []byte(s)
	for i := range b {
		if b[i] == '_' {
			b[i] = '-'
		}
	}
	return string(b)
}
