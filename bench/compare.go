package bench

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"
)

// CompareConfig configures the comparison of two sets of runs. Zero means the default.
type CompareConfig struct {
	// Target is compared; default the first one of A. TargetB is its name in B; default the same.
	Target, TargetB string
	// Normalise divides both sides by this target's runs of the same repetition, to cancel changes
	// of the machine's speed; default the base of A if both have it and it is not compared itself,
	// "-" for none.
	Normalise string
	// Least is the smallest change of the median that counts; default 0.10, and without
	// interleaving or a normaliser 0.25, as a machine's speed may change by that much.
	Least float64
	// Alpha is the probability of a false alarm over all cases together; default 0.01.
	Alpha float64
	// Metric is compared; default the CPU (idle: the memory), and at a fixed rate p50 and p99 too.
	Metric Metric
}

// Verdict is the result for one case.
type Verdict string

const (
	Same    Verdict = "no difference shown"
	Faster  Verdict = "better"
	Slower  Verdict = "WORSE"
	TooFew  Verdict = "too few runs" // under minCompare pairs
	Missing Verdict = "not measured on both sides"
	Broken  Verdict = "BROKEN" // it worked in A and fails in B
)

// minCompare is the number of runs on each side needed for a verdict.
const minCompare = 3

// Change is the verdict on one case and the data it is based on.
type Change struct {
	Case    string
	Metric  Metric
	Ratio   Spread // B to A: of pairs when interleaved, else of every B to A's median
	P       float64
	Verdict Verdict
	Note    string
}

// Comparison is the outcome of Compare.
type Comparison struct {
	Config      CompareConfig // with the defaults that were used
	Interleaved bool          // pairs of one repetition, not two separate series
	Changes     []Change
}

// ErrIncomparable: the two files have no data in common.
var ErrIncomparable = errors.New("bench: nothing to compare")

// Compare compares b with a. If both are the same results (one file, two targets), it compares the
// pairs of each repetition; runs of two files are compared as two samples, each divided by the
// normaliser's run of its repetition if there is one.
//
// A case is better or worse when its median changed by at least Least and a t test on the
// logarithms is significant at a level that Holm's procedure divides among all cases; anything else
// is noise.
func Compare(a, b *Results, cfg CompareConfig) (*Comparison, error) {
	interleaved := a == b
	cfg = cfg.withDefaults(a, b, interleaved)
	if interleaved && cfg.Target == cfg.TargetB {
		return nil, fmt.Errorf("%w: both sides are %s of one file", ErrIncomparable, cfg.Target)
	}
	out := &Comparison{Config: cfg, Interleaved: interleaved}
	for _, name := range a.Header.Cases {
		ra, rb := a.pick(name, cfg.Target), b.pick(name, cfg.TargetB)
		if len(ra) == 0 || len(rb) == 0 {
			continue
		}
		for _, m := range cfg.metrics(ra) {
			if interleaved {
				out.Changes = append(out.Changes, comparePairs(name, m, ra, rb))
				continue
			}
			out.Changes = append(out.Changes, compareSamples(name, m, ra, rb, a.pick(name, cfg.Normalise), b.pick(name, cfg.Normalise), cfg))
		}
	}
	if len(out.Changes) == 0 {
		return nil, fmt.Errorf("%w: no case was run for %s in one and for %s in the other", ErrIncomparable, cfg.Target, cfg.TargetB)
	}
	out.judge()
	return out, nil
}

func (c CompareConfig) withDefaults(a, b *Results, interleaved bool) CompareConfig {
	if c.Target == "" && len(a.Header.Targets) > 0 {
		c.Target = a.Header.Targets[0].Name
	}
	c.TargetB = cmp.Or(c.TargetB, c.Target)
	if c.Normalise == "" && a.Header.Base != "" && a.Has(a.Header.Base) && b.Has(a.Header.Base) &&
		a.Header.Base != c.Target && a.Header.Base != c.TargetB {
		c.Normalise = a.Header.Base
	}
	if c.Normalise == "-" || interleaved {
		c.Normalise = ""
	}
	if c.Least == 0 {
		c.Least = 0.10
		if !interleaved && c.Normalise == "" {
			c.Least = 0.25
		}
	}
	c.Alpha = cmp.Or(c.Alpha, 0.01)
	return c
}

// Has reports whether r has a run of the target.
func (r *Results) Has(target string) bool {
	for _, run := range r.Runs {
		if run.Target == target {
			return true
		}
	}
	return false
}

func (c CompareConfig) metrics(runs []Run) []Metric {
	m := metricOf(runs)
	switch {
	case c.Metric != "" && m != MetricMemory:
		return []Metric{c.Metric}
	case slices.ContainsFunc(runs, func(r Run) bool { return r.Offered > 0 }):
		return []Metric{m, MetricP50, MetricP99}
	}
	return []Metric{m}
}

