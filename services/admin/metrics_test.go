package admin_test

import (
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"millrace/engine"
	"millrace/services"
	"millrace/services/admin"
)

// scrape is /metrics as text, and its samples by name and labels.
func (r *rig) scrape() (text string, samples map[string]float64) {
	r.Helper()
	var b []byte
	r.get("/metrics", &b)
	samples = map[string]float64{}
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "} "); ok {
			samples[name+"}"], _ = strconv.ParseFloat(value, 64)
		} else if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			samples[name], _ = strconv.ParseFloat(value, 64)
		}
	}
	return string(b), samples
}

// Every family that is promised is there from the start, with all loops and known reasons at
// 0, and counts what happens.
func TestMetricsAreThereFromTheStart(t *testing.T) {
	r := open(t, func(c *admin.Config, _ *engine.Config) { c.Write = true })
	_, at := r.scrape()
	var want []string
	for loop := range 2 {
		for _, name := range []string{"millrace_connections", "millrace_accepts_total", "millrace_frames_received_total"} {
			want = append(want, fmt.Sprintf(`%s{loop="%d"}`, name, loop))
		}
	}
	for why := range r.srv.Stats().Closes {
		want = append(want, fmt.Sprintf(`millrace_closes_total{reason="%v"}`, why))
	}
	for why := range r.srv.Stats().Refused {
		want = append(want, fmt.Sprintf(`millrace_refused_total{reason="%v"}`, why))
	}
	for _, h := range []string{"1/1", "1/2", "1/3", "other"} {
		want = append(want, fmt.Sprintf(`millrace_handle_requests_total{handle="%s"}`, h), fmt.Sprintf(`millrace_handle_seconds_count{handle="%s"}`, h))
	}
	want = append(want, "millrace_strand_wait_seconds_count")
	for _, name := range want {
		if v, ok := at[name]; !ok || v != 0 {
			t.Errorf("%s is %v, there %v; want 0", name, v, ok)
		}
	}
	const n = 200
	p := r.dial()
	for range n {
		p.echo("x")
	}
	p.send(1, 2, `{"fail":true}`)
	p.wantError(engine.CodeConflict, services.Handle(1, 2), "told to fail")
	p.send(9, 9, "")
	p.wantError(engine.CodeUnknownHandle, services.Handle(9, 9), "unknown handle")
	p.send(0, 1, "")
	p.next()
	kicked := r.dial()
	kicked.echo("x")
	var list admin.Sessions
	r.get("/sessions?q="+kicked.LocalAddr().String(), &list)
	r.post(fmt.Sprintf("/sessions/%d.%d/kick", list.Sessions[0].Index, list.Sessions[0].Round), nil, nil)
	kicked.next()
	kicked.wantEnd()
	text, at := r.scrape()
	sum := func(name string) (v float64) {
		for k, x := range at {
			if strings.HasPrefix(k, name+"{") {
				v += x
			}
		}
		return v
	}
	for name, want := range map[string]float64{
		`millrace_handle_requests_total{handle="1/1"}`: n + 1, `millrace_handle_requests_total{handle="1/2"}`: 1, `millrace_handle_requests_total{handle="other"}`: 1,
		`millrace_handle_errors_total{handle="1/2"}`: 1, `millrace_request_errors_total{code="conflict"}`: 1, `millrace_request_errors_total{code="unknown_handle"}`: 1,
		`millrace_closes_total{reason="kicked"}`: 1, `millrace_limit_max{limit="admin_clients"}`: 16, "millrace_ready": 1,
	} {
		if at[name] != want {
			t.Errorf("%s is %v, want %v", name, at[name], want)
		}
	}
	if got := sum("millrace_frames_received_total"); got != n+4 {
		t.Errorf("%v frames received, want %d: system frames count too", got, n+4)
	}
	if got := sum("millrace_accepts_total"); got != 2 {
		t.Errorf("%v accepts, want 2", got)
	}
	if got := at[`millrace_handle_seconds_count{handle="1/1"}`]; got < 64 || got > n+1 {
		t.Errorf("%v of %d requests timed", got, n+1)
	}
	if at[`millrace_handle_seconds_sum{handle="1/1"}`] <= 0 || at[`millrace_handle_seconds_bucket{handle="1/1",le="64"}`] != at[`millrace_handle_seconds_count{handle="1/1"}`] {
		t.Errorf("the histogram of 1/1 does not add up:\n%s", text)
	}
	if waits := at["millrace_strand_wait_seconds_count"]; waits < 1 || waits > n+4 {
		t.Errorf("%v waits for a worker measured", waits)
	}
}

