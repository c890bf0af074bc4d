package benchcmd

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"millrace/bench"
)

// Tune is millrace tune.
type Tune struct {
	Case   []string      `placeholder:"SPEC" sep:"none" help:"The workload, as in bench: echo/100x8/4KiB, sleep/100/2ms, mixed/200x4. Repeatable: all count equally (echo/100x1)."`
	Serve  string        `placeholder:"FLAGS" help:"Flags of serve to start from."`
	Try    []string      `placeholder:"FLAG=V1,V2" sep:"none" help:"Try these values of this flag instead of the default set of flags. Repeatable."`
	Metric string        `enum:"auto,cpu,rate,p99" default:"auto" help:"What to improve: the server's CPU per message, the rate, the p99 latency; auto is cpu, or rate if handlers block (${default})."`
	Reps   int           `placeholder:"N" help:"Repetitions in the last rounds (7)."`
	Window time.Duration `placeholder:"D" help:"Measured time of a run (400ms)."`
	Pinned bool          `help:"Run the server on one processor with one loop: more precise, but tells nothing about --loops."`
	Config string        `placeholder:"FILE" help:"Write the flags found as a file for serve --config."`
}

// Run searches for the best flags and prints them.
func (c *Tune) Run(s *Streams) error {
	ctx, cancel := untilInterrupt()
	defer cancel()
	p := newProgress(s.Err)
	cfg, err := c.config()
	if err != nil {
		return err
	}
	cfg.OnRun = func(phase string, done, total int, r bench.Run) {
		line := fmt.Sprintf("%s [%d/%d] %s: %s: %s", phase, done, total, r.Case, r.Target, r.Headline())
		if p.live {
			p.over(line)
			return
		}
		fmt.Fprintln(p.w, line)
	}
	if err := writable(map[string]string{"config": c.Config}); err != nil {
		return err
	}
	tuner, err := bench.NewTuner(cfg)
	if err != nil {
		return wrongUsage("%v", err)
	}
	out, err := tuner.Run(ctx)
	p.end()
	if errors.Is(err, bench.ErrNothingToTry) {
		return wrongUsage("%s", strings.TrimPrefix(err.Error(), "bench: tune: "))
	}
	if err != nil {
		return interrupted(err)
	}
	if err := out.WriteTable(s.Out); err != nil {
		return err
	}
	if c.Config != "" {
		return writeFile(c.Config, out.WriteConfig)
	}
	if out.Gain.N > 0 {
		fmt.Fprintln(s.Out, "\nAs a file for --config:")
		return out.WriteConfig(s.Out)
	}
	return nil
}

func (c *Tune) config() (bench.TuneConfig, error) {
	self, err := os.Executable()
	if err != nil {
		return bench.TuneConfig{}, fmt.Errorf("own program: %w", err)
	}
	cases, err := bench.ParseWorkloads(strings.Join(c.Case, " "))
	if err != nil {
		return bench.TuneConfig{}, wrongFlag("--case", err)
	}
	cfg := bench.TuneConfig{
		Binary: self, Flags: strings.Fields(c.Serve), Cases: cases, Reps: c.Reps, Window: c.Window, Pinned: c.Pinned,
	}
	if c.Metric != "auto" {
		cfg.Metric = bench.Metric(c.Metric)
	}
	for _, t := range c.Try {
		flag, values, err := assignment(t)
		if err != nil {
			return cfg, err
		}
		cfg.Space = append(cfg.Space, bench.Dimension{Flag: strings.TrimLeft(flag, "-"), Values: strings.Split(values, ",")})
	}
	return cfg, nil
}
