package bench

import (
	"fmt"
	"math"
)

// own reports whether t is a server of this project: MillraceTarget, or any other program's serve.
func (t Target) own() bool { return len(t.Command) > 1 && t.Command[1] == "serve" }

// besides returns the tables that compare each of this project's servers with alternatives. They
// need two other targets.
func (r *Results) besides() []section {
	var mine, others []string
	for _, t := range r.Header.Targets {
		if t.own() {
			mine = append(mine, t.Name)
		} else {
			others = append(others, t.Name)
		}
	}
	if len(others) < 2 {
		return nil
	}
	var out []section
	for _, name := range mine {
		out = append(out, r.beside(name, others))
	}
	return out
}

// beside has a row for each case and a column for each target: subject's cost as a multiple of that
// target's.
func (r *Results) beside(subject string, others []string) section {
	s := section{
		Title: subject + " beside the others", Left: 1,
		Text: "The cost of " + subject + " as a multiple of the other's in the same repetition, medians; below 1 " + subject +
			" is cheaper. ~: the quartiles of the ratio lie on both sides of 1, no difference is shown. The last column is the ratio to the cheapest of them.",
		Heads: []string{"case"},
	}
	for _, o := range others {
		s.Heads = append(s.Heads, "x "+o)
	}
	s.Heads = append(s.Heads, "x best", "which is")
	for _, name := range r.Header.Cases {
		runs := r.pick(name, subject)
		s.addBeside(r, name, name, runs, others, metricOf(runs))
		if collect(runs, func(r *Run) (float64, bool) { return r.Offered, r.Offered > 0 }).N > 0 {
			s.addBeside(r, name+" p50", name, runs, others, MetricP50)
			s.addBeside(r, name+" p99", name, runs, others, MetricP99)
		}
	}
	return s
}

// addBeside adds the row of a case, unless there is nothing to compare.
func (s *section) addBeside(r *Results, title, name string, mine []Run, others []string, m Metric) {
	row := []string{title}
	best, least, which := Spread{}, math.Inf(1), ""
	for _, o := range others {
		runs := r.pick(name, o)
		ratio := spread(pairedRatios(mine, runs, m))
		row = append(row, besideCell(ratio))
		if v := collect(runs, m.of); ratio.N > 0 && v.Median < least {
			best, least, which = ratio, v.Median, o
		}
	}
	if which != "" {
		s.Rows = append(s.Rows, append(row, besideCell(best), which))
	}
}

func besideCell(ratio Spread) string {
	switch {
	case ratio.N == 0:
		return ""
	case ratio.N > 1 && ratio.Low <= 1 && ratio.High >= 1:
		return fmt.Sprintf("%.2f~", ratio.Median)
	}
	return fmt.Sprintf("%.2f", ratio.Median)
}
