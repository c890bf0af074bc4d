package bench

import (
	"fmt"
	"html"
	"math"
	"strconv"
	"strings"
)

// svg builds a picture. Colours are classes (s0 to s11 for series), so that one style sheet serves
// light and dark pages.
type svg struct {
	b    strings.Builder
	w, h float64
}

// seriesColours are told apart by people with the common colour deficiencies where there are few of them
// (Okabe and Ito 2008); the first is the subject of the report.
var seriesColours = []string{
	"#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#8f7700", "#7a5195", "#6b6b6b", "#a05d3a", "#2f9e9e", "#b02e4c",
}

// svgStyle is the sheet of every picture.
func svgStyle() string {
	var b strings.Builder
	b.WriteString(`svg{font:12px system-ui,sans-serif}svg text{fill:#222}.axis{stroke:#888;stroke-width:1;fill:none}.grid{stroke:#ddd;stroke-width:1}` +
		`.faint{fill:#666}.bold{font-weight:600}.line{fill:none;stroke-width:2}.whisker{stroke-width:2;opacity:.55}.one{stroke:#444;stroke-dasharray:4 3}.stripe{fill:#f6f6f6}`)
	for i, c := range seriesColours {
		fmt.Fprintf(&b, `.s%d{fill:%s;stroke:%s}text.s%d{stroke:none}.line.s%d{fill:none}`, i, c, c, i, i)
	}
	b.WriteString(`@media(prefers-color-scheme:dark){svg text{fill:#ddd}.grid{stroke:#333}.axis{stroke:#999}.faint{fill:#aaa}.one{stroke:#bbb}.stripe{fill:#1c1c1c}}`)
	return b.String()
}

func newSVG(w, h float64) *svg { return &svg{w: w, h: h} }

// f writes a coordinate.
func f(x float64) string { return strconv.FormatFloat(math.Round(x*10)/10, 'f', -1, 64) }

func (s *svg) line(x1, y1, x2, y2 float64, class string) {
	fmt.Fprintf(&s.b, `<line x1="%s" y1="%s" x2="%s" y2="%s" class="%s"/>`, f(x1), f(y1), f(x2), f(y2), class)
}

func (s *svg) rect(x, y, w, h float64, class, title string) {
	fmt.Fprintf(&s.b, `<rect x="%s" y="%s" width="%s" height="%s" class="%s">`, f(x), f(y), f(max(0, w)), f(h), class)
	s.title(title)
	s.b.WriteString(`</rect>`)
}

func (s *svg) circle(x, y, r float64, class, title string) {
	fmt.Fprintf(&s.b, `<circle cx="%s" cy="%s" r="%s" class="%s">`, f(x), f(y), f(r), class)
	s.title(title)
	s.b.WriteString(`</circle>`)
}

func (s *svg) title(t string) {
	if t != "" {
		fmt.Fprintf(&s.b, `<title>%s</title>`, html.EscapeString(t))
	}
}

// text anchors at start, middle or end.
func (s *svg) text(x, y float64, anchor, class, t string) {
	fmt.Fprintf(&s.b, `<text x="%s" y="%s" text-anchor="%s" class="%s">%s</text>`, f(x), f(y), anchor, class, html.EscapeString(t))
}

func (s *svg) path(points [][2]float64, class string) {
	s.b.WriteString(`<path d="`)
	for i, p := range points {
		op := "L"
		if i == 0 {
			op = "M"
		}
		s.b.WriteString(op + f(p[0]) + " " + f(p[1]))
	}
	fmt.Fprintf(&s.b, `" class="%s"/>`, class)
}

// inline is the picture for an HTML page that has the style sheet.
func (s *svg) inline() string { return s.wrap("") }

// alone is the picture as a file.
func (s *svg) alone() string { return s.wrap("<style>" + svgStyle() + "</style>") }

func (s *svg) wrap(style string) string {
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %s %s" width="%s" height="%s" role="img">%s%s</svg>`,
		f(s.w), f(s.h), f(s.w), f(s.h), style, s.b.String())
}

// scale maps values to coordinates, linearly or by logarithm.
type scale struct {
	lo, hi   float64 // values
	from, to float64 // coordinates
	log      bool
}

func (a scale) at(v float64) float64 {
	if a.log {
		return a.from + (math.Log(max(v, 1e-12))-math.Log(a.lo))/(math.Log(a.hi)-math.Log(a.lo))*(a.to-a.from)
	}
	return a.from + (v-a.lo)/(a.hi-a.lo)*(a.to-a.from)
}

// logScale covers xs with steps of 1, 2 and 5.
func logScale(xs []float64, from, to float64) scale {
	lo, hi := math.Inf(1), 0.0
	for _, x := range xs {
		if x > 0 {
			lo, hi = min(lo, x), max(hi, x)
		}
	}
	if hi == 0 {
		lo, hi = 1, 10
	}
	lo, hi = stepBelow(lo), stepAbove(hi)
	if lo == hi {
		hi = stepAbove(hi * 1.01)
	}
	return scale{lo, hi, from, to, true}
}

// linearScale starts at zero.
func linearScale(xs []float64, from, to float64) scale {
	hi := 0.0
	for _, x := range xs {
		hi = max(hi, x)
	}
	if hi == 0 {
		hi = 1
	}
	return scale{0, stepAbove(hi), from, to, false}
}

func stepBelow(x float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(x)))
	for _, m := range []float64{5, 2} {
		if x >= m*p*(1-1e-9) {
			return m * p
		}
	}
	return p
}

func stepAbove(x float64) float64 {
	p := math.Pow(10, math.Floor(math.Log10(x)))
	for _, m := range []float64{1, 2, 5} {
		if x <= m*p*(1+1e-9) {
			return m * p
		}
	}
	return 10 * p
}

// ticks are round values on the scale.
func (a scale) ticks() []float64 {
	var out []float64
	if !a.log {
		step := stepBelow((a.hi - a.lo) / 4)
		for i := 0.0; a.lo+i*step <= a.hi*(1+1e-9); i++ {
			out = append(out, a.lo+i*step)
		}
		return out
	}
	steps := []float64{1, 2, 5}
	if a.hi/a.lo > 1e3 {
		steps = steps[:1]
	}
	for p := math.Pow(10, math.Floor(math.Log10(a.lo)+1e-9)); p <= a.hi*(1+1e-9); p *= 10 {
		for _, m := range steps {
			if v := m * p; v >= a.lo*(1-1e-9) && v <= a.hi*(1+1e-9) {
				out = append(out, v)
			}
		}
	}
	return out
}
