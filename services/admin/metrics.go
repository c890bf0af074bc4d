package admin

import (
	"net/http"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"millrace/engine"
	"millrace/internal/hist"
)

// metrics is GET /metrics.
func metrics(r *request) (any, error) {
	r.d.reg.ServeHTTP(r.w, r.Request)
	return nil, nil
}

// newMetrics returns the handler of /metrics, with its own registry.
func (d *Door) newMetrics() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(&collector{d: d, descs: map[string]*prometheus.Desc{}, handles: labels{most: maxHandles - 2}, tags: labels{most: maxHandles - 1}}, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return promhttp.HandlerFor(reg, promhttp.HandlerOpts{ErrorLog: promLog{d}, MaxRequestsInFlight: d.cfg.MaxClients})
}

type promLog struct{ d *Door }

func (l promLog) Println(v ...any) { l.d.cfg.Logger.Warn("admin: metrics", "err", v) }

const (
	namespace = "millrace_"
	// maxHandles is how many handles have their own metrics; the others share one.
	maxHandles  = 64
	otherHandle = "other"
)

// collector makes metrics from snapshots when they are requested.
type collector struct {
	d     *Door
	mu    sync.Mutex
	descs map[string]*prometheus.Desc // guarded by mu; by name

	handles, tags labels // guarded by mu; labels of the cost metrics
}

// Describe sends nothing: the set of metrics depends on the parts of the process.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	out := sink{c, ch}
	d := c.d
	st := d.cfg.Server.Stats()
	out.group("server", st)
	for i, l := range d.loopStats() {
		out.group("loop", l, strconv.Itoa(i))
	}
	waits := d.cfg.Server.Pool().Waits()
	out.histogram("strand_wait_seconds", nil, nil, &waits)
	out.handles()
	out.costs()
	out.sessions()
	for _, l := range d.limits(true) {
		name := strings.ReplaceAll(l.Name, "-", "_") // as the labels of all other metrics
		out.put("limit_used", prometheus.GaugeValue, l.Used, []string{"limit"}, name)
		out.put("limit_max", prometheus.GaugeValue, l.Max, []string{"limit"}, name)
	}
	if t := d.cfg.Timers; t != nil {
		out.group("timers", t.Stats())
	}
	if d.cfg.DB != nil {
		out.group("db", d.cfg.DB())
	}
	if d.cfg.Cache != nil {
		out.group("cache", d.cfg.Cache())
	}
	if d.cfg.Cluster != nil {
		out.group("cluster", d.cfg.Cluster())
	}
	ready := 1.0
	if len(d.Ready()) > 0 {
		ready = 0
	}
	out.put("ready", prometheus.GaugeValue, ready, nil)
	out.put("admin_refused_total", prometheus.CounterValue, float64(d.refused.Load()), nil)
	out.put("build_info", prometheus.GaugeValue, 1, []string{"version"}, buildVersion())
}

// sink is the destination of one collection.
type sink struct {
	c  *collector
	ch chan<- prometheus.Metric
}

// desc returns the description of a metric, with its help from helps.
func (c *collector) desc(name string, labels []string) *prometheus.Desc {
	c.mu.Lock()
	defer c.mu.Unlock()
	d := c.descs[name]
	if d == nil {
		help, ok := helps[name]
		if !ok {
			help = "What " + strings.ReplaceAll(strings.TrimSuffix(name, "_total"), "_", " ") + " says."
		}
		d = prometheus.NewDesc(namespace+name, help, labels, nil)
		c.descs[name] = d
	}
	return d
}

func (s sink) put(name string, kind prometheus.ValueType, v float64, labels []string, values ...string) {
	s.ch <- prometheus.MustNewConstMetric(s.c.desc(name, labels), kind, v, values...)
}

// seconds writes a counter of times for each value of a label.
func (s sink) seconds(name, label string, all map[string]time.Duration) {
	for value, d := range all {
		s.put(name, prometheus.CounterValue, d.Seconds(), []string{label}, value)
	}
}

