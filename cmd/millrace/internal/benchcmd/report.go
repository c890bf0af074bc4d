package benchcmd

import (
	"millrace/bench"
)

// Report is millrace bench report.
type Report struct {
	File string `arg:"" complete:"FILE" help:"Results, written by --json; may be from an interrupted run."`

	Markdown bool   `help:"Write the tables as Markdown, for a README."`
	Base     string `placeholder:"NAME" help:"The target that ratios refer to (the one of the run)."`
	HTML     string `name:"html" placeholder:"FILE" help:"Write an HTML page with charts that needs no network."`
	SVG      string `name:"svg" placeholder:"FILE" help:"Write the summary chart."`
}

// Run writes tables and charts from a stored file.
func (c *Report) Run(s *Streams) error {
	res, err := bench.Load(c.File)
	if err != nil {
		return wrongUsage("%v", err)
	}
	if c.Base != "" {
		if !res.Has(c.Base) {
			return wrongUsage("%s has no runs of %s", c.File, c.Base)
		}
		res.Header.Base = c.Base
	}
	write := res.WriteTable
	if c.Markdown {
		write = res.WriteMarkdown
	}
	return writeAll(res, s.Out, write, c.HTML, c.SVG)
}
