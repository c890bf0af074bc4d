package bench

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// section is one table of a report, for a terminal, a page or a text.
type section struct {
	Title, Text string
	Heads       []string
	Left        int // columns that hold words
	Rows        [][]string
	Notes       []string
}

// sections are the tables that r has something for.
func (r *Results) sections() []section {
	out := []section{r.overview()}
	out = append(out, r.latencies()...)
	for _, ramp := range r.Header.Ramps {
		out = append(out, r.rampSection(ramp))
	}
	out = append(out, r.doorways(), r.overNodes())
	out = append(out, r.besides()...)
	all := out[:1] // the overview is always there: it has the notes
	for _, s := range out[1:] {
		if len(s.Rows) > 0 || len(s.Notes) > 0 {
			all = append(all, s)
		}
	}
	return all
}

// overview has a line a cell.
func (r *Results) overview() section {
	s := section{Left: 2, Notes: r.notes(), Heads: []string{"case", "target", "server cost", "quartiles"}}
	if r.Header.Base != "" {
		s.Heads = append(s.Heads, "x "+r.Header.Base, "quartiles")
	}
	s.Heads = append(s.Heads, "rate", "p50", "p99", "allocs", "RSS", "runs")
	for _, c := range r.Cells() {
		if !c.elsewhere() {
			s.Rows = append(s.Rows, c.row(r.Header.Base))
		}
	}
	return s
}

// elsewhere: the target does not listen on an address of the case's kind, or is no node of several.
func (c *Cell) elsewhere() bool {
	return c.Runs == 0 && c.Failed == 0 && (strings.HasPrefix(c.Skipped, noDoor) || c.Skipped == noNodes)
}

// latencies are the cases at a fixed rate.
func (r *Results) latencies() []section {
	s := section{
		Title: "Latency at a fixed rate", Left: 2,
		Text:  "Open loop, from when a request was due. A rate in percent is a part of what the base answered in a closed loop of the same shape.",
		Heads: []string{"case", "target", "offered", "answered", "p50", "p99", "p99.9", "lag p99"},
	}
	base := r.Header.Base
	if base != "" {
		s.Heads = append(s.Heads, "p50 x "+base, "quartiles", "p99 x "+base, "quartiles")
	}
	late, runs := 0, 0
	for _, c := range r.Cells() {
		if c.Offered.N == 0 {
			continue
		}
		row := []string{c.Case, c.Target, formatCount(c.Offered.Median) + "/s", formatCount(c.Rate.Median) + "/s",
			formatMicros(c.P50.Median), formatMicros(c.P99.Median), formatMicros(c.P999.Median), formatMicros(c.Lag.Median)}
		if base != "" {
			row = append(append(row, ratioCells(c.P50Ratio)...), ratioCells(c.P99Ratio)...)
		}
		s.Rows = append(s.Rows, row)
		late += c.Bottle
		runs += c.Runs
	}
	if late > 0 {
		s.Notes = append(s.Notes, fmt.Sprintf("In %d of %d runs the generator itself was late by more than a millisecond (lag p99): there p99 is the machine's, not the server's.", late, runs))
	}
	return []section{s}
}

// ratioCells are a median and its quartiles.
func ratioCells(s Spread) []string {
	if s.N == 0 {
		return []string{"", ""}
	}
	return []string{fmt.Sprintf("%.2f", s.Median), fmt.Sprintf("%.2f-%.2f", s.Low, s.High)}
}

func (s *section) writeText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(s.Rows) > 0 {
		fmt.Fprintln(t, strings.Join(s.Heads, "\t"))
	}
	for i, row := range s.Rows {
		if i > 0 && row[0] != s.Rows[i-1][0] && s.grouped() {
			fmt.Fprintln(t, strings.Repeat("\t", len(s.Heads)-1))
		}
		fmt.Fprintln(t, strings.Join(row, "\t"))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("bench: write table: %w", err)
	}
	if s.Text != "" {
		fmt.Fprintln(w, s.Text)
	}
	for _, n := range s.Notes {
		fmt.Fprintln(w, n)
	}
	return nil
}

// grouped: neighbours share their first cell.
func (s *section) grouped() bool {
	for i := 1; i < len(s.Rows); i++ {
		if s.Rows[i][0] == s.Rows[i-1][0] {
			return true
		}
	}
	return false
}

func (s *section) writeMarkdown(w io.Writer) error {
	var b strings.Builder
	if s.Text != "" {
		fmt.Fprintf(&b, "\n%s\n", markdown(s.Text))
	}
	if len(s.Rows) > 0 {
		rule := slices.Repeat([]string{"---"}, s.Left)
		rule = append(rule, slices.Repeat([]string{"--:"}, len(s.Heads)-s.Left)...)
		fmt.Fprintf(&b, "\n| %s |\n| %s |\n", markdownRow(s.Heads), strings.Join(rule, " | "))
	}
	for _, row := range s.Rows {
		fmt.Fprintf(&b, "| %s |\n", markdownRow(row))
	}
	for _, n := range s.Notes {
		fmt.Fprintf(&b, "\n%s\n", markdown(n))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func markdownRow(row []string) string {
	cells := slices.Clone(row)
	for i := range cells {
		cells[i] = strings.ReplaceAll(markdown(cells[i]), "|", `\|`)
	}
	return strings.Join(cells, " | ")
}

// markdown takes the meaning from signs that Markdown would read; an error text is one line.
func markdown(s string) string {
	return strings.NewReplacer("\n", "; ", "<", `\<`, "*", `\*`, "~", `\~`, "_", `\_`).Replace(s)
}
