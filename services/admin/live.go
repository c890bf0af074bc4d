package admin

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	rt "runtime/metrics"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine"
	"millrace/internal/hist"
	"millrace/services/admin/live"
	"millrace/services/admin/page"
)

// Live is the answer of GET /live, which the live page and millrace top request once a second.
// History and events contain only entries newer than ?since= and ?events=.
type Live struct {
	live.View
	Node    string   `json:"node"`
	Version string   `json:"version"`
	Addrs   []string `json:"addrs"`
	Started int64    `json:"started"` // milliseconds of Unix time
	Write   bool     `json:"write"`   // kick and drain are allowed

	Sorts    []string  `json:"sorts"` // available values of ?sort=
	Sessions []Session `json:"sessions"`
	Found    int       `json:"found"` // sessions that match ?q=, listed or not
	Total    int       `json:"total"` // all sessions

	One *SessionDetail `json:"one,omitempty"` // the session of ?open=; absent if it has closed
}

const (
	sampleEvery = time.Second
	watchedFor  = 10 * time.Second // time after a /live during which samples include sessions
	sortEnded   = "ended"          // the sessions closed most recently
	defaultLive = 12               // sessions in an answer of /live
)

// watcher takes the samples for /live.
type watcher struct {
	rec     *live.Recorder
	started time.Time
	watched atomic.Int64 // time of the last /live in Unix nanoseconds
	costs   costWatch    // used by the goroutine only, like
	noted   noted
	cancel  context.CancelFunc
	done    sync.WaitGroup
}

// watch starts the goroutine that takes the samples. unwatch ends it.
func (d *Door) watch() {
	ctx, cancel := context.WithCancel(context.Background())
	d.watcher.cancel, d.watcher.started = cancel, time.Now()
	d.look(d.watcher.started, false)
	d.watcher.done.Go(func() {
		tick := time.NewTicker(sampleEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case now := <-tick.C:
				d.look(now, now.UnixNano()-d.watcher.watched.Load() < int64(watchedFor))
			}
		}
	})
}

// look takes a sample; if watched, including what must be read from each session.
func (d *Door) look(now time.Time, watched bool) {
	w := &d.watcher
	s := d.sample(now, watched)
	s.Costs = w.costs.read(d, watched)
	w.noted.tell(d)
	w.rec.Add(s)
}

// renew has /live show what an operator has just changed, rather than the state of up to a second
// ago.
func (d *Door) renew() {
	now := time.Now()
	d.watcher.rec.Renew(d.sample(now, now.UnixNano()-d.watcher.watched.Load() < int64(watchedFor)))
}

func (d *Door) unwatch() {
	d.watcher.cancel()
	d.watcher.done.Wait()
}

// Event adds a line to the log of the live page; level is live.Info, Warn or Bad, kind one word.
// Any goroutine may call it.
func (d *Door) Event(level, kind, text string) { d.watcher.rec.Event(time.Now(), level, kind, text) }

// sample reads the counters. With sessions it includes the limits for which each session must be
// read.
func (d *Door) sample(now time.Time, sessions bool) live.Sample {
	srv := d.cfg.Server
	s := live.Sample{At: now, Engine: srv.Stats(), Goroutines: runtime.NumGoroutine(), Reasons: d.Ready()}
	s.Engine.Loops = d.loopStats()
	s.CPU, s.Heap = usage()
	waits := srv.Pool().Waits()
	s.Wait = buckets(&waits)
	all, c := d.handleStats()
	for i := range all {
		h := &all[i]
		if h.Requests == 0 {
			continue
		}
		one := live.Handle{Name: handleText(h.Handle), Requests: h.Requests, Run: buckets(&h.Time)}
		for _, n := range h.Errors {
			one.Errors += n
		}
		s.Handles = append(s.Handles, one)
	}
	if c.Unknown > 0 {
		s.Handles = append(s.Handles, live.Handle{Name: "other", Requests: c.Unknown, Errors: c.Unknown})
	}
	for _, l := range d.limits(sessions) {
		s.Limits = append(s.Limits, live.Limit{Flag: l.Name, Used: int64(l.Used), Max: int64(l.Max), Bytes: inBytes[l.Name], Who: l.Who})
	}
	s.Limits = nearMisses(s.Limits, s.Engine.Near, srv.NearMisses())
	if d.cfg.Timers != nil {
		s.Backs = append(s.Backs, d.behind("timers", d.cfg.Timers.Stats()))
	}
	if d.cfg.DB != nil {
		s.Backs = append(s.Backs, d.behind("database", d.cfg.DB()))
	}
	if d.cfg.Cluster != nil {
		s.Backs = append(s.Backs, d.behind("cluster", d.cfg.Cluster()))
	}
	return s
}

