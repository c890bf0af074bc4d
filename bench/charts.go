package bench

import (
	"fmt"
	"slices"
	"strconv"
)

// colours gives every target a colour class, the subject the first.
func (r *Results) colours() map[string]string {
	out := map[string]string{}
	for i, t := range r.Header.Targets {
		out[t.Name] = "s" + strconv.Itoa(i%len(seriesColours))
	}
	return out
}

const (
	chartWidth = 860.0
	labelWidth = 170.0
	rowHeight  = 24.0
	laneHeight = 9.0 // of a target in a case's row, so that several do not overlap
)

// legend draws names from x on and returns the y below it.
func (s *svg) legend(names []string, class map[string]string, x, y float64) float64 {
	at := x
	for _, n := range names {
		width := 28 + 7*float64(len(n))
		if at+width > s.w && at > x {
			at, y = x, y+18
		}
		s.circle(at+6, y, 5, class[n], "")
		s.text(at+16, y+4, "start", "", n)
		at += width
	}
	return y + 18
}

func legendRows(names []string, x float64) int {
	at, rows := x, 1
	for _, n := range names {
		width := 28 + 7*float64(len(n))
		if at+width > chartWidth && at > x {
			at = x
			rows++
		}
		at += width
	}
	return rows
}

// summary draws every case's cost relative to the base, a dot with quartiles for each target;
// without a base, the absolute cost. It returns "" if no case has a cost.
func (r *Results) summary(standalone bool) string {
	rows, names := r.summaryRows()
	if len(rows) == 0 {
		return ""
	}
	class := r.colours()
	top := 34 + 18*float64(legendRows(names, 10))
	height := caseHeight(len(names))
	s := newSVG(chartWidth, top+height*float64(len(rows))+52)
	if standalone {
		s.b.WriteString(`<rect width="100%" height="100%" fill="none"/>`)
	}
	title := "Cost of the server: CPU a message, idle: memory a connection"
	if r.Header.Base != "" {
		title += ", as a multiple of " + r.Header.Base
	}
	s.text(10, 18, "start", "bold", title+" (left is better)")
	s.legend(names, class, 10, 38)
	x := logScale(rowValues(rows), labelWidth, chartWidth-30)
	bottom := top + height*float64(len(rows))
	for i := 0; i < len(rows); i += 2 {
		s.rect(0, top+height*float64(i), s.w, height, "stripe", "")
	}
	for _, t := range x.ticks() {
		s.line(x.at(t), top, x.at(t), bottom, "grid")
		s.text(x.at(t), bottom+16, "middle", "faint", tickText(t, r.Header.Base == ""))
	}
	if r.Header.Base != "" && x.lo <= 1 && x.hi >= 1 {
		s.line(x.at(1), top, x.at(1), bottom, "one")
	}
	for i, row := range rows {
		s.dotRow(row, names, x, top+height*float64(i), class)
	}
	s.text(10, bottom+40, "start", "faint", r.Header.short())
	if standalone {
		return s.alone()
	}
	return s.inline()
}

func tickText(v float64, micros bool) string {
	if micros {
		return formatMicros(v)
	}
	return "x" + strconv.FormatFloat(v, 'g', 3, 64)
}

// short returns the header as a line below a chart.
func (h *Header) short() string {
	s := fmt.Sprintf("median and quartiles of %d interleaved runs; %d x %s, %s, %s", h.Reps, h.Machine.CPUs, h.Machine.CPU, h.Machine.Kernel, h.Machine.Go)
	if h.Commit != "" {
		s += ", commit " + h.Commit
	}
	return s + ", " + h.At.Format("2006-01-02")
}

type dotRow struct {
	name string
	dots []dot
}

type dot struct {
	target string
	own    bool // a server of this project: a larger dot
	value  Spread
	title  string
}

// summaryRows returns the cases with a cost, and the targets in them.
func (r *Results) summaryRows() (rows []dotRow, names []string) {
	byCase := map[string]*dotRow{}
	own := map[string]bool{}
	for _, t := range r.Header.Targets {
		own[t.Name] = t.own()
	}
	for _, c := range r.Cells() {
		v := c.Ratio
		if r.Header.Base == "" {
			v = c.Value
		}
		if v.N == 0 || r.Header.Base == "" && c.Metric != MetricCPU {
			continue
		}
		row := byCase[c.Case]
		if row == nil {
			row = &dotRow{name: c.Case}
			byCase[c.Case] = row
		}
		row.dots = append(row.dots, dot{c.Target, own[c.Target], v, c.tooltip()})
		if !slices.Contains(names, c.Target) {
			names = append(names, c.Target)
		}
	}
	for _, name := range r.Header.Cases {
		if row := byCase[name]; row != nil && (r.Header.Base == "" || len(row.dots) > 1) {
			rows = append(rows, *row)
		}
	}
	return rows, names
}

