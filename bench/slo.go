package bench

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// SLO is a condition on the first target's median of a figure, such as p99<2ms.
type SLO struct {
	text  string
	name  string
	below bool // the figure must stay under the limit; else over it
	equal bool
	limit float64 // µs, bytes or a number, as the figure
}

var sloFigures = []string{"min", "p50", "p90", "p99", "p99.9", "p99.99", "max", "mean", "cpu", "rate", "rss", "idle"}

// ParseSLO reads FIGURE<LIMIT, also with <=, > and >=. Figures: min, p50, p90, p99, p99.9, p99.99,
// max, mean (latencies) and cpu (the server's, a message), all with a duration as limit; rate
// (messages a second); rss and idle (bytes, with KiB or MiB).
func ParseSLO(s string) (SLO, error) {
	at := strings.IndexAny(s, "<>")
	if at <= 0 {
		return SLO{}, fmt.Errorf("bench: SLO %q: want FIGURE<LIMIT, as in p99<2ms", s)
	}
	o := SLO{text: s, name: strings.TrimSpace(s[:at]), below: s[at] == '<'}
	limit := strings.TrimSpace(s[at+1:])
	if rest, ok := strings.CutPrefix(limit, "="); ok {
		o.equal, limit = true, strings.TrimSpace(rest)
	}
	if !slices.Contains(sloFigures, o.name) {
		return SLO{}, fmt.Errorf("bench: SLO %q: figures are %s", s, strings.Join(sloFigures, ", "))
	}
	return o, o.parseLimit(limit)
}

func (o *SLO) parseLimit(s string) (err error) {
	switch o.name {
	case "rate":
		o.limit, err = strconv.ParseFloat(s, 64)
	case "rss", "idle":
		var n int
		n, err = ParseSize(s)
		o.limit = float64(n)
	default:
		var d time.Duration
		d, err = time.ParseDuration(s)
		o.limit = float64(d) / 1e3
	}
	if err != nil {
		return fmt.Errorf("bench: SLO %q: limit: %w", o.text, err)
	}
	return nil
}

// figure is the condition's figure of a run.
func (o SLO) figure(r *Run) (float64, bool) {
	switch o.name {
	case "rate":
		return r.Rate, r.Rate > 0
	case "cpu":
		return MetricCPU.of(r)
	case "idle":
		return MetricMemory.of(r)
	case "rss":
		if r.Memory == nil {
			return 0, false
		}
		return float64(r.Memory.RSS), true
	}
	if r.Latency == nil {
		return 0, false
	}
	switch o.name {
	case "min":
		return r.Latency.Min, true
	case "max":
		return r.Latency.Max, true
	case "mean":
		return r.Latency.Mean, true
	}
	q, err := strconv.ParseFloat(o.name[1:], 64)
	if err != nil {
		return 0, false
	}
	return r.Latency.At(q)
}

func (o SLO) holds(x float64) bool {
	if x == o.limit {
		return o.equal
	}
	return (x < o.limit) == o.below
}

// Breach is a case that misses an SLO.
type Breach struct {
	SLO  string
	Case string
	Got  string
}

// Breaches checks the first target's median over its runs of each case. A case that failed misses
// every SLO; one without the figure, or skipped, none; if no case has the figure, that is a breach
// too.
func (r *Results) Breaches(slos []SLO) []Breach {
	if len(r.Header.Targets) == 0 {
		return nil
	}
	subject := r.Header.Targets[0].Name
	var out []Breach
	for _, o := range slos {
		seen := false
		for _, name := range r.Header.Cases {
			runs := r.pick(name, subject)
			if failures(runs) > 0 {
				out = append(out, Breach{o.text, name, "failed: " + firstError(runs)})
				seen = true
				continue
			}
			got := collect(runs, o.figure)
			if got.N == 0 {
				continue
			}
			seen = true
			if !o.holds(got.Median) {
				out = append(out, Breach{o.text, name, o.format(got.Median)})
			}
		}
		if !seen {
			out = append(out, Breach{o.text, "every case", "no case has this figure"})
		}
	}
	return out
}

func (o SLO) format(x float64) string {
	switch o.name {
	case "rate":
		return strconv.FormatFloat(x, 'f', 0, 64) + "/s"
	case "rss", "idle":
		return formatBytes(x)
	}
	return formatMicros(x)
}
