package bench

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"millrace/internal/proctest"
)

// sample is a results file with every kind of cell: figures, latencies, memory, a skip, a failure
// and names that HTML must escape.
func sample() *Results {
	r := noise(rand.New(rand.NewPCG(7, 8)), 3, 5, 0.05, 1.2)
	r.Header.Targets[1].Name = `b<script>"&`
	for i := range r.Runs {
		run := &r.Runs[i]
		if run.Target == "b" {
			run.Target = r.Header.Targets[1].Name
		}
		run.Rate, run.Messages, run.Seconds = 1e5, 1e5, 1
		run.Latency = &Latency{Min: 5, Mean: 20, Max: 900}
		for j := range quantiles {
			run.Latency.Points = append(run.Latency.Points, float64(10*(j+1)))
		}
		run.Memory = &Memory{RSS: 12 << 20}
		run.Runtime = &Runtime{MallocsPerMsg: 0.01}
	}
	r.Header.Cases = append(r.Header.Cases, "idle/1000", "services/5x1", "churn/5")
	for rep := range 5 {
		r.Runs = append(r.Runs,
			Run{Case: "idle/1000", Target: "a", Rep: rep, Memory: &Memory{RSS: 20 << 20, PerIdle: 900, PerEchoed: 950}},
			Run{Case: "idle/1000", Target: "gnet", Rep: rep, Memory: &Memory{RSS: 18 << 20, PerIdle: 750, PerEchoed: 760}},
			Run{Case: "services/5x1", Target: "gnet", Rep: rep, Skipped: "it does not serve 4/3"},
			Run{Case: "churn/5", Target: "a", Rep: rep, Error: "connection <7> was refused"})
	}
	return r
}

func TestResultsRoundTrip(t *testing.T) {
	r := sample()
	var b bytes.Buffer
	if err := r.WriteJSON(&b); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Count(b.String(), "\n"); lines != 1+len(r.Runs) {
		t.Errorf("got %d lines, want a header and one for each of %d runs", lines, len(r.Runs))
	}
	back, err := ReadJSON(&b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back.Runs, r.Runs) || !reflect.DeepEqual(back.Header, r.Header) {
		t.Error("what was read is not what was written")
	}
	for _, bad := range []string{"", "{}\n", "hello", `{"format":99}` + "\n", `{"format":1}` + "\n{\n{}\n"} {
		if _, err := ReadJSON(strings.NewReader(bad)); err == nil {
			t.Errorf("%q was read as results", bad)
		}
	}
	if _, err := ReadJSON(strings.NewReader("{}\n")); !errors.Is(err, ErrFormat) {
		t.Errorf("got %v, want ErrFormat", err)
	}
}

func TestTableShowsEveryCellAndWhyNot(t *testing.T) {
	var b bytes.Buffer
	if err := sample().WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"echo/1x1", "x gnet", "1.00-1.00", "900B/conn", "skipped: it does not serve 4/3", "FAILED 5 times: connection <7> was refused", "100k/s", "12.0MiB",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, b.String())
		}
	}
}