func (c *Cell) tooltip() string {
	t := fmt.Sprintf("%s %s: %s (%s to %s), %d runs", c.Case, c.Target, c.format(c.Value.Median), c.format(c.Value.Low), c.format(c.Value.High), c.Runs)
	if c.Ratio.N > 0 {
		t += fmt.Sprintf("; x%.2f (%.2f to %.2f)", c.Ratio.Median, c.Ratio.Low, c.Ratio.High)
	}
	return t
}

func rowValues(rows []dotRow) []float64 {
	var out []float64
	for _, r := range rows {
		for _, d := range r.dots {
			out = append(out, d.value.Median, d.value.Low, d.value.High)
		}
	}
	return out
}

// caseHeight returns the height of a case's row with this many targets.
func caseHeight(targets int) float64 { return max(rowHeight, laneHeight*float64(targets)+8) }

// dotRow draws a case, with a lane for each target.
func (s *svg) dotRow(row dotRow, names []string, x scale, top float64, class map[string]string) {
	height := caseHeight(len(names))
	s.text(labelWidth-10, top+height/2+4, "end", "", row.name)
	pad := (height - laneHeight*float64(len(names))) / 2
	for _, d := range row.dots {
		y := top + pad + laneHeight*(float64(slices.Index(names, d.target))+0.5)
		s.line(x.at(d.value.Low), y, x.at(d.value.High), y, "whisker "+class[d.target])
		radius := laneHeight/2 - 1
		if d.own {
			radius += 1.2
		}
		s.circle(x.at(d.value.Median), y, radius, class[d.target], d.title)
	}
}

// bars draws a case's cost as bars with quartile whiskers.
func bars(cells []Cell, class map[string]string, value func(*Cell) Spread, format func(float64) string) string {
	var shown []Cell
	var xs []float64
	for _, c := range cells {
		if v := value(&c); v.N > 0 {
			shown = append(shown, c)
			xs = append(xs, v.High)
		}
	}
	if len(shown) == 0 {
		return ""
	}
	s := newSVG(chartWidth/2-10, rowHeight*float64(len(shown))+10)
	x := linearScale(xs, 115, s.w-75)
	for i := range shown {
		c := &shown[i]
		v, y := value(c), rowHeight*float64(i)+4
		s.text(108, y+14, "end", "", c.Target)
		s.rect(x.from, y+3, x.at(v.Median)-x.from, rowHeight-9, class[c.Target], c.tooltip())
		mid := y + rowHeight/2 - 1.5
		s.line(x.at(v.Low), mid, x.at(v.High), mid, "axis")
		s.text(max(x.at(v.High), x.at(v.Median))+6, y+14, "start", "", format(v.Median))
	}
	return s.inline()
}

// series is a line of a chart.
type series struct {
	name   string
	points [][2]float64 // values, not coordinates
}

// axes are the properties of a line chart.
type axes struct {
	x, y            string
	xText, yText    func(float64) string
	xTicks          []float64 // nil: round values
	linearY, narrow bool
}

// lines draws series over a logarithmic x axis.
func lines(all []series, class map[string]string, a axes) string {
	var xs, ys []float64
	for _, l := range all {
		for _, p := range l.points {
			xs, ys = append(xs, p[0]), append(ys, p[1])
		}
	}
	if len(xs) == 0 {
		return ""
	}
	width := chartWidth
	if a.narrow {
		width = chartWidth/2 - 10
	}
	s := newSVG(width, 300)
	x := logScale(xs, 70, width-20)
	x.lo, x.hi = slices.Min(xs), max(slices.Max(xs), slices.Min(xs)*1.01)
	if a.xTicks == nil {
		a.xTicks = logScale(xs, 0, 1).ticks()
	}
	y := logScale(ys, 255, 20)
	if a.linearY {
		y = linearScale(ys, 255, 20)
	}
	for _, t := range y.ticks() {
		s.line(70, y.at(t), width-20, y.at(t), "grid")
		s.text(64, y.at(t)+4, "end", "faint", a.yText(t))
	}
	for _, t := range a.xTicks {
		if t >= x.lo*0.999 && t <= x.hi*1.001 {
			s.line(x.at(t), 20, x.at(t), 255, "grid")
			s.text(x.at(t), 271, "middle", "faint", a.xText(t))
		}
	}
	s.text(width/2, 292, "middle", "faint", a.x)
	s.text(6, 12, "start", "faint", a.y)
	for _, l := range slices.Backward(all) {
		pts := make([][2]float64, len(l.points))
		for i, p := range l.points {
			pts[i] = [2]float64{x.at(p[0]), y.at(p[1])}
		}
		s.path(pts, "line "+class[l.name])
		for i, p := range pts {
			s.circle(p[0], p[1], 3, class[l.name], fmt.Sprintf("%s: %s, %s", l.name, a.xText(l.points[i][0]), a.yText(l.points[i][1])))
		}
	}
	return s.inline()
}
