package benchcmd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"millrace/bench"
)

// Bench is millrace bench with its sub-commands.
type Bench struct {
	Run     Run     `cmd:"" default:"withargs" help:"Measure servers (the default)."`
	Compare Compare `cmd:"" help:"Compare the runs of two files, or two targets of one file, and tell changes from noise."`
	Report  Report  `cmd:"" help:"Make tables and charts from a stored file."`
}

// Help is shown by bench --help in addition to the commands.
func (Bench) Help() string {
	return `"millrace bench" alone is "millrace bench run", whose --help lists every flag. For a start:

  millrace bench --quick                                    a first table, half a minute
  millrace bench --quick --peers gnet,std,nbio              beside other libraries (needs a checkout)
  millrace bench --case echo/100x32 --case broadcast/1000x8 what you care about
  millrace bench --target 127.0.0.1:7000 --pid 4711         your own server
  millrace bench --ramp 5k..100k --slo 'p99<2ms'            how much it takes
  millrace bench --case targets --peers all --json all.jsonl --report all.html
  millrace bench report all.jsonl --markdown                its tables again, without a run
  millrace bench compare before.jsonl after.jsonl           exit code 1: something got worse`
}

// Run is millrace bench.
type Run struct {
	Case  []string `placeholder:"SPEC" sep:"none" help:"What to measure, as in echo/100x32 (connections x depth), echo/100x8/4KiB, echo/100@20000 (a fixed rate), echo/100@50% (of the base's saturated rate), broadcast/1000x8, idle/15000, tls-echo/100x32, ws-idle/5000, tcp+ws-broadcast/1000x8, cluster-call/64x1/n5 (over 5 nodes); or the sets standard, quick, targets, latency, doors, cluster, growth. Repeatable, also comma-separated (standard)."`
	Quick bool     `help:"A first result in under a minute: the set quick, 3 short repetitions."`
	Ramp  []string `placeholder:"RANGE" sep:"none" help:"Raise the load of each --case (echo/100) step by step until the server is saturated, and report that load: [rate=]FROM..TO/STEP requests a second on a fixed schedule, as 5k..100k/5k; or conns=FROM..TO/STEP connections in a closed loop, as conns=1..1000/x2. A step lasts --window. Repeatable."`

	Serve   string   `placeholder:"FLAGS" help:"Flags of millrace serve for the measured server."`
	Variant []string `placeholder:"NAME=FLAGS" sep:"none" help:"Also measure this program's server with these flags. Repeatable."`
	Server  []string `placeholder:"NAME=COMMAND" sep:"none" help:"Also measure the server started by COMMAND, which must print: ready ADDR. Repeatable."`
	Peers   []string `placeholder:"NAME" help:"Also measure other libraries: names with commas, or all. They are built from a checkout of the repository."`
	Target  *string  `placeholder:"ADDR" help:"Measure a running server instead of this program's; may be a comma-separated list with its tls://HOST:PORT and ws://HOST:PORT/PATH addresses too."`
	PID     int      `name:"pid" placeholder:"N" help:"Process ID of --target, to measure its CPU and memory."`
	Self    bool     `default:"true" negatable:"" help:"Measure this program's own server (${default})."`
	Base    string   `placeholder:"NAME" help:"The target that ratios refer to (gnet, else the second)."`

	PeersDir string `placeholder:"DIR" help:"Folder of the peers' sources (bench/peers of the checkout around the current folder)."`

	Reps       int           `placeholder:"N" help:"Interleaved repetitions (5; quick and ramps: 3)."`
	Window     time.Duration `placeholder:"D" help:"Measured time of a run, or of a ramp's step (2s; quick: 700ms; at least 100us a connection)."`
	Warm       time.Duration `placeholder:"D" help:"Warm-up time of a run (500ms; quick: 200ms; at least 50us a connection)."`
	Pinned     bool          `help:"Run the server on one processor with one loop, the load generators on the others."`
	Generators int           `placeholder:"N" help:"Number of load generator processes (a third of the processors)."`

	JSON   string   `name:"json" placeholder:"FILE" help:"Write each run as a line of JSON when it has ended."`
	Resume bool     `help:"After an interrupt, continue with the runs missing from --json FILE; the rest of the command line must be the same."`
	Report string   `placeholder:"FILE" help:"Write an HTML page with charts that needs no network."`
	SVG    string   `name:"svg" placeholder:"FILE" help:"Write the summary chart."`
	SLO    []string `name:"slo" placeholder:"COND" sep:"none" help:"Exit with 1 unless this objective is met in every case: p99<2ms, cpu<12us, rate>50000, idle<1200B; a ramp ends when it is missed. Repeatable."`
}