// No figure of a snapshot is left without a metric that says what it is.
func TestEveryFigureHasAMetricWithHelp(t *testing.T) {
	r := open(t, func(c *admin.Config, e *engine.Config) {
		e.Costs = true
		c.DB = func() any { return dbFigures() }
		c.Cache = func() any { return services.CacheStats{} }
		c.Cluster = func() any {
			return struct {
				services.CacheStats
				Connected bool
			}{}
		}
	})
	text, _ := r.scrape()
	if bad := regexp.MustCompile(`(?m)^# HELP \S+ What .* says\.$`).FindAllString(text, -1); len(bad) > 0 {
		t.Errorf("no help of their own, in names.go:\n%s", strings.Join(bad, "\n"))
	}
	for _, name := range []string{"millrace_db_queries_ended_total", "millrace_cache_entries", "millrace_cluster_connected", "millrace_timer_late_seconds_bucket", "go_goroutines", "process_open_fds"} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("no %s", name)
		}
	}
	if promtool, err := exec.LookPath("promtool"); err != nil {
		t.Log("promtool is not installed: the output is not checked by it")
	} else {
		cmd := exec.Command(promtool, "check", "metrics")
		cmd.Stdin = strings.NewReader(text)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Errorf("promtool check metrics: %v\n%s", err, out)
		}
	}
}