func comparePairs(name string, m Metric, ra, rb []Run) Change {
	ch := Change{Case: name, Metric: m, P: 1}
	ratios := pairedRatios(rb, ra, ch.Metric)
	ch.Ratio = spread(ratios)
	ch.P = pairedP(logs(ratios))
	ch.presume(ra, rb)
	return ch
}

func compareSamples(name string, m Metric, ra, rb, na, nb []Run, cfg CompareConfig) Change {
	ch := Change{Case: name, Metric: m, P: 1}
	xa, xb := values(ra, ch.Metric), values(rb, ch.Metric)
	if cfg.Normalise != "" {
		pa, pb := pairedRatios(ra, na, ch.Metric), pairedRatios(rb, nb, ch.Metric)
		if len(pa) >= minCompare && len(pb) >= minCompare {
			xa, xb = pa, pb
		} else {
			ch.Note = cfg.Normalise + " is missing in one of the files: not normalised"
		}
	}
	if len(xa) > 0 {
		mid := spread(xa).Median
		ratios := make([]float64, len(xb))
		for i, x := range xb {
			ratios[i] = x / mid
		}
		ch.Ratio = spread(ratios)
	}
	ch.Ratio.N = min(len(xa), len(xb))
	ch.P = welchP(logs(xa), logs(xb))
	ch.presume(ra, rb)
	return ch
}

// presume decides cases that need no statistics.
func (ch *Change) presume(ra, rb []Run) {
	switch {
	case len(values(ra, ch.Metric)) > 0 && failures(rb)*2 > tried(rb) && failures(ra)*2 <= tried(ra):
		ch.Verdict = Broken
		ch.Note = firstError(rb)
	case ch.Ratio.N == 0:
		ch.Verdict = Missing
	case ch.Ratio.N < minCompare:
		ch.Verdict = TooFew
	}
}

func values(runs []Run, m Metric) []float64 {
	var out []float64
	for i := range runs {
		if x, ok := m.of(&runs[i]); ok {
			out = append(out, x)
		}
	}
	return out
}

func failures(runs []Run) int {
	n := 0
	for _, r := range runs {
		if r.Error != "" {
			n++
		}
	}
	return n
}

// tried counts the runs that were made: a target that failed before is skipped afterwards.
func tried(runs []Run) int {
	n := 0
	for _, r := range runs {
		if r.Skipped == "" {
			n++
		}
	}
	return n
}

func firstError(runs []Run) string {
	for _, r := range runs {
		if r.Error != "" {
			return r.Error
		}
	}
	return ""
}

func logs(xs []float64) []float64 {
	out := make([]float64, len(xs))
	for i, x := range xs {
		out[i] = math.Log(x)
	}
	return out
}

// judge decides all cases that have no verdict yet.
func (c *Comparison) judge() {
	var ps []float64
	var open []*Change
	for i := range c.Changes {
		if ch := &c.Changes[i]; ch.Verdict == "" {
			open = append(open, ch)
			ps = append(ps, ch.P)
		}
	}
	for i, significant := range holm(ps, c.Config.Alpha) {
		ch := open[i]
		ch.Verdict = Same
		least := c.Config.Least
		if ch.Note != "" {
			least = max(least, 0.25)
		}
		switch {
		case !significant:
		case ch.Ratio.Median >= 1+least:
			ch.Verdict = Slower
		case ch.Ratio.Median <= 1/(1+least):
			ch.Verdict = Faster
		}
	}
}

// Regressed reports whether a case got worse or broke, for the exit code.
func (c *Comparison) Regressed() bool {
	for _, ch := range c.Changes {
		if ch.Verdict == Slower || ch.Verdict == Broken {
			return true
		}
	}
	return false
}

// WriteTable writes a line for each case.
func (c *Comparison) WriteTable(w io.Writer) error {
	how := "two series compared as samples"
	switch {
	case c.Interleaved:
		how = "interleaved pairs"
	case c.Config.Normalise != "":
		how = "two series, each divided by its own runs of " + c.Config.Normalise
	}
	fmt.Fprintf(w, "%s against %s: %s; a change counts from %.0f %%, all cases together at p < %g\n",
		c.Config.TargetB, c.Config.Target, how, 100*c.Config.Least, c.Config.Alpha)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "case\tmetric\tratio\tquartiles\truns\tp\tverdict")
	for _, ch := range c.Changes {
		verdict := string(ch.Verdict)
		if ch.Note != "" {
			verdict += " (" + strings.ReplaceAll(ch.Note, "\n", " ") + ")"
		}
		if ch.Ratio.N == 0 {
			fmt.Fprintf(t, "%s\t%s\t\t\t0\t\t%s\n", ch.Case, ch.Metric, verdict)
			continue
		}
		fmt.Fprintf(t, "%s\t%s\t%.3f\t%.3f-%.3f\t%d\t%.2g\t%s\n", ch.Case, ch.Metric, ch.Ratio.Median, ch.Ratio.Low, ch.Ratio.High, ch.Ratio.N, ch.P, verdict)
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("bench: write comparison: %w", err)
	}
	return nil
}
