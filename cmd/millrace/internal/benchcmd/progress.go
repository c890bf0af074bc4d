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
	begin time.Time
	width int
}

func newProgress(w io.Writer) *progress {
	p := &progress{w: w, begin: time.Now()}
	if f, ok := w.(*os.File); ok {
		st, err := f.Stat()
		p.live = err == nil && st.Mode()&os.ModeCharDevice != 0 && os.Getenv("TERM") != "dumb"
	}
	return p
}

// run is a bench.Config's OnRun.
func (p *progress) run(done, total int, r bench.Run) {
	left := time.Duration(float64(time.Since(p.begin)) / float64(done) * float64(total-done)).Round(time.Second)
	line := fmt.Sprintf("[%d/%d] %s %s %s", done, total, r.Case, r.Target, r.Headline())
	if p.live {
		line += fmt.Sprintf(" · %v left", left)
		p.over(line)
		return
	}
	fmt.Fprintln(p.w, line)
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
