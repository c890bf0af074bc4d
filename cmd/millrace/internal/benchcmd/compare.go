package benchcmd

import (
	"millrace/bench"
)

// Compare is millrace bench compare.
type Compare struct {
	A string `arg:"" complete:"FILE" help:"Results before, written by --json."`
	B string `arg:"" optional:"" complete:"FILE" help:"Results after; without it two targets of A are compared."`

	Target    string  `placeholder:"NAME" help:"The target to compare (the first one of A)."`
	TargetB   string  `name:"target-b" placeholder:"NAME" help:"Name of the target in B (the same; with one file: the second target)."`
	Normalise string  `placeholder:"NAME" help:"Divide both by the runs of this target, - for none (the base of A, if both have it)."`
	Least     float64 `placeholder:"X" help:"Smallest change that counts (0.10; without a normaliser 0.25)."`
	Alpha     float64 `placeholder:"P" help:"Chance of a false alarm over all cases (0.01)."`
	Metric    string  `enum:"auto,cpu,p50,p99,rate" default:"auto" help:"What to compare: auto is CPU per message, or memory per idle connection, and at a fixed rate p50 and p99 (${default})."`
}

// Run compares, and exits with 1 when a result got worse.
func (c *Compare) Run(s *Streams) error {
	a, err := bench.Load(c.A)
	if err != nil {
		return wrongUsage("%v", err)
	}
	cfg := bench.CompareConfig{
		Target: c.Target, TargetB: c.TargetB, Normalise: c.Normalise, Least: c.Least, Alpha: c.Alpha,
	}
	if c.Metric != "auto" {
		cfg.Metric = bench.Metric(c.Metric)
	}
	b := a
	if c.B != "" {
		if b, err = bench.Load(c.B); err != nil {
			return wrongUsage("%v", err)
		}
	} else if cfg.TargetB == "" && len(a.Header.Targets) > 1 {
		cfg.TargetB = a.Header.Targets[1].Name
	}
	out, err := bench.Compare(a, b, cfg)
	if err != nil {
		return wrongUsage("%v", err)
	}
	if err := out.WriteTable(s.Out); err != nil {
		return err
	}
	if out.Regressed() {
		return verdict("%s is worse than %s", out.Config.TargetB, out.Config.Target)
	}
	return nil
}
