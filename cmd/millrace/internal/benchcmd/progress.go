package benchcmd

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"millrace/bench"
)

// progress reports runs: on a terminal in one line that is overwritten, else in a line for each
// run.
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

// start prints how many runs there will be.
func (p *progress) start(runs int, estimate time.Duration) {
	p.say("%d runs, about %v", runs, readable(estimate))
}

// readable rounds an estimate.
func readable(d time.Duration) string {
	if d > 10*time.Minute {
		return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
	}
	return d.Round(time.Second).String()
}

// run is the OnRun function of a bench.Config.
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

// over overwrites the last line.
func (p *progress) over(line string) {
	if len(line) > 118 {
		line = line[:118]
	}
	fmt.Fprintf(p.w, "\r%s%s", line, strings.Repeat(" ", max(0, p.width-len(line))))
	p.width = len(line)
}

// say writes a new line.
func (p *progress) say(format string, args ...any) {
	p.end()
	fmt.Fprintf(p.w, format+"\n", args...)
}

// end finishes the line that is overwritten.
func (p *progress) end() {
	if p.width > 0 {
		p.over("")
		fmt.Fprint(p.w, "\r")
		p.width = 0
	}
}
