package bench

import (
	"fmt"
	"strings"
)

// Curve is the result of a ramp for one target.
type Curve struct {
	Ramp   Ramp
	Target string
	Steps  []CurveStep
	// Knee is the number of the last good step, -1 if the first step was already too much: on a
	// fixed schedule the last one before saturation, in a closed loop the first that reaches 95 %
	// of the best rate.
	Knee int
	// Saturated reports whether the ramp went far enough to find the knee.
	Saturated bool
}

// CurveStep is one load of a ramp, summarized over the repetitions.
type CurveStep struct {
	Work Workload
	Cell
	Answered  Spread // part of the offered rate; N = 0 in a closed loop
	Lost      int    // missing replies, over all repetitions
	Saturated string // why it was too much in most repetitions; "" if it was not
}

// Curves summarizes the ramps of r, in the order of the ramps and targets.
func (r *Results) Curves() []Curve {
	var out []Curve
	for _, ramp := range r.Header.Ramps {
		for _, t := range r.Header.Targets {
			if c := r.curve(ramp, t.Name); len(c.Steps) > 0 {
				out = append(out, c)
			}
		}
	}
	return out
}

func (r *Results) curve(ramp Ramp, target string) Curve {
	c := Curve{Ramp: ramp, Target: target, Knee: -1}
	for _, w := range ramp.Steps() {
		if runs := r.rungs(ramp, w, target); len(runs) > 0 {
			c.Steps = append(c.Steps, newStep(w, target, runs, r.rungs(ramp, w, r.Header.Base)))
		}
	}
	if ramp.Over == OverConns {
		c.closedKnee()
	} else {
		c.openKnee()
	}
	return c
}

func (r *Results) rungs(ramp Ramp, w Workload, target string) []Run {
	name, step := ramp.String(), w.String()
	var out []Run
	for _, run := range r.Runs {
		if run.Ramp == name && run.Case == step && run.Target == target {
			out = append(out, run)
		}
	}
	return out
}

func newStep(w Workload, target string, runs, base []Run) CurveStep {
	s := CurveStep{Work: w, Cell: newCell(w.String(), target, runs, base)}
	s.Answered = collect(runs, func(r *Run) (float64, bool) { return r.Rate / max(r.Offered, 1e-9), r.Offered > 0 })
	tooMuch := 0
	for _, run := range runs {
		s.Lost += run.Lost
		why := run.Saturated
		if run.Error != "" {
			why = "FAILED: " + strings.ReplaceAll(run.Error, "\n", "; ")
		}
		if run.Skipped != "" {
			why = "skipped: " + run.Skipped
		}
		if why != "" {
			tooMuch++
			s.Saturated = why
		}
	}
	if 2*tooMuch <= len(runs) {
		s.Saturated = ""
	}
	return s
}

func (c *Curve) openKnee() {
	for i, s := range c.Steps {
		if s.Saturated != "" {
			c.Saturated = true
			return
		}
		c.Knee = i
	}
}

// closedKnee finds the knee of a closed loop. Steps from the first missed objective on do not
// count.
func (c *Curve) closedKnee() {
	best, n := 0.0, 0
	for _, s := range c.Steps {
		if s.Saturated != "" && s.Saturated != noGrowth {
			c.Saturated = true
			break
		}
		c.Saturated = c.Saturated || s.Saturated != ""
		best = max(best, s.Rate.Median)
		n++
	}
	for i := range n {
		if c.Steps[i].Rate.Median >= kneePart*best {
			c.Knee = i
			return
		}
	}
}

// verdict describes the knee.
func (c *Curve) verdict() string {
	unit := func(s *CurveStep) string {
		if c.Ramp.Over == OverConns {
			return fmt.Sprintf("%d connections", s.Work.Conns)
		}
		return formatCount(s.Work.Rate) + "/s"
	}
	if c.Knee < 0 {
		return fmt.Sprintf("%s: no knee: %s was too much (%s)", c.Target, unit(&c.Steps[0]), c.Steps[0].Saturated)
	}
	k := &c.Steps[c.Knee]
	text := fmt.Sprintf("%s: knee at %s: %s/s, p50 %s, p99 %s, %s a message", c.Target, unit(k), formatCount(k.Rate.Median),
		formatMicros(k.P50.Median), formatMicros(k.P99.Median), formatMicros(k.Value.Median))
	if k.Ratio.N > 0 {
		text += fmt.Sprintf(", x%.2f", k.Ratio.Median)
	}
	if !c.Saturated {
		return strings.Replace(text, "knee at", "not saturated at", 1)
	}
	for i := c.Knee + 1; i < len(c.Steps); i++ {
		s := &c.Steps[i]
		if s.Saturated == "" {
			continue
		}
		text += fmt.Sprintf("; at %s: %s", unit(s), s.Saturated)
		if s.Bottle > 0 {
			text += ", but the generator itself was late: the limit may be its"
		}
		break
	}
	return text
}

