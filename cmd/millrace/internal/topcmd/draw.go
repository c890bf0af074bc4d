package topcmd

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"millrace/services/admin/live"
)

// screen is the terminal that top draws on.
type screen struct {
	width, height int // columns and lines; 0 lines: no limit
	color         bool
}

// The colours of levels, and of less important text.
const (
	red, yellow, green, dim, bold = "31", "33", "32", "2", "1"
	levelWidth                    = 9
)

func (s screen) paint(code, text string) string {
	if !s.color || text == "" {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s screen) level(level string) string {
	switch level {
	case live.Bad:
		return red
	case live.Warn:
		return yellow
	default:
		return dim
	}
}

// page collects lines. Each is cut to the screen's width before it is coloured.
type page struct {
	screen
	lines []string
}

// line adds a line in the colour code.
func (p *page) line(code, format string, args ...any) {
	text := cut(fmt.Sprintf(format, args...), p.width)
	if code != "" {
		text = p.paint(code, text)
	}
	p.lines = append(p.lines, text)
}

func (p *page) head(format string, args ...any) {
	if n := len(p.lines); n > 0 && p.lines[n-1] != "" {
		p.lines = append(p.lines, "")
	}
	p.line(bold, format, args...)
}

// cut removes control characters from text and limits it to width.
func cut(text string, width int) string {
	text = strings.Map(func(r rune) rune {
		if r == utf8.RuneError || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, strings.TrimRight(text, " "))
	if utf8.RuneCountInString(text) <= width {
		return text
	}
	return string([]rune(text)[:max(width-1, 0)]) + "…"
}

// draw returns the last answer as lines of text.
func (t *top) draw(s screen) []byte {
	p := &page{screen: s}
	t.drawHead(p)
	t.drawFindings(p)
	t.drawRates(p)
	t.drawLimits(p)
	t.drawLoops(p)
	t.drawHandles(p)
	t.drawCosts(p)
	t.drawSessions(p)
	t.drawBacks(p)
	t.drawLog(p)
	if s.height > 0 && len(p.lines) > s.height {
		p.lines = p.lines[:s.height]
	}
	return []byte(strings.Join(p.lines, "\n") + "\n")
}

func (t *top) drawHead(p *page) {
	v := &t.seen
	state, code := "ready", green
	switch {
	case v.Draining:
		state, code = "draining", yellow
	case !v.Ready:
		state, code = "not ready: "+strings.Join(v.Reasons, ", "), red
	}
	up := time.Duration(v.At-v.Started) * time.Millisecond
	p.line(code, "millrace %s  %s  up %v  %d sessions  %s", v.Node, state, up.Round(time.Second), v.Total, time.UnixMilli(v.At).Format(time.TimeOnly))
	if t.fault != nil {
		p.line(red, "no answer since %s: %v", t.heard.Format(time.TimeOnly), t.word(t.fault))
	}
}

func (t *top) drawFindings(p *page) {
	p.head("WHAT IS WRONG")
	if len(t.seen.Findings) == 0 {
		p.line(green, "nothing is slow, full, paused, refused or failing")
	}
	for _, f := range t.seen.Findings {
		since := time.Duration(t.seen.At-f.Since) * time.Millisecond
		text := fmt.Sprintf("%-*s %-22s %s, for %v", levelWidth, strings.ToUpper(f.Kind), f.What, f.Text, since.Round(time.Second))
		if f.Do != "" {
			text += " (" + f.Do + ")"
		}
		p.line(p.level(f.Level), "%s", text)
	}
}

// bars are block characters in eighths of a line's height.
var bars = []rune("▁▂▃▄▅▆▇█")

// spark draws the last values, as many as fit.
func spark(points []live.Point, width int, of func(live.Point) float64) string {
	points = points[max(0, len(points)-width):]
	most := 0.0
	for _, p := range points {
		most = max(most, of(p))
	}
	line := []rune(strings.Repeat(" ", width-len(points)))
	for _, p := range points {
		i := 0
		if most > 0 {
			i = int(of(p) / most * float64(len(bars)-1))
		}
		line = append(line, bars[min(max(i, 0), len(bars)-1)])
	}
	return string(line)
}

func rate(n float64) string { return number(n) + "/s" }

// number writes n in few characters.
func number(n float64) string {
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1fG", n/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1fM", n/1e6)
	case n >= 1e4:
		return fmt.Sprintf("%.1fk", n/1e3)
	case n >= 10 || n == float64(int64(n)):
		return fmt.Sprintf("%.0f", n)
	default:
		return fmt.Sprintf("%.1f", n)
	}
}

