package admin_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"millrace/dbasync"
	"millrace/engine"
	"millrace/internal/proctest"
	"millrace/services"
	"millrace/services/admin"
)

// prometheus is a running one that scrapes a door.
type prometheus struct {
	t   testing.TB
	url string
}

// startPrometheus runs one with the alert rules, whose waits are left out, and has it scrape
// addr five times a second.
func startPrometheus(t testing.TB, addr string, flags ...string) *prometheus {
	t.Helper()
	program, err := exec.LookPath("prometheus")
	if err != nil {
		proctest.Missing(t, "prometheus is not installed")
	}
	dir := t.TempDir()
	rules, err := os.ReadFile("prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	quick := regexp.MustCompile(`(?m)^        for: \S+$`).ReplaceAllString(string(rules), "        for: 0s")
	config := write("prometheus.yml", fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%s]
scrape_configs:
  - job_name: millrace
    static_configs: [{targets: ['%s']}]
`, write("alerts.yml", quick), addr))
	args := append([]string{"--config.file=" + config, "--storage.tsdb.path=" + filepath.Join(dir, "data")}, flags...)
	var p *prometheus
	for try := 0; p == nil; try++ { // a free port may be somebody else's a moment later
		if p = launch(t, program, args); p == nil && try == 9 {
			t.Fatal("Prometheus ends ten times")
		}
	}
	eventually(t, "Prometheus to have scraped", func() bool { return len(p.query(`count_over_time(up{job="millrace"}[1m]) >= 3`)) > 0 })
	return p
}

// launch starts one on a free port and waits until it answers; nil: it has ended.
func launch(t testing.TB, program string, args []string) *prometheus {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	listen := ln.Addr().String()
	ln.Close()
	ctx, cancel := context.WithCancel(background)
	var log strings.Builder
	cmd := exec.CommandContext(ctx, program, append(args, "--web.listen-address="+listen)...)
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { cmd.Wait(); close(ended) }()
	t.Cleanup(func() {
		cancel()
		<-ended
		http.DefaultClient.CloseIdleConnections()
		if t.Failed() {
			t.Logf("%.4000s", log.String())
		}
	})
	p, up := &prometheus{t, "http://" + listen}, false
	eventually(t, "Prometheus to be ready", func() bool {
		select {
		case <-ended:
			return true
		default:
		}
		res, err := http.Get(p.url + "/-/ready")
		if err != nil {
			return false
		}
		res.Body.Close()
		up = res.StatusCode == http.StatusOK
		return up
	})
	if !up {
		return nil
	}
	return p
}

// sample is one of a query's results.
type sample struct {
	Metric map[string]string
	Value  [2]any
}

// query asks; nothing also when it does not answer yet. A query that is wrong ends the test.
func (p *prometheus) query(expr string) []sample {
	p.t.Helper()
	var out struct {
		Status, Error string
		Data          struct{ Result []sample }
	}
	res, err := http.Get(p.url + "/api/v1/query?query=" + url.QueryEscape(expr))
	if err != nil {
		return nil
	}
	defer res.Body.Close()
	if res.StatusCode == http.StatusServiceUnavailable {
		return nil
	}
	if err := json.NewDecoder(res.Body).Decode(&out); err != nil || out.Status != "success" {
		p.t.Fatalf("%s: %s %v", expr, out.Error, err)
	}
	return out.Data.Result
}

// dashboardQueries are all that the dashboard asks, by panel.
func dashboardQueries(t testing.TB) map[string][]string {
	t.Helper()
	b, err := os.ReadFile("prometheus/dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var d struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for _, p := range d.Panels {
		for _, x := range p.Targets {
			all[p.Title] = append(all[p.Title], strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*").Replace(x.Expr))
		}
	}
	return all
}

// A real Prometheus scrapes the door, every query of the dashboard finds something, and an
// alert fires when a limit is met, and no other.
func TestPrometheusScrapesAndAlerts(t *testing.T) {
	t.Parallel()
	r := open(t, func(c *admin.Config, e *engine.Config) {
		e.MaxConns, e.Costs = 4, true
		c.DB = func() any {
			return struct {
				dbasync.Stats
				Connected bool
			}{dbasync.Stats{Ended: map[dbasync.Outcome]uint64{0: 0}}, true}
		}
		c.Cluster = func() any {
			return struct {
				services.CacheStats
				Connected bool
			}{services.CacheStats{}, true}
		}
		if err := c.Timers.SetTimer(1, 20*time.Millisecond, 0, func(timerFiring) {}); err != nil {
			t.Fatal(err)
		}
	})
	peers := []*peer{r.dial(), r.dial()}
	p := startPrometheus(t, r.door.Addr())
	stop := make(chan struct{})
	ended := make(chan struct{})
	go func() { // some load, so that rates are above 0
		defer close(ended)
		for {
			select {
			case <-stop:
				return
			case <-time.After(5 * time.Millisecond):
				peers[0].echo("x")
				peers[1].send(1, 2, `{}`)
				peers[1].next()
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-ended })
	eventually(t, "rates", func() bool {
		return len(p.query(`rate(millrace_handle_requests_total{handle="1/1"}[1m]) > 0`)) > 0 && len(p.query(`rate(millrace_timers_fired_total[1m]) > 0`)) > 0
	})
	for panel, exprs := range dashboardQueries(t) {
		for _, expr := range exprs { // a scrape that comes to nothing hides all for a moment
			eventually(t, fmt.Sprintf("something that panel %q finds: %s", panel, expr), func() bool { return len(p.query(expr)) > 0 })
		}
	}
	firing := func() (names []string) { // but for those of times, which a busy machine may bring about
		for _, s := range p.query(`ALERTS{alertstate="firing",alertname!~"Millrace(WorkersBusy|HandlerSlow|Stalls|TimersLate|LoopStandsStill)"}`) {
			names = append(names, s.Metric["alertname"]+" "+s.Metric["limit"]+s.Metric["reason"])
		}
		return names
	}
	var got []string
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // one scrape that failed is an alert for a moment: the rules have no "for" here
		if got = firing(); len(got) == 0 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("a healthy server has alerts: %q", got)
		}
	}
	more := []*peer{r.dial(), r.dial()}
	for _, x := range more {
		x.echo("in")
	}
	eventually(t, "the alert of the limit", func() bool {
		got := firing()
		return len(got) == 1 && got[0] == "MillraceLimitNear max_conns"
	})
	over := r.dial()
	over.wantError(engine.CodeLimit, 0, "too many connections")
	eventually(t, "the alert of refused connections", func() bool {
		return strings.Contains(strings.Join(firing(), ","), "MillraceRefusesConnections max_conns")
	})
	more[0].Close()
	more[1].Close()
	eventually(t, "the end of the limit's alert", func() bool { return !strings.Contains(strings.Join(firing(), ","), "MillraceLimitNear") })
}

// A Prometheus that takes native histograms gets them.
func TestPrometheusTakesNativeHistograms(t *testing.T) {
	if !*long {
		t.Skip("without -long the protocol buffers are looked at instead")
	}
	t.Parallel()
	r := open(t, nil)
	p := startPrometheus(t, r.door.Addr(), "--enable-feature=native-histograms")
	r.dial().echo("x")
	eventually(t, "a native histogram", func() bool { return len(p.query(`histogram_count(millrace_handle_seconds{handle="1/1"}) == 1`)) == 1 })
}

// The rules, and those that the page on operations begins with, are such as promtool reads.
func TestAlertRulesAreWellFormed(t *testing.T) {
	t.Parallel()
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		proctest.Missing(t, "promtool is not installed")
	}
	if out, err := exec.Command(promtool, "check", "rules", "prometheus/alerts.yml").CombinedOutput(); err != nil || !strings.Contains(string(out), "SUCCESS") {
		t.Errorf("promtool check rules: %v\n%s", err, out)
	}
	page, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, m := range regexp.MustCompile("(?ms)^```yaml\n(groups:.*?)^```$").FindAllSubmatch(page, -1) {
		n++
		name := filepath.Join(t.TempDir(), "mine.yml")
		if err := os.WriteFile(name, m[1], 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(promtool, "check", "rules", name).CombinedOutput(); err != nil || !strings.Contains(string(out), "SUCCESS") {
			t.Errorf("docs/operations.md: promtool check rules: %v\n%s", err, out)
		}
	}
	if n == 0 {
		t.Error("docs/operations.md has no rules")
	}
}

// Without Prometheus too: every name that rules and dashboard use is one that is scraped.
func TestRulesAndDashboardNameWhatIsScraped(t *testing.T) {
	r := open(t, func(c *admin.Config, e *engine.Config) {
		e.Costs = true
		c.DB = func() any {
			return struct {
				dbasync.Stats
				Connected bool
			}{Stats: dbasync.Stats{Ended: map[dbasync.Outcome]uint64{0: 0}}}
		}
		c.Cluster = func() any { return struct{ Connected bool }{} }
	})
	text, _ := r.scrape()
	rules, err := os.ReadFile("prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	all := string(rules)
	n := 0
	for _, exprs := range dashboardQueries(t) {
		n += len(exprs)
		all += strings.Join(exprs, "\n")
	}
	names := regexp.MustCompile(`\b(millrace|go|process)_[a-z0-9_]+`).FindAllString(all, -1)
	for _, name := range names {
		if !strings.Contains(text, "\n"+name+" ") && !strings.Contains(text, "\n"+name+"{") {
			t.Errorf("%s is not scraped", name)
		}
	}
	if n < 20 || len(names) < 60 {
		t.Errorf("%d queries with %d names: that can't be all", n, len(names))
	}
}