// rampSection is the table of one ramp, target after target.
func (r *Results) rampSection(ramp Ramp) section {
	s := section{
		Title: "Ramp " + ramp.String(), Left: 1,
		Heads: []string{"target", string(ramp.Over), "answered", "part", "p50", "p99", "p99.9", "server cost", "x " + r.Header.Base, "busy", "missing", "runs", ""},
	}
	open := ramp.Over == OverRate
	for _, c := range r.Curves() {
		if c.Ramp != ramp {
			continue
		}
		for i := range c.Steps {
			s.Rows = append(s.Rows, c.Steps[i].row(ramp, i == c.Knee && c.Saturated))
		}
		s.Notes = append(s.Notes, c.verdict())
	}
	var drop []int
	if !open {
		drop = append(drop, 3)
	}
	if r.Header.Base == "" {
		drop = append(drop, 8)
	}
	s.drop(drop)
	return s
}

// drop removes columns.
func (s *section) drop(columns []int) {
	for n := len(columns) - 1; n >= 0; n-- {
		at := columns[n]
		cut := func(row []string) []string { return append(row[:at:at], row[at+1:]...) }
		s.Heads = cut(s.Heads)
		for i := range s.Rows {
			s.Rows[i] = cut(s.Rows[i])
		}
	}
}

func (s *CurveStep) row(ramp Ramp, knee bool) []string {
	load := formatCount(s.Work.Rate) + "/s"
	if ramp.Over == OverConns {
		load = fmt.Sprint(s.Work.Conns)
	}
	remark := s.Saturated
	if knee {
		remark = "<- knee"
	}
	if s.Runs == 0 {
		return []string{s.Target, load, "", "", "", "", "", "", "", "", "", fmt.Sprintf("%d FAILED", s.Failed), remark}
	}
	if s.Bottle > 0 {
		remark = strings.TrimSpace(remark + fmt.Sprintf(" (generator-bound %d)", s.Bottle))
	}
	shown := func(v Spread, format func(float64) string) string {
		if v.N == 0 {
			return ""
		}
		return format(v.Median)
	}
	number := func(x float64) string { return fmt.Sprintf("%.2f", x) }
	return []string{
		s.Target, load, shown(s.Rate, formatCount) + "/s", shown(s.Answered, number),
		shown(s.P50, formatMicros), shown(s.P99, formatMicros), shown(s.P999, formatMicros),
		shown(s.Value, s.format), shown(s.Ratio, number), shown(s.Busy, number), fmt.Sprint(s.Lost), fmt.Sprint(s.Runs), remark,
	}
}

// rampCharts are a ramp's curves: what a message costs and how long it takes at each rate that was answered.
func (r *Results) rampCharts(d *reportData, class map[string]string) {
	for _, ramp := range r.Header.Ramps {
		curve := func(y string, get func(*CurveStep) Spread) string {
			return lines(r.rampSeries(ramp, answered, get), class,
				axes{x: "answered a second", y: y, xText: formatCount, yText: formatMicros, narrow: true})
		}
		load := func(s *CurveStep) Spread { return Spread{N: 1, Median: ramp.load(s.Work)} }
		over := lines(r.rampSeries(ramp, load, answered), class,
			axes{x: string(ramp.Over), y: "answered a second", xText: formatCount, yText: formatCount, narrow: true})
		d.chart("Ramp "+ramp.String(), "latency, throughput and the server's CPU a message step by step; a curve that turns back was past saturation",
			curve("p50", func(s *CurveStep) Spread { return s.P50 })+curve("p99", func(s *CurveStep) Spread { return s.P99 })+
				over+curve("CPU a message", func(s *CurveStep) Spread { return s.Value }))
	}
}

func answered(s *CurveStep) Spread { return s.Rate }

// rampSeries are the medians of y over those of x, a line a target.
func (r *Results) rampSeries(ramp Ramp, x, y func(*CurveStep) Spread) []series {
	var out []series
	for _, c := range r.Curves() {
		if c.Ramp != ramp {
			continue
		}
		l := series{name: c.Target}
		for i := range c.Steps {
			if at, v := x(&c.Steps[i]), y(&c.Steps[i]); at.N > 0 && v.N > 0 && at.Median > 0 {
				l.points = append(l.points, [2]float64{at.Median, v.Median})
			}
		}
		if len(l.points) > 0 {
			out = append(out, l)
		}
	}
	return out
}

// rampPicture is the latency over the rate as a file.
func (r *Results) rampPicture(ramp Ramp) string {
	all := r.rampSeries(ramp, answered, func(s *CurveStep) Spread { return s.P99 })
	if len(all) == 0 {
		return ""
	}
	var names []string
	for _, l := range all {
		names = append(names, l.name)
	}
	class := r.colours()
	top := 34 + 18*float64(legendRows(names, 10))
	s := newSVG(chartWidth, top+324)
	s.text(10, 18, "start", "bold", "p99 latency over the rate that was answered: "+ramp.String())
	s.legend(names, class, 10, 38)
	fmt.Fprintf(&s.b, `<svg y="%s"%s`, f(top),
		strings.TrimPrefix(lines(all, class, axes{x: "answered a second", xText: formatCount, yText: formatMicros}), "<svg"))
	s.text(10, top+318, "start", "faint", r.Header.short())
	return s.alone()
}

// RampBreaches are the ramps of the first target whose first step was too much already.
func (r *Results) RampBreaches() []Breach {
	var out []Breach
	for _, c := range r.Curves() {
		if c.Target == r.Header.Targets[0].Name && c.Knee < 0 && c.Steps[0].Failed == 0 {
			out = append(out, Breach{c.Steps[0].Saturated, c.Ramp.String(), "at the first step"})
		}
	}
	return out
}
