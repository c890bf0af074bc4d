package bench

import (
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"io"
	"strconv"
	"strings"
)

//go:embed report.html
var reportPage string

// WriteSVG writes the summary chart, or that of the first ramp if there are only ramps. It needs a
// case with figures.
func (r *Results) WriteSVG(w io.Writer) error {
	pic := r.summary(true)
	if pic == "" && len(r.Header.Ramps) > 0 {
		pic = r.rampPicture(r.Header.Ramps[0])
	}
	if pic == "" {
		return errors.New("bench: no case has figures to draw")
	}
	_, err := io.WriteString(w, pic+"\n")
	return err
}

// WriteHTML writes the report: one self-contained page with charts, styles and the results.
func (r *Results) WriteHTML(w io.Writer) error {
	page, err := template.New("report").Parse(reportPage)
	if err != nil {
		return fmt.Errorf("bench: report: %w", err)
	}
	data, err := r.page()
	if err != nil {
		return err
	}
	if err := page.Execute(w, data); err != nil {
		return fmt.Errorf("bench: report: %w", err)
	}
	return nil
}

// reportData is what the template shows.
type reportData struct {
	Title, About    string
	Style           template.CSS
	Legend, Summary template.HTML
	Charts          []reportChart // over all cases
	Cases           []reportCase
	Tables          []section
	Raw             template.JS
}

type reportChart struct {
	Title, Text string
	Picture     template.HTML
}

type reportCase struct {
	Name, Unit    string
	Cost, Latency template.HTML
}

func (r *Results) page() (*reportData, error) {
	cells := r.Cells()
	class := r.colours()
	raw, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("bench: report: %w", err)
	}
	d := &reportData{
		Title: "Millrace bench", About: r.Header.describe(), Style: template.CSS(svgStyle()), // our own constants
		Summary: template.HTML(r.summary(false)), Legend: r.legendPicture(class),
		Tables: r.sections(), Raw: template.JS(raw), // JSON of encoding/json, which escapes < and >
	}
	d.charts(cells, class)
	r.rampCharts(d, class)
	for _, name := range r.Header.Cases {
		d.addCase(name, ofCase(cells, name), class)
	}
	d.Tables[0].Title = "All figures"
	return d, nil
}

func (r *Results) legendPicture(class map[string]string) template.HTML {
	var names []string
	for _, t := range r.Header.Targets {
		names = append(names, t.Name)
	}
	s := newSVG(chartWidth, 6+18*float64(legendRows(names, 0)))
	s.legend(names, class, 0, 10)
	return template.HTML(s.inline())
}

func ofCase(cells []Cell, name string) []Cell {
	var out []Cell
	for _, c := range cells {
		if c.Case == name {
			out = append(out, c)
		}
	}
	return out
}

func (d *reportData) addCase(name string, cells []Cell, class map[string]string) {
	w, err := ParseWorkload(name)
	if err != nil {
		w.Kind = Kind(name)
	}
	c := reportCase{Name: name, Unit: w.Unit()}
	c.Cost = template.HTML(bars(cells, class, func(c *Cell) Spread { return c.Value }, func(x float64) string { return cells[0].format(x) }))
	c.Latency = template.HTML(latencyChart(cells, class))
	if c.Cost != "" || c.Latency != "" {
		d.Cases = append(d.Cases, c)
	}
}

// latencyChart: percentiles over a logarithmic axis of what lies above them.
func latencyChart(cells []Cell, class map[string]string) string {
	var all []series
	for _, c := range cells {
		l := series{name: c.Target}
		for i, s := range c.Curve {
			if s.N > 0 && s.Median > 0 {
				l.points = append(l.points, [2]float64{100 / (100 - quantiles[i]), s.Median})
			}
		}
		if len(l.points) > 0 {
			all = append(all, l)
		}
	}
	return lines(all, class, axes{
		x: "percentile", y: "latency", xText: percentText, yText: formatMicros,
		xTicks: []float64{2, 10, 100, 1000, 10000, 100000}, narrow: true,
	})
}

func percentText(x float64) string {
	return "p" + strconv.FormatFloat(100-100/x, 'g', 6, 64)
}

// charts are those over several cases: throughput and cost against connections, memory.
func (d *reportData) charts(cells []Cell, class map[string]string) {
	rate := overConnections(cells, func(c *Cell) Spread { return c.Rate })
	cost := overConnections(cells, func(c *Cell) Spread { return c.Value })
	ticks := []float64{1, 10, 100, 1000, 10000, 100000}
	count := func(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }
	d.chart("Throughput against connections", "echo, 64 B, one request in flight on each, load and server on one machine",
		lines(rate, class, axes{x: "connections", y: "messages a second", xText: count, yText: formatCount, xTicks: ticks, linearY: true}))
	d.chart("Server CPU a message against connections", "the same runs; lower is better",
		lines(cost, class, axes{x: "connections", y: "CPU a message", xText: count, yText: formatMicros, xTicks: ticks, linearY: true}))
	var idle []Cell
	for _, c := range cells {
		if c.Metric == MetricMemory {
			idle = append(idle, c)
		}
	}
	for _, name := range caseNames(idle) {
		group := ofCase(idle, name)
		before := bars(group, class, func(c *Cell) Spread { return c.Value }, formatBytes)
		after := bars(group, class, func(c *Cell) Spread { return c.Echoed }, formatBytes)
		d.chart("Memory of a connection, "+name, "resident size of the server divided by its connections: left untouched, right after one echo each", before+after)
	}
}

func (d *reportData) chart(title, text, picture string) {
	if picture != "" {
		d.Charts = append(d.Charts, reportChart{title, text, template.HTML(picture)})
	}
}

func caseNames(cells []Cell) []string {
	var out []string
	for _, c := range cells {
		if len(out) == 0 || out[len(out)-1] != c.Case {
			out = append(out, c.Case)
		}
	}
	return out
}

// overConnections takes the closed-loop echo cases of depth 1 with the default body; a chart needs two.
func overConnections(cells []Cell, value func(*Cell) Spread) []series {
	byTarget := map[string]*series{}
	var order []string
	for i := range cells {
		c := &cells[i]
		w, err := ParseWorkload(c.Case)
		v := value(c)
		if err != nil || w.Kind != Echo || w.Door != "" || w.Depth != 1 || w.open() || strings.Count(c.Case, "/") > 1 || v.N == 0 {
			continue
		}
		s := byTarget[c.Target]
		if s == nil {
			s = &series{name: c.Target}
			byTarget[c.Target] = s
			order = append(order, c.Target)
		}
		s.points = append(s.points, [2]float64{float64(w.Conns), v.Median})
	}
	var out []series
	for _, name := range order {
		if s := byTarget[name]; len(s.points) > 1 {
			out = append(out, *s)
		}
	}
	return out
}
