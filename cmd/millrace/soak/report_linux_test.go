package soak

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"text/tabwriter"
	"time"
)

// report is what a soak has to tell.
type report struct {
	Millrace   string            `json:"millrace"` // what the command says of its version
	Machine    string            `json:"machine"`
	Began      time.Time         `json:"began"`
	Seconds    float64           `json:"seconds"`
	Seed       uint64            `json:"seed"`
	Flags      []string          `json:"flags"` // of serve
	Lives      []life            `json:"lives"`
	Faults     map[string]int    `json:"faults"`
	Clients    []clients         `json:"clients"`
	Warm       usage             `json:"warm"` // the last life without clients, garbage collected
	End        usage             `json:"end"`  // the same at the end
	Fifths     []usage           `json:"fifths"`
	Checks     []check           `json:"checks"`
	Violations map[string]uint64 `json:"violations"` // what went wrong, by its text without figures, and how often
	Samples    []usage           `json:"samples"`    // of the last life
}

// life is one of the server's.
type life struct {
	Seconds  float64 `json:"seconds"`
	End      string  `json:"end"`
	ExitCode int     `json:"exit_code"`
	Lines    int     `json:"log_lines"`
	Warnings int     `json:"log_warnings"`
}

// clients is a tally at the end.
type clients struct {
	Kind       string            `json:"kind"`
	Visits     uint64            `json:"visits"`
	Requests   uint64            `json:"requests"`
	Answers    uint64            `json:"answers"`
	Refused    map[string]uint64 `json:"refused,omitempty"` // by ERROR code
	Unknown    uint64            `json:"unknown"`           // without an outcome, as the connection was killed or kicked, or the database failed
	Pushes     uint64            `json:"pushes,omitempty"`
	Reconnects uint64            `json:"reconnects,omitempty"`
	Resumed    uint64            `json:"resumed,omitempty"`
	NoService  uint64            `json:"no_service,omitempty"` // connections that could not be opened
	Ends       map[string]uint64 `json:"ends,omitempty"`
}

// check is something that must hold at the end.
type check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
	Got  string `json:"got"`
}

func (s *soak) check(name string, ok bool, got string) {
	s.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checks = append(s.checks, check{name, ok, got})
	if !ok {
		s.Errorf("%s: %s", name, got)
	}
}

// maxTold is how many violations are told in full.
const maxTold = 20

// violation is something that must never happen. Any goroutine may call it.
func (s *soak) violation(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violations[format]++
	if s.told++; s.told <= maxTold {
		s.Errorf("%.1f s: "+format, append([]any{time.Since(s.began).Seconds()}, args...)...)
	}
}

func (s *soak) report() report {
	version, _ := exec.Command(command, "version").Output()
	r := report{
		Millrace: strings.TrimSpace(string(version)), Machine: fmt.Sprintf("%s, %d processors", runtime.GOARCH, runtime.NumCPU()), Began: s.began.UTC(), Seconds: time.Since(s.began).Seconds(),
		Seed: s.seed, Flags: s.tellFlags(), Faults: s.struck, Warm: s.warmUse, End: s.endUse, Checks: s.checks, Violations: s.violations, Fifths: fifths(s.samples),
	}
	for i := 0; i < len(s.samples); i += max(len(s.samples)/100, 1) {
		r.Samples = append(r.Samples, s.samples[i])
	}
	for _, v := range s.lives {
		lines, warns, _ := v.log.counts()
		r.Lives = append(r.Lives, life{v.lived.Seconds(), v.how, v.code, lines, warns})
	}
	for _, t := range s.tallies {
		r.add(t)
	}
	return r
}

// tellFlags are serve's, without the places of this run.
func (s *soak) tellFlags() []string {
	return slices.DeleteFunc(s.flags(), func(f string) bool {
		return slices.ContainsFunc([]string{s.at.host, s.at.unix, s.at.admin, s.at.cert, s.at.key, s.dbURL}, func(place string) bool { return strings.Contains(f, place) })
	})
}