func ms(n float64) string { return live.Duration(n / 1000) }

func sizeRate(n float64) string { return live.Size(n) + "/s" }

func (t *top) drawRates(p *page) {
	p.head("RATES")
	var now live.Point
	if n := len(t.history); n > 0 {
		now = t.history[n-1]
	}
	rows := []struct {
		name string
		text string
		of   func(live.Point) float64
	}{
		{"accepted", rate(now.Accepts), func(p live.Point) float64 { return p.Accepts }},
		{"closed", rate(now.Closes), func(p live.Point) float64 { return p.Closes }},
		{"refused", rate(now.Refused), func(p live.Point) float64 { return p.Refused }},
		{"requests", rate(now.Frames), func(p live.Point) float64 { return p.Frames }},
		{"ERRORs", rate(now.Errors), func(p live.Point) float64 { return p.Errors }},
		{"paused", rate(now.Paused), func(p live.Point) float64 { return p.Paused }},
		{"wait p50/p99", ms(now.WaitP50) + "/" + ms(now.WaitP99), func(p live.Point) float64 { return p.WaitP99 }},
		{"handlers p50/p99", ms(now.RunP50) + "/" + ms(now.RunP99), func(p live.Point) float64 { return p.RunP99 }},
		{"in", sizeRate(now.BytesIn), func(p live.Point) float64 { return p.BytesIn }},
		{"out", sizeRate(now.BytesOut), func(p live.Point) float64 { return p.BytesOut }},
		{"CPUs", number(now.CPU), func(p live.Point) float64 { return p.CPU }},
		{"held by sessions", live.Size(float64(now.Memory)), func(p live.Point) float64 { return float64(p.Memory) }},
	}
	columns := 1
	if p.width >= 96 {
		columns = 2
	}
	for i := 0; i < len(rows); i += columns {
		line := ""
		for _, r := range rows[i:min(i+columns, len(rows))] {
			line += fmt.Sprintf("%-16s %14s %s  ", r.name, r.text, spark(t.history, 15, r.of))
		}
		p.line("", "%s", line)
	}
	pool := &t.seen.Pool
	p.line("", "workers %d, %d idle, %d blocked; waiting: %d sessions, %d functions; paused for memory: %d", pool.Workers, pool.Idle, pool.Blocked, pool.Sessions, pool.Queue, t.seen.Starving)
}

func (t *top) drawLimits(p *page) {
	limits := t.seen.Limits
	if len(limits) == 0 {
		return
	}
	p.head("%-24s %-22s %12s %12s %6s", "LIMIT", "", "USED", "OF", "NEAR")
	for _, l := range limits[:min(len(limits), 6)] {
		part := 0.0
		if l.Max > 0 {
			part = float64(l.Used) / float64(l.Max)
		}
		code := ""
		switch {
		case part >= 1:
			code = red
		case part >= 0.9:
			code = yellow
		}
		full := min(int(part*20+0.5), 20)
		used, most := fmt.Sprint(l.Used), fmt.Sprint(l.Max)
		if l.Bytes {
			used, most = live.Size(float64(l.Used)), live.Size(float64(l.Max))
		}
		p.line(code, "%-24s [%s%s] %12s %12s %6d %s", l.Flag, strings.Repeat("#", full), strings.Repeat(".", 20-full), used, most, l.Near, l.Who)
	}
}

func (t *top) drawLoops(p *page) {
	p.head("%-5s %9s %11s %11s %11s %7s %10s %10s %9s", "LOOP", "SESSIONS", "REQUESTS/S", "IN/S", "OUT/S", "DIRTY", "OUTBOX", "BLOCKED/S", "PAUSED/S")
	for _, l := range t.seen.Loops {
		code := ""
		switch {
		case l.HandOver > 0:
			code = red
		case l.Pauses >= 1 || l.Blocked >= 1:
			code = yellow
		}
		p.line(code, "%-5d %9d %11s %11s %11s %7d %10s %10s %9s", l.Loop, l.Sessions, number(l.Frames), live.Size(l.BytesIn), live.Size(l.BytesOut),
			l.Dirty, live.Size(float64(l.Outbox)), number(l.Blocked), number(l.Pauses))
	}
}

