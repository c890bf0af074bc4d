package benchcmd

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"millrace/bench"
)

// progress reports runs: one line that is written over on a terminal, a line a run elsewhere.
type progress struct {
	w     io.Writer
	live  bool
	width int
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w}
	if f, ok := w.(*os.File); ok {
		st, err := f.Stat()
		p.live = err == nil && st.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	}
	return p
}

// start says what is ahead.
func (p *progress) start(runs int, estimate time.Duration) {
	p.say("%d runs, about %v", runs, readable(estimate))
}

// readable rounds to what an estimate is good for.
func readable(d time.Duration) string {
	if d > 10*time.Minute {
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return d.Round(time.Second).String()
}

// run is a bench.Config's OnRun.
func (p *progress) run(at bench.Progress, r bench.Run) {
	line := fmt.Sprintf("[%d/%d", at.Done, at.Total)
	if at.Left > 0 {
		line += fmt.Sprintf(", %v left", readable(at.Left))
	}
	line += fmt.Sprintf("] %s %s %s", r.Case, r.Target, r.Headline())
	if r.Error != "" || !p.live { // a failure stays on the screen
		p.say("%s", line)
		return
	}
	p.over(line)
}

// over writes line over the last one.
func (p *progress) over(line string) {
	if len(line) > 118 {
		line = line[:118]
	}
	fmt.Fprintf(p.w, "\r%s%s", line, strings.Repeat(" ", max(0, p.width-len(line))))
	p.width = len(line)
}

// say writes a line of its own.
func (p *progress) say(format string, args ...any) {
	p.end()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// end leaves the line that is written over.
func (p *progress) end() {
	if p.width > 0 {
		p.over("")
		fmt.Fprint(p.w, "\r")
		p.width = 0
	}
}