// Over protocol buffers the histograms are native ones, whose buckets say the same.
func TestHistogramsAreNative(t *testing.T) {
	r := open(t, nil)
	p := r.dial()
	for range 50 {
		p.echo("x")
	}
	req, _ := http.NewRequest("GET", "http://"+r.door.Addr()+"/metrics", nil)
	req.Header.Set("Accept", "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer res.Body.Close()
	dec := expfmt.NewDecoder(res.Body, expfmt.ResponseFormat(res.Header))
	seen := false
	for {
		var f dto.MetricFamily
		if err := dec.Decode(&f); err == io.EOF {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if f.GetName() != "millrace_handle_seconds" {
			continue
		}
		for _, m := range f.Metric {
			h := m.Histogram
			if m.Label[0].GetValue() != "1/1" {
				continue
			}
			seen = true
			var total, count, buckets int64
			for _, d := range h.PositiveDelta {
				count += d
				total += count
			}
			for _, s := range h.PositiveSpan {
				buckets += int64(s.GetLength())
			}
			if h.GetSchema() != 3 || uint64(total) != h.GetSampleCount() || total != 50 || buckets != int64(len(h.PositiveDelta)) {
				t.Errorf("native buckets hold %d in %d of %d buckets, schema %d: %v", total, h.GetSampleCount(), buckets, h.GetSchema(), h)
			}
			// Bucket i ends at 2^(i/8) seconds; up to where a classic one ends both count the same.
			upTo := func(end float64) (n uint64) {
				at, next, last := 0, int32(0), int64(0)
				for _, s := range h.PositiveSpan {
					next += s.GetOffset()
					for range s.GetLength() {
						if last += h.PositiveDelta[at]; exp2(float64(next)/8) <= end*1.0001 {
							n += uint64(last)
						}
						at++
						next++
					}
				}
				return n
			}
			for _, b := range h.Bucket {
				if got := upTo(b.GetUpperBound()); got != b.GetCumulativeCount() {
					t.Errorf("%d up to %v s in the native buckets, %d in the classic ones", got, b.GetUpperBound(), b.GetCumulativeCount())
				}
			}
		}
	}
	if !seen {
		t.Error("no histogram of 1/1")
	}
}

// With more handles than have metrics of their own, the others are one, and nothing is lost.
func TestManyHandlesAreBounded(t *testing.T) {
	r := open(t, nil)
	for i := range 100 {
		if err := r.c.Raw(services.Handle(7, uint16(i)), func(*engine.Session, packet) error { return nil }); err != nil {
			t.Fatal(err)
		}
	}
	p := r.dial()
	for i := range 100 {
		p.send(7, uint16(i), "")
	}
	p.echo("x")
	_, at := r.scrape()
	n, total := 0, 0.0
	for k, v := range at {
		if strings.HasPrefix(k, "millrace_handle_requests_total{") {
			n++
			total += v
		}
	}
	if n != 64 || total != 101 || at[`millrace_handle_requests_total{handle="other"}`] != 40 {
		t.Errorf("%d series with %v requests, %v of them other; want 64, 101 and 40", n, total, at[`millrace_handle_requests_total{handle="other"}`])
	}
}

// The JSON endpoints tell the same.
func TestStateAsJSON(t *testing.T) {
	r := open(t, func(c *admin.Config, _ *engine.Config) { c.DB = func() any { return dbFigures() } })
	p := r.dial()
	p.echo("x")
	p.send(1, 2, `{"fail":true}`)
	p.next()
	var loops struct{ Loops []map[string]any }
	r.get("/loops", &loops)
	frames := 0.0
	for i, l := range loops.Loops {
		if l["loop"] != float64(i) {
			t.Errorf("loop %d is %v", i, l["loop"])
		}
		frames += l["frames_in"].(float64)
	}
	if len(loops.Loops) < 2 || frames != 2 {
		t.Errorf("%d loops read %v frames, want 2 and 2", len(loops.Loops), frames)
	}
	var handles admin.Handles
	r.get("/handles", &handles)
	for _, h := range handles.Handles {
		want := map[string]uint64{"1/1": 1, "1/2": 1, "1/3": 0}[h.Handle]
		if h.Requests != want || h.Seconds.Count != want || (h.Handle == "1/2") != (h.Errors["conflict"] == 1) {
			t.Errorf("%s", pretty(h))
		}
	}
	if len(handles.Handles) != 3 || handles.Handles[0].Name != "echo" {
		t.Errorf("handles %s", pretty(handles))
	}
	var st, pool, timers, db, cluster map[string]any
	r.get("/stats", &st)
	if st["conns"] != 1.0 || st["closes"].(map[string]any)["kicked"] != 0.0 || st["doors_handshakes"] != 0.0 {
		t.Errorf("/stats %v", st)
	}
	r.get("/pool", &pool)
	if pool["workers"].(float64) < 1 || pool["wait"].(map[string]any)["count"] == nil {
		t.Errorf("/pool %v", pool)
	}
	r.get("/timers", &timers)
	if timers["configured"] != true || timers["pending"] != 0.0 || timers["late_seconds"].(map[string]any)["count"] != 0.0 {
		t.Errorf("/timers %v", timers)
	}
	r.get("/db", &db)
	if db["configured"] != true || db["lanes_up"] != 3.0 || db["ended"].(map[string]any)["done"] != 7.0 {
		t.Errorf("/db %v", db)
	}
	r.get("/cluster", &cluster)
	if cluster["configured"] != false {
		t.Errorf("/cluster %v", cluster)
	}
	for p := range strings.FieldsSeq("/ /live /healthz /readyz /metrics /stats /sessions /loops /handles /pool /timers /db /cache /cluster /limits /costs?seconds=0.01 /stalls /near /config") {
		if got, text := r.status("GET", p); got != 200 {
			t.Errorf("%s: %d %s", p, got, text)
		}
	}
}