func (t *top) drawHandles(p *page) {
	p.head("%-9s %11s %10s %10s %10s %12s", "HANDLE", "REQUESTS/S", "P50", "P99", "ERRORS/S", "IN ALL")
	for _, h := range t.seen.Handles[:min(len(t.seen.Handles), t.Limit)] {
		code := ""
		switch {
		case h.Errors > 0:
			code = red
		case h.P99 >= 100:
			code = yellow
		}
		p.line(code, "%-9s %11s %10s %10s %10s %12d", h.Handle, number(h.Requests), ms(h.P50), ms(h.P99), number(h.Errors), h.Total)
	}
}

// mostCosts is the number of most expensive sessions, handles and tags shown.
const mostCosts = 5

// drawCosts shows what used the CPU in the last second: sessions, handles and tags, side by side.
func (t *top) drawCosts(p *page) {
	c := t.seen.Costs
	if c == nil || !c.Known {
		return
	}
	const row = "%-14s %-26s %-12s %9s   %-9s %9s   %-12s %9s"
	p.head("WHO COSTS WHAT: %s of %s a second, that of the process", ms(c.Busy), ms(c.Process))
	p.line(bold, row, "SESSION", "ADDRESS", "TAG", "TIME/S", "HANDLE", "TIME/S", "TAG", "TIME/S")
	for i := range min(max(len(c.Sessions), len(c.Handles), len(c.Tags)), mostCosts, t.Limit) {
		at := func(list []live.Cost) (live.Cost, string) {
			if i < len(list) {
				return list[i], ms(list[i].Busy)
			}
			return live.Cost{}, ""
		}
		s, sessionTime := at(c.Sessions)
		h, handleTime := at(c.Handles)
		g, tagTime := at(c.Tags)
		if tagTime != "" && g.Name == "" {
			g.Name = "without"
		}
		p.line("", row, s.Name, s.Addr, s.Tag, sessionTime, h.Name, handleTime, g.Name, tagTime)
	}
}

func (t *top) drawSessions(p *page) {
	p.head("%-14s %-26s %10s %10s %10s %10s %10s  %s", "BY "+strings.ToUpper(t.Sort), "ADDRESS", "UNSENT", "PENDING", "REQUESTS", "IN", "OUT", "STATE")
	for _, s := range t.seen.Sessions {
		code, state := "", ""
		switch {
		case s.Reason != "":
			code, state = dim, "closed: "+s.Reason
		case len(s.Paused) > 0:
			code, state = yellow, "paused: "+strings.Join(s.Paused, ", ")
		case s.Away:
			state = "away"
		}
		p.line(code, "%-14s %-26s %10s %10s %10d %10s %10s  %s", fmt.Sprintf("%d.%d", s.Index, s.Round), s.Addr, live.Size(float64(s.Unsent)), live.Size(float64(s.Pending)),
			s.FramesIn, live.Size(float64(s.BytesIn)), live.Size(float64(s.BytesOut)), state)
	}
}

func (t *top) drawBacks(p *page) {
	for _, b := range t.seen.Backs {
		var parts []string
		for _, v := range b.Values {
			if v.Total {
				parts = append(parts, v.Name+" "+rate(v.Rate))
			} else {
				parts = append(parts, v.Name+" "+number(v.Value))
			}
		}
		p.head("%s", strings.ToUpper(b.Name))
		if b.Down != "" {
			p.line(red, "%s", b.Down)
		}
		p.line("", "%s", strings.Join(parts, ", "))
	}
}

func (t *top) drawLog(p *page) {
	if len(t.log) == 0 {
		return
	}
	p.head("LOG")
	for i := len(t.log) - 1; i >= max(0, len(t.log)-12); i-- {
		e := t.log[i]
		again := ""
		if e.N > 1 {
			again = fmt.Sprintf(" (%d times)", e.N)
		}
		p.line(p.level(e.Level), "%s %-*s %s%s", time.UnixMilli(e.At).Format(time.TimeOnly), levelWidth, e.Kind, e.Text, again)
	}
}