// Run measures and reports.
func (c *Run) Run(s *Streams) error {
	slos, err := c.slos()
	if err != nil {
		return err
	}
	ctx, cancel := untilInterrupt()
	defer cancel()
	p := newProgress(s.Err)
	cfg, err := c.config(ctx, p)
	if err != nil {
		return err
	}
	cfg.SLO = slos
	if err := writable(map[string]string{"report": c.Report, "svg": c.SVG}); err != nil {
		return err
	}
	file, err := c.journal(&cfg)
	if err != nil {
		return err
	}
	suite, err := bench.New(cfg)
	if err != nil {
		return errors.Join(c.wrong(err), file.close())
	}
	if err := suite.Reach(ctx); err != nil {
		return errors.Join(c.wrong(err), file.close())
	}
	p.start(suite.Total(), suite.Estimate())
	res, runErr := suite.Run(ctx)
	p.end()
	err = errors.Join(file.close(), writeAll(res, s.Out, res.WriteTable, c.Report, c.SVG))
	if runErr != nil {
		return c.interrupted(runErr) // other errors are consequences of it
	}
	if err != nil {
		return err
	}
	return c.judge(s, res, slos)
}

// wrong says what is wrong with a suite, on one line, and names the flag where it is about --target.
func (c *Run) wrong(err error) error {
	text := strings.ReplaceAll(strings.TrimPrefix(err.Error(), "bench: "), "\n", "; ")
	switch {
	case errors.Is(err, context.Canceled):
		return interrupted(err)
	case errors.Is(err, bench.ErrUnreachable):
		return &exitError{exitNoServer, "--target " + strings.TrimPrefix(text, "unreachable: ") + "; is the server running?"}
	case c.Target != nil && strings.HasPrefix(text, "target has no process"):
		return wrongUsage("--pid %d: no such process on this machine", c.PID)
	case c.Target != nil && *c.Target == "":
		return wrongUsage("--target \"\": must be HOST:PORT, or a URL such as ws://HOST:PORT/PATH")
	}
	return wrongUsage("%s", text)
}

// interrupted adds how to continue to the error.
func (c *Run) interrupted(err error) error {
	err = interrupted(err)
	if e, ok := errors.AsType[*exitError](err); ok && c.JSON != "" {
		e.text += "; run the same command with --resume to continue"
	}
	return err
}

func (c *Run) slos() ([]bench.SLO, error) {
	var out []bench.SLO
	for _, text := range c.SLO {
		o, err := bench.ParseSLO(text)
		if err != nil {
			return nil, wrongFlag("--slo", err)
		}
		out = append(out, o)
	}
	return out, nil
}

func (c *Run) config(ctx context.Context, p *progress) (bench.Config, error) {
	cfg := bench.Config{
		Base: c.Base, Reps: c.Reps, Window: c.Window, Warm: c.Warm, Pinned: c.Pinned, Generators: c.Generators,
		OnRun: p.run,
	}
	if c.Resume && c.JSON == "" {
		return cfg, wrongUsage("--resume needs --json FILE")
	}
	if c.Quick {
		cfg.Cases = bench.Quick()
		cfg.Reps = max(cfg.Reps, 3)
		cfg.Window = max(cfg.Window, 700*time.Millisecond)
		cfg.Warm = max(cfg.Warm, 200*time.Millisecond)
	}
	if len(c.Case) > 0 {
		cases, err := bench.ParseWorkloads(strings.Join(c.Case, " "))
		if err != nil {
			return cfg, wrongFlag("--case", err)
		}
		cfg.Cases = cases
	}
	if err := c.ramps(&cfg); err != nil {
		return cfg, err
	}
	var err error
	cfg.Targets, err = c.targets(ctx, p)
	return cfg, err
}