func writeReport(t *testing.T, r *Results) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.WriteHTML(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// outside finds references that would make a browser load something.
var outside = regexp.MustCompile(`(?i)(src|href|action|data)\s*=|url\(|@import|<link|<iframe|fetch\(|import\(`)

func TestReportStandsAlone(t *testing.T) {
	page := writeReport(t, sample())
	if m := outside.FindString(page); m != "" {
		t.Errorf("the page has %q, which may load something", m)
	}
	without := strings.ReplaceAll(page, `xmlns="http://www.w3.org/2000/svg"`, "")
	if strings.Contains(without, "http://") || strings.Contains(without, "https://") {
		t.Error("the page names an address")
	}
	for _, want := range []string{"Throughput against connections", "Server CPU a message against connections", "Memory of a connection, idle/1000", "p99.9", "1.00-1.00"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if strings.Contains(page, `b<script>`) || strings.Contains(page, "connection <7>") {
		t.Error("a name reached the page unescaped")
	}
}

func TestReportCarriesItsResults(t *testing.T) {
	r := sample()
	_, rest, _ := strings.Cut(writeReport(t, r), `id="results">`)
	raw, _, _ := strings.Cut(rest, "</script>")
	var back Results
	if err := json.Unmarshal([]byte(raw), &back); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back.Runs, r.Runs) {
		t.Error("the results in the page are not those that were reported")
	}
}

func TestPicturesAreWellFormed(t *testing.T) {
	var b bytes.Buffer
	if err := sample().WriteSVG(&b); err != nil {
		t.Fatal(err)
	}
	pics := []string{b.String()}
	page := writeReport(t, sample())
	for _, part := range strings.Split(page, "<svg")[1:] {
		body, _, _ := strings.Cut(part, "</svg>")
		pics = append(pics, "<svg"+body+"</svg>")
	}
	if len(pics) < 8 {
		t.Errorf("got %d pictures, want at least 8", len(pics))
	}
	for i, p := range pics {
		if strings.Contains(p, "NaN") || strings.Contains(p, "Inf") {
			t.Errorf("picture %d has a coordinate that is no number", i)
		}
		dec := xml.NewDecoder(strings.NewReader(p))
		for {
			if _, err := dec.Token(); err == io.EOF {
				break
			} else if err != nil {
				t.Fatalf("picture %d: %v", i, err)
			}
		}
	}
	if err := (&Results{}).WriteSVG(io.Discard); err == nil {
		t.Error("a picture was drawn of nothing")
	}
}

// TestReportOpensInABrowser renders the page without a network and looks at what the browser made of it.
func TestReportOpensInABrowser(t *testing.T) {
	browser := ""
	for _, name := range []string{"chromium", "chromium-headless-shell", "google-chrome"} {
		if p, err := exec.LookPath(name); err == nil {
			browser = p
			break
		}
	}
	if browser == "" {
		proctest.Missing(t, "chromium-headless-shell is not installed")
	}
	dir := t.TempDir()
	path := filepath.Join(dir, "report.html")
	if err := os.WriteFile(path, []byte(writeReport(t, sample())), 0o644); err != nil {
		t.Fatal(err)
	}
	shot := filepath.Join(dir, "report.png")
	args := []string{"--headless", "--no-sandbox", "--disable-gpu", "--user-data-dir=" + dir, "--host-resolver-rules=MAP * ~NOTFOUND"}
	dom, err := exec.CommandContext(t.Context(), browser, append(args, "--dump-dom", "file://"+path)...).Output()
	if err != nil {
		t.Fatalf("%s: %v", browser, err)
	}
	if n := bytes.Count(dom, []byte("<svg")); n < 8 || !bytes.Contains(dom, []byte("All figures")) {
		t.Errorf("the browser shows %d pictures, want at least 8", n)
	}
	if out, err := exec.CommandContext(t.Context(), browser, append(args, "--window-size=1000,1200", "--screenshot="+shot, "file://"+path)...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if st, err := os.Stat(shot); err != nil || st.Size() < 20<<10 {
		t.Errorf("the picture of the page is missing or blank: %v", err)
	}
}

func TestConditionsAreParsedAndJudged(t *testing.T) {
	r := sample()
	check := func(text string, breached bool) {
		t.Helper()
		o, err := ParseSLO(text)
		if err != nil {
			t.Fatal(err)
		}
		r := *r
		r.Header.Cases = r.Header.Cases[:4] // without the case that fails
		if got := r.Breaches([]SLO{o}); (len(got) > 0) != breached {
			t.Errorf("%s: got %v, want breached %v", text, got, breached)
		}
	}
	check("p99<1ms", false)
	check("p99<60us", true)
	check("p99 <= 70us", false)
	check("p99<70us", true)
	check("p50>1ms", true)
	check("cpu<1s", false)
	check("cpu<1us", true)
	check("rate>50000", false)
	check("rate>100001", true)
	check("rss<13MiB", true) // idle/1000 needs 20
	check("idle<901B", false)
	check("idle<900", true)
	check("max<1ms", false)
	check("p99.9<1ns", true)
	o, _ := ParseSLO("p99<1h")
	if got := r.Breaches([]SLO{o}); len(got) != 1 || !strings.Contains(got[0].Got, "refused") {
		t.Errorf("a case that failed: got %v", got)
	}
	empty := &Results{Header: r.Header}
	if got := empty.Breaches([]SLO{o}); len(got) != 1 {
		t.Errorf("a condition that nothing was measured for: got %v", got)
	}
	for _, bad := range []string{"", "p99", "<2ms", "p98<2ms", "p99<2", "p99<x", "rate<2ms", "rss<2x", "p99=2ms"} {
		if _, err := ParseSLO(bad); err == nil {
			t.Errorf("%q was accepted", bad)
		}
	}
}