// nearMisses adds to limits how often each was nearly reached, by the engine's counters, and by
// whom the last time. Limits not in the list are added once they have been nearly reached.
func nearMisses(all []live.Limit, counts map[engine.Limit]uint64, last []engine.NearMiss) []live.Limit {
	for _, limit := range slices.Sorted(maps.Keys(counts)) {
		n := counts[limit]
		flag := limitFlag(limit)
		i := slices.IndexFunc(all, func(l live.Limit) bool { return l.Flag == flag })
		if i < 0 {
			if n == 0 {
				continue
			}
			i = len(all)
			all = append(all, live.Limit{Flag: flag})
		}
		l := &all[i]
		l.Near, l.Counted = n, true
		for _, miss := range last { // the oldest first
			if miss.Limit != limit {
				continue
			}
			if l.Last = miss.At; l.Max == 0 {
				l.Max = int64(miss.Most)
			}
			if miss.Session != 0 {
				l.Who = who(miss.Session.String(), miss.Remote)
			}
		}
	}
	return all
}

// inBytes are the limits that count bytes.
var inBytes = map[string]bool{
	"memory-budget": true, "max-outbox": true, "max-outbound": true, "max-pending": true, "max-frame": true, "resume-bytes": true, "cache-bytes": true, "db-queue-bytes": true,
}

// behind returns a snapshot of a backend as a list of its numbers. Those of maps are named by their
// keys; histograms are omitted.
func (d *Door) behind(name string, snapshot any) live.Back {
	b := live.Back{Name: name}
	for _, c := range d.cfg.Checks {
		if c.Name == name {
			if err := c.Ready(); err != nil {
				b.Down = err.Error()
			}
		}
	}
	for _, f := range fields(snapshot) {
		title := strings.ReplaceAll(f.name, "_", " ")
		switch {
		case f.hist != nil:
		case f.by != nil:
			for _, k := range sorted(f.by) {
				b.Values = append(b.Values, live.Value{Name: title + " " + k, Value: f.by[k], Total: f.counter, Bad: f.counter && isFault(k)})
			}
		default:
			b.Values = append(b.Values, live.Value{Name: title, Value: f.value, Total: f.counter, Bad: f.counter && isFault(title)})
		}
	}
	return b
}

// isFault reports, by its name, whether a counter counts faults.
func isFault(name string) bool {
	return slices.ContainsFunc([]string{"refused", "panic", "failure", "failed", "lost", "too many"}, func(s string) bool { return strings.Contains(name, s) })
}

// buckets returns the non-empty buckets of h.
func buckets(h *hist.Snapshot) live.Hist {
	var out live.Hist
	for i, n := range h.Counts {
		if n > 0 {
			out = append(out, live.Bucket{Le: hist.End(i), N: n})
		}
	}
	return out
}

// usage returns the CPU time used by the process and the bytes of its heap in use. It does not stop
// the world.
func usage() (cpu time.Duration, heap uint64) {
	s := []rt.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	rt.Read(s)
	if s[0].Value.Kind() == rt.KindUint64 {
		heap = s[0].Value.Uint64()
	}
	return processCPU(), heap
}

// getLive is GET /live.
func getLive(r *request) (any, error) {
	d, q := r.d, r.URL.Query()
	d.watcher.watched.Store(time.Now().UnixNano())
	limit, err := r.number("limit", defaultLive)
	if err != nil {
		return nil, err
	}
	limit = min(limit, d.cfg.MaxList)
	since, err := r.sequence("since")
	if err != nil {
		return nil, err
	}
	events, err := r.sequence("events")
	if err != nil {
		return nil, err
	}
	by := q.Get("sort")
	order := orders[by]
	if by != "" && by != sortEnded && order == nil {
		return nil, badRequest("sort=%q: must be %s, or one of %s", by, sortEnded, strings.Join(sorted(orders), ", "))
	}
	out := Live{
		View: d.watcher.rec.View(since, events), Node: cmp.Or(d.cfg.Node, hostname()), Version: version(), Addrs: d.cfg.Server.URLs(), Started: d.watcher.started.UnixMilli(), Write: d.cfg.Write,
		Sorts: d.sorts(),
	}
	var list Sessions
	if by == sortEnded {
		list = d.closed.last(limit, q.Get("q"))
	} else {
		list = d.listSessions(limit, q.Get("q"), order)
	}
	out.Sessions, out.Found, out.Total = list.Sessions, list.Total, d.cfg.Server.Stats().Conns
	if s := d.session(q.Get("open")); s != nil {
		one, err := session(&request{Request: r.Request, d: d, w: r.w, session: s})
		if err != nil {
			return nil, err
		}
		detail := one.(SessionDetail)
		out.One = &detail
	}
	return out, nil
}

// sequence reads the number of a point or event from a query; 0 if absent.
func (r *request) sequence(name string) (uint64, error) {
	v := r.URL.Query().Get(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseUint(v, 10, 64)
	if err != nil {
		return 0, badRequest("%s=%q: must be a whole number", name, v)
	}
	return n, nil
}

// getPage is GET /.
func getPage(r *request) (any, error) {
	page.Serve(r.w, http.StatusOK)
	return nil, nil
}

// hostname returns this machine's name; empty if unknown.
var hostname = sync.OnceValue(func() string {
	name, _ := os.Hostname()
	return name
})

// version returns the program's version from the build information.
var version = sync.OnceValue(func() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value
		}
	}
	return strings.TrimSpace(info.Main.Path + " " + v)
})