// targets lists the servers to measure, with the subject first.
func (c *Run) targets(ctx context.Context, p *progress) ([]bench.Target, error) {
	out, err := c.own()
	if err != nil {
		return nil, err
	}
	for _, s := range c.Server {
		name, line, err := assignment(s)
		if err != nil {
			return nil, err
		}
		t, err := bench.CommandTarget(name, line)
		if err != nil {
			return nil, wrongFlag("--server", err)
		}
		out = append(out, t)
	}
	peers, err := c.peers(ctx, p)
	if err != nil {
		return nil, err
	}
	if out = append(out, peers...); len(out) == 0 {
		return nil, wrongUsage("nothing to measure: --no-self without --server, --target or --peers")
	}
	return out, nil
}

// own returns the targets that this program serves, or the running server given instead.
func (c *Run) own() ([]bench.Target, error) {
	if c.Target != nil {
		return []bench.Target{{Name: "target", Addr: *c.Target, PID: c.PID}}, nil
	}
	if c.PID != 0 {
		return nil, wrongUsage("--pid needs --target")
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("own program: %w", err)
	}
	var out []bench.Target
	if c.Self {
		out = append(out, bench.MillraceTarget("millrace", self, strings.Fields(c.Serve)...))
	}
	for _, v := range c.Variant {
		name, flags, err := assignment(v)
		if err != nil {
			return nil, err
		}
		out = append(out, bench.MillraceTarget(name, self, strings.Fields(flags)...))
	}
	return out, nil
}

// peers builds the servers that --peers names. With all, one that can't be built is skipped with a
// message.
func (c *Run) peers(ctx context.Context, p *progress) ([]bench.Target, error) {
	if len(c.Peers) == 0 {
		return nil, nil
	}
	src, err := bench.FindPeers(c.PeersDir, "")
	if err != nil {
		return nil, wrongUsage("--peers: %v; run this in a checkout, or name its bench/peers with --peers-dir", err)
	}
	all := slices.Contains(c.Peers, "all")
	names := c.Peers
	if all {
		names = bench.PeerNames()
	}
	var out []bench.Target
	for _, name := range names {
		t, err := src.Target(ctx, name)
		if err != nil && all && ctx.Err() == nil {
			p.say("without %s: %v", name, err)
			continue
		}
		if err != nil {
			return nil, interrupted(err)
		}
		out = append(out, t)
	}
	return out, nil
}

// ramps turns the cases into ramps when --ramp is given.
func (c *Run) ramps(cfg *bench.Config) error {
	if len(c.Ramp) == 0 {
		return nil
	}
	works := cfg.Cases
	if cfg.Cases = nil; len(works) == 0 {
		works = []bench.Workload{{Kind: bench.Echo, Conns: 100, Depth: 1, Body: 64}}
	}
	for _, w := range works {
		for _, spec := range c.Ramp {
			r, err := bench.ParseRamp(spec, w)
			if err != nil {
				return wrongFlag("--ramp", err)
			}
			cfg.Ramps = append(cfg.Ramps, r)
		}
	}
	return nil
}

// judge turns failed runs and missed objectives into the exit code.
func (c *Run) judge(s *Streams, res *bench.Results, slos []bench.SLO) error {
	breaches := res.Breaches(slos)
	if len(c.Ramp) > 0 && len(slos) > 0 {
		breaches = res.RampBreaches()
	}
	for _, b := range breaches {
		fmt.Fprintf(s.Out, "SLO %s missed in %s: %s\n", b.SLO, b.Case, b.Got)
	}
	switch {
	case len(breaches) > 0:
		return verdict("%d objectives were missed", len(breaches))
	case res.Failed():
		return verdict("some runs failed")
	}
	return nil
}