func (s sink) histogram(name string, labels, values []string, h *hist.Snapshot) {
	desc := s.c.desc(name, labels)
	s.ch <- &histogram{desc, prometheus.MakeLabelPairs(desc, values), h}
}

// group writes the numbers of a snapshot. Its metrics are named after the group and the fields, or
// as given by names; loop is the loop's label.
func (s sink) group(group string, v any, loop ...string) {
	var labels []string
	if len(loop) > 0 {
		labels = []string{"loop"}
	}
	for _, f := range fields(v) {
		name, known := names[group+"."+f.path]
		switch {
		case name == "-":
			continue
		case !known:
			name = group + "_" + f.name
		}
		kind := prometheus.GaugeValue
		if f.counter {
			kind = prometheus.CounterValue
			name = strings.TrimSuffix(name, "_total") + "_total"
		}
		switch {
		case f.hist != nil:
			s.histogram(name, labels, loop, f.hist)
		case f.by != nil:
			for k, v := range f.by {
				s.put(name, kind, v, append(labels, keyLabel(group, f.path)), append(loop, k)...)
			}
		default:
			s.put(name, kind, f.value, labels, loop...)
		}
	}
}

// keyLabel returns the label for the keys of a map.
func keyLabel(group, path string) string {
	if l, ok := keyLabels[group+"."+path]; ok {
		return l
	}
	return "key"
}

// handles writes the statistics of the handles.
func (s sink) handles() {
	all, c := s.c.d.handleStats()
	codes := map[engine.ErrorCode]uint64{}
	for code := engine.CodeBadFrame; code <= engine.CodeLimit; code++ {
		codes[code] = 0
	}
	label := []string{"handle"}
	requests, errors := c.Unknown, c.Unknown
	var took hist.Snapshot
	for i, h := range all {
		var failed uint64
		for code, n := range h.Errors {
			failed += n
			codes[code] += n
		}
		if i >= maxHandles-1 && len(all) > maxHandles {
			requests += h.Requests
			errors += failed
			took.Merge(&h.Time)
			continue
		}
		text := handleText(h.Handle)
		s.put("handle_requests_total", prometheus.CounterValue, float64(h.Requests), label, text)
		s.put("handle_errors_total", prometheus.CounterValue, float64(failed), label, text)
		s.histogram("handle_seconds", label, []string{text}, &h.Time)
	}
	s.put("handle_requests_total", prometheus.CounterValue, float64(requests), label, otherHandle)
	s.put("handle_errors_total", prometheus.CounterValue, float64(errors), label, otherHandle)
	s.histogram("handle_seconds", label, []string{otherHandle}, &took)
	codes[engine.CodeUnknownHandle] += c.Unknown
	for code, n := range codes {
		s.put("request_errors_total", prometheus.CounterValue, float64(n), []string{"code"}, code.String())
	}
	s.group("requests", c)
}

// sessions writes numbers that require reading all sessions.
func (s sink) sessions() {
	paused := map[string]float64{}
	for _, why := range (engine.PauseOutbound | engine.PausePending | engine.PauseMemory | engine.PauseRate).Reasons() {
		paused[why] = 0
	}
	transports := map[string]float64{}
	for _, t := range []string{"tcp", "unix", "tls", "ws", "wss"} {
		transports[t] = 0
	}
	s.c.d.cfg.Server.Sessions(func(x *engine.Session) bool {
		for _, why := range x.Stats().Paused.Reasons() {
			paused[why]++
		}
		transports[x.Transport()]++
		return true
	})
	for why, n := range paused {
		s.put("paused_sessions", prometheus.GaugeValue, n, []string{"limit"}, why)
	}
	for t, n := range transports {
		s.put("transport_sessions", prometheus.GaugeValue, n, []string{"transport"}, t)
	}
}

// buildVersion returns the version of the module, or the commit.
func buildVersion() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	v := info.Main.Version
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && (v == "" || v == "(devel)") {
			v = s.Value
		}
	}
	return v
}
