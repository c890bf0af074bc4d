package bench

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// WriteTable writes the results as tables for a terminal.
func (r *Results) WriteTable(w io.Writer) error {
	fmt.Fprintln(w, r.Header.describe())
	for _, s := range r.sections() {
		if s.Title != "" {
			fmt.Fprintf(w, "\n%s\n", s.Title)
		}
		if err := s.writeText(w); err != nil {
			return err
		}
	}
	return nil
}

// WriteMarkdown writes the same as tables for a text such as a README.
func (r *Results) WriteMarkdown(w io.Writer) error {
	fmt.Fprintln(w, markdown(r.Header.describe()))
	for _, s := range r.sections() {
		if s.Title != "" {
			fmt.Fprintf(w, "\n### %s\n", markdown(s.Title))
		}
		if err := s.writeMarkdown(w); err != nil {
			return err
		}
	}
	return nil
}

func (h *Header) describe() string {
	m := h.Machine
	s := fmt.Sprintf("%d x %s, %s, %s", m.CPUs, m.CPU, m.Kernel, m.Go)
	if h.Commit != "" {
		s += ", commit " + h.Commit
	}
	s += fmt.Sprintf(", %s; windows of %gs after %gs, %d interleaved repetitions, medians",
		h.At.Format("2006-01-02 15:04 MST"), h.Seconds, h.Warm, h.Reps)
	if h.Pinned {
		s += "; pinned: server with one loop on one processor"
	}
	return s
}

// row is the cell's line.
func (c *Cell) row(base string) []string {
	cells := []string{c.Case, c.Target}
	if c.Runs == 0 { // why stands under the table
		word, rest := "skipped", make([]string, 7)
		if c.Failed > 0 {
			word = "FAILED"
		}
		if base != "" {
			rest = make([]string, 9)
		}
		return append(append(cells, word), rest...)
	}
	cells = append(cells, c.format(c.Value.Median), c.format(c.Value.Low)+"-"+c.format(c.Value.High))
	if base != "" {
		if c.Ratio.N > 0 {
			cells = append(cells, fmt.Sprintf("%.2f", c.Ratio.Median), fmt.Sprintf("%.2f-%.2f", c.Ratio.Low, c.Ratio.High))
		} else {
			cells = append(cells, "", "")
		}
	}
	latency := func(s Spread) string {
		if s.N == 0 {
			return ""
		}
		return formatMicros(s.Median)
	}
	rate, allocs, rss := "", "", ""
	if c.Mallocs.N > 0 {
		allocs = fmt.Sprintf("%.3g", c.Mallocs.Median)
	}
	if c.Rate.N > 0 {
		rate = formatCount(c.Rate.Median) + "/s"
	}
	if c.RSS.N > 0 {
		rss = formatBytes(c.RSS.Median)
	}
	runs := strconv.Itoa(c.Runs)
	if c.Failed > 0 {
		runs += fmt.Sprintf(" (%d FAILED)", c.Failed)
	}
	if c.Bottle > 0 {
		runs += fmt.Sprintf(" (generator-bound %d)", c.Bottle)
	}
	return append(cells, rate, latency(c.P50), latency(c.P99), allocs, rss, runs)
}

// format writes a value of the cell's metric.
func (c *Cell) format(x float64) string {
	if c.Metric == MetricMemory {
		return formatBytes(x) + "/conn"
	}
	return formatMicros(x)
}

// notes says what a reader of the table must know.
func (r *Results) notes() []string {
	var out []string
	metrics := map[Metric]bool{}
	left := map[[2]string][]string{} // by target and reason
	for _, c := range r.Cells() {
		if c.elsewhere() {
			left[[2]string{c.Target, c.Skipped}] = append(left[[2]string{c.Target, c.Skipped}], c.Case)
			continue
		}
		if c.Runs > 0 {
			metrics[c.Metric] = true
		}
		if c.Failed > 0 {
			out = append(out, fmt.Sprintf("%s of %s FAILED %d times: %s", c.Case, c.Target, c.Failed, c.Error))
		}
		if c.Skipped != "" {
			out = append(out, fmt.Sprintf("%s of %s skipped: %s", c.Case, c.Target, c.Skipped))
		}
	}
	byText := func(a, b [2]string) int { return slices.Compare(a[:], b[:]) }
	for _, who := range slices.SortedFunc(maps.Keys(left), byText) {
		out = append(out, fmt.Sprintf("%s is left out of %s: %s", who[0], strings.Join(left[who], ", "), who[1]))
	}
	if metrics[MetricCPU] {
		out = append(out, "server cost: CPU (user and system) of the server process a message; idle: its memory a connection. allocs: its heap allocations a message.")
	}
	if metrics[MetricTime] {
		out = append(out, "Where the server's process is unknown, the cost is wall time a message.")
	}
	if r.Header.Reps < 5 {
		out = append(out, fmt.Sprintf("%d repetitions do not show differences under some 15 %%: run more before you decide.", r.Header.Reps))
	}
	return out
}

// Failed reports whether any run ended in an error.
func (r *Results) Failed() bool { return failures(r.Runs) > 0 }

func formatMicros(us float64) string {
	switch {
	case us == 0:
		return "0"
	case math.Abs(us) < 1:
		return fmt.Sprintf("%.3gµs", us)
	case math.Abs(us) < 1e3:
		return trimNumber(us) + "µs"
	case math.Abs(us) < 1e6:
		return trimNumber(us/1e3) + "ms"
	}
	return trimNumber(us/1e6) + "s"
}

func formatBytes(n float64) string {
	switch {
	case math.Abs(n) < 1<<10:
		return fmt.Sprintf("%.0fB", n)
	case math.Abs(n) < 1<<20:
		return trimNumber(n/(1<<10)) + "KiB"
	}
	return trimNumber(n/(1<<20)) + "MiB"
}

func formatCount(n float64) string {
	switch {
	case n < 1e4:
		return fmt.Sprintf("%.0f", n)
	case n < 1e6:
		return trimNumber(n/1e3) + "k"
	}
	return trimNumber(n/1e6) + "M"
}

// trimNumber writes three significant digits.
func trimNumber(x float64) string {
	switch {
	case math.Abs(x) >= 100:
		return strconv.FormatFloat(x, 'f', 0, 64)
	case math.Abs(x) >= 10:
		return strconv.FormatFloat(x, 'f', 1, 64)
	}
	return strconv.FormatFloat(x, 'f', 2, 64)
}

// Headline is a run in a few words.
func (r *Run) Headline() string {
	switch {
	case r.Error != "":
		return "FAILED: " + strings.ReplaceAll(r.Error, "\n", "; ")
	case r.Skipped != "":
		return "skipped: " + r.Skipped
	}
	var parts []string
	if x, ok := MetricCPU.of(r); ok {
		parts = append(parts, formatMicros(x)+" CPU")
	}
	if x, ok := MetricMemory.of(r); ok {
		parts = append(parts, formatBytes(x)+" a connection")
	}
	if r.Rate > 0 {
		parts = append(parts, formatCount(r.Rate)+"/s")
	}
	if r.Latency != nil {
		if x, ok := r.Latency.At(99); ok {
			parts = append(parts, "p99 "+formatMicros(x))
		}
	}
	return strings.Join(parts, ", ")
}