// add adds a tally to that of its kind.
func (r *report) add(t *tally) {
	t.mu.Lock()
	defer t.mu.Unlock()
	i := slices.IndexFunc(r.Clients, func(c clients) bool { return c.Kind == t.name })
	if i < 0 {
		i = len(r.Clients)
		r.Clients = append(r.Clients, clients{Kind: t.name, Refused: map[string]uint64{}, Ends: map[string]uint64{}})
	}
	c := &r.Clients[i]
	c.Visits, c.Requests, c.Answers, c.Unknown = c.Visits+t.visits.Load(), c.Requests+t.requests.Load(), c.Answers+t.answers.Load(), c.Unknown+t.unknown.Load()
	c.Pushes, c.Reconnects, c.Resumed, c.NoService = c.Pushes+t.pushes.Load(), c.Reconnects+t.reconnects.Load(), c.Resumed+t.resumed.Load(), c.NoService+t.noService.Load()
	for code, n := range t.refused {
		c.Refused[code] += n
	}
	for how, n := range t.ends {
		c.Ends[how] += n
	}
}

// fifths are the medians of each fifth of the samples.
func fifths(all []usage) (out []usage) {
	for i := range 5 {
		part := slices.Clone(all[len(all)*i/5 : len(all)*(i+1)/5])
		if len(part) == 0 {
			continue
		}
		first := part[0].Second
		median := func(of func(usage) int) int {
			slices.SortFunc(part, func(a, b usage) int { return of(a) - of(b) })
			return of(part[len(part)/2])
		}
		out = append(out, usage{
			Second: first, Sessions: median(func(u usage) int { return u.Sessions }), Heap: median(func(u usage) int { return u.Heap }), RSS: median(func(u usage) int { return u.RSS }),
			Peak: median(func(u usage) int { return u.Peak }), Goroutines: median(func(u usage) int { return u.Goroutines }), Files: median(func(u usage) int { return u.Files }),
		})
	}
	return out
}

// write writes the report as JSON.
func (r report) write(file string) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(b, '\n'), 0o644)
}

// String is the report as text.
func (r report) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, %s, %.0f s, seed %d\n", r.Millrace, r.Machine, r.Seconds, r.Seed)
	for i, l := range r.Lives {
		fmt.Fprintf(&b, "life %d: %.0f s, %s, exit code %d, %d log lines, %d of them warnings\n", i+1, l.Seconds, l.End, l.ExitCode, l.Lines, l.Warnings)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Faults)) {
		fmt.Fprintf(&b, "%d times: %s\n", r.Faults[name], name)
	}
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "clients\tvisits\trequests\tanswers\trefused\tunknown\tpushes\tresumed\tends")
	for _, c := range r.Clients {
		fmt.Fprintf(w, "%s\t%d\t%d\t%d\t%s\t%d\t%d\t%d\t%s\n", c.Kind, c.Visits, c.Requests, c.Answers, counts(c.Refused), c.Unknown, c.Pushes, c.Resumed, counts(c.Ends))
	}
	_ = w.Flush() // to memory
	fmt.Fprintf(&b, "without clients, warm:       %v\nwithout clients, at the end: %v\n", r.Warm, r.End)
	for i, u := range r.Fifths {
		fmt.Fprintf(&b, "with clients, fifth %d:       %v\n", i+1, u)
	}
	for _, c := range r.Checks {
		fmt.Fprintf(&b, "%-4s %s: %s\n", map[bool]string{true: "ok", false: "FAIL"}[c.OK], c.Name, c.Got)
	}
	return b.String()
}

func counts(m map[string]uint64) string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		all = append(all, fmt.Sprintf("%s: %d", k, m[k]))
	}
	return strings.Join(all, ", ")
}

// A report keeps what it was told, and the medians of fifths are those.
func TestReportAddsUp(t *testing.T) {
	var all []usage
	for i := range 50 {
		all = append(all, usage{Second: float64(i), Heap: (i*7)%50 + 100*(i/10)})
	}
	got := fifths(all)
	if len(got) != 5 || got[0].Second != 0 || got[4].Second != 40 || got[4].Heap < got[0].Heap+400-50 {
		t.Errorf("fifths: %+v", got)
	}
	r := report{Checks: []check{{"a", false, "b"}}}
	for range 2 {
		one := &tally{name: "kind", refused: map[string]uint64{"4": 2}, ends: map[string]uint64{"left": 1}}
		one.requests.Add(3)
		r.add(one)
	}
	if len(r.Clients) != 1 || r.Clients[0].Requests != 6 || r.Clients[0].Refused["4"] != 4 || !strings.Contains(r.String(), "FAIL a: b") {
		t.Errorf("got %+v\n%s", r.Clients, r)
	}
}
