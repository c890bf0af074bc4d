package bench

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// TuneConfig configures a Tuner. Zero means the default.
type TuneConfig struct {
	// Binary is the millrace program whose serve is tuned.
	Binary string
	// Flags of serve that are the starting point of the search.
	Flags []string
	// Cases are the workload: all count equally, as the ratio to the starting point.
	Cases []Workload
	// Space to search; default Space(Cases). Flags that serve does not have are skipped.
	Space []Dimension
	// Metric to improve; default CPU per message, and wall time per message if handlers block.
	Metric Metric
	// Window and Warm of a run; default 400 ms and 150 ms.
	Window, Warm time.Duration
	// Reps of the last round and of the check of each flag; default 7.
	Reps int
	// Least is the smallest effect that a flag must show; default 0.03.
	Least float64
	// Generators as in Config.
	Generators int
	// Pinned as in Config; it makes small differences visible but hides the effect of loops.
	Pinned bool
	// OnRun is called after each run with the name of the phase, on the goroutine that called Run.
	OnRun func(phase string, done, total int, r Run)
}

func (c TuneConfig) withDefaults() TuneConfig {
	if len(c.Cases) == 0 {
		c.Cases = mustParse("echo/100x1")
	}
	if c.Space == nil {
		c.Space = Space(c.Cases)
	}
	if c.Window == 0 {
		c.Window = 400 * time.Millisecond
	}
	if c.Warm == 0 {
		c.Warm = 150 * time.Millisecond
	}
	if c.Reps == 0 {
		c.Reps = 7
	}
	if c.Least == 0 {
		c.Least = 0.03
	}
	c.Generators = Config{Generators: c.Generators}.withDefaults().Generators
	return c
}

func (c TuneConfig) validate() error {
	var errs []error
	if c.Binary == "" {
		errs = append(errs, errors.New("bench: tune: no program"))
	}
	for _, w := range c.Cases {
		errs = append(errs, w.validate())
		if w.Kind == Idle {
			errs = append(errs, errors.New("bench: tune: memory at rest is no workload"))
		}
	}
	if c.Reps < minCompare || c.Reps > maxReps {
		errs = append(errs, fmt.Errorf("bench: tune: %d repetitions are not between %d and %d", c.Reps, minCompare, maxReps))
	}
	return errors.Join(errs...)
}

// Tuner searches for the best flags of serve for a workload by successive halving (Jamieson and
// Talwalkar 2016) with interleaved repetitions, and then removes every flag whose effect it cannot
// show.
type Tuner struct {
	cfg     TuneConfig
	base    setting
	known   map[string]string // serve's flags and their defaults
	space   []Dimension
	dropped []string // flags of the space that serve does not have
	trials  map[string]*trial
	round   int // repetitions so far: the pairing of runs
	since   int // the first repetition that ratios look at
	phase   string
	done    int
	total   int

	// run measures one window; tests replace it by a model.
	run func(ctx context.Context, t Target, w Workload) Run
}

// trial is one setting with all its runs.
type trial struct {
	set    setting // beside the base
	runs   map[string][]Run
	failed string
}

// NewTuner checks cfg and starts nothing.
func NewTuner(cfg TuneConfig) (*Tuner, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	base, err := parseSetting(cfg.Flags)
	if err != nil {
		return nil, err
	}
	t := &Tuner{cfg: cfg, base: base, trials: map[string]*trial{}}
	t.run = func(ctx context.Context, target Target, w Workload) Run {
		return measure(ctx, target, w, timing{cfg.Warm, cfg.Window}, cfg.Pinned, cfg.Generators)
	}
	return t, nil
}

// Effect is the effect of one value of one flag.
type Effect struct {
	Flag, Value string
	Was         string // the value it replaces
	Ratio       Spread // cost with it to cost without
	P           float64
	Shown       bool // at least Least and significant among all that were tested with it
	Failed      string
}

// Outcome is the result of a search.
type Outcome struct {
	Screened []Effect // every value alone against the starting point
	Checked  []Effect // each flag of the winner against the winner without it
	Best     []string // the flags that are shown to help, as arguments of serve
	Gain     Spread   // cost with Best to the starting point; N = 0 when nothing helps
	GainP    float64
	Unknown  []string // flags of the space that serve does not have
	Metrics  map[string]Metric
	best     setting
}

const (
	screenReps = 3
	maxTrials  = 64
	// tuneAlpha is the chance of a false alarm over the flags of the last check.
	tuneAlpha = 0.05
)

// ErrNothingToTry: the flags to try have no other values than those of the starting point.
var ErrNothingToTry = errors.New("bench: tune: no flag to try")

// Run searches. It blocks until it is done or ctx ends.
func (t *Tuner) Run(ctx context.Context) (*Outcome, error) {
	known, err := serveFlags(ctx, t.cfg.Binary)
	if err != nil {
		return nil, err
	}
	t.known = known
	return t.search(ctx)
}

func (t *Tuner) search(ctx context.Context) (*Outcome, error) {
	t.limitSpace()
	singles := t.singles()
	if len(singles) == 0 {
		if len(t.dropped) > 0 {
			return nil, fmt.Errorf("%w: serve has no flag --%s", ErrNothingToTry, strings.Join(t.dropped, ", --"))
		}
		return nil, fmt.Errorf("%w: the values given are those that serve has already", ErrNothingToTry)
	}
	base := t.trial(setting{})
	if err := t.measure(ctx, "screen", append([]*trial{base}, singles...), screenReps); err != nil {
		return nil, err
	}
	if base.failed != "" {
		return nil, fmt.Errorf("bench: tune: the starting point fails: %s", base.failed)
	}
	winner, err := t.halve(ctx, base, t.promising(base, singles))
	if err != nil {
		return nil, err
	}
	out := &Outcome{Screened: t.screened(base, singles), Unknown: t.dropped, Metrics: t.metrics(base)}
	return out, t.check(ctx, base, winner, out)
}

// limitSpace removes unknown flags, values that are already set, and what exceeds maxTrials.
func (t *Tuner) limitSpace() {
	left := maxTrials
	for _, d := range t.cfg.Space {
		def, ok := t.known[d.Flag]
		if t.cfg.Pinned && d.Flag == "loops" {
			continue // a pinned server has one
		}
		if !ok {
			t.dropped = append(t.dropped, d.Flag)
			continue
		}
		values := slices.DeleteFunc(slices.Clone(d.Values), func(v string) bool { return v == t.was(d.Flag, def) })
		values = values[:min(len(values), left)]
		left -= len(values)
		if len(values) > 0 {
			t.space = append(t.space, Dimension{d.Flag, values})
		}
	}
}

// was is the value that a flag has at the starting point.
func (t *Tuner) was(flag, def string) string {
	if v, ok := t.base[flag]; ok {
		return v
	}
	return def
}

// trial returns the trial of s, a new one if need be.
func (t *Tuner) trial(s setting) *trial {
	key := s.String()
	if t.trials[key] == nil {
		t.trials[key] = &trial{set: s, runs: map[string][]Run{}}
	}
	return t.trials[key]
}

// singles are the settings that change one flag.
func (t *Tuner) singles() []*trial {
	var out []*trial
	for _, d := range t.space {
		for _, v := range d.Values {
			out = append(out, t.trial(setting{d.Flag: v}))
		}
	}
	return out
}

// measure runs every trial reps more times on every case, interleaved.
func (t *Tuner) measure(ctx context.Context, phase string, trials []*trial, reps int) error {
	t.done, t.total, t.phase = 0, reps*len(trials)*len(t.cfg.Cases), phase
	for range reps {
		for _, w := range t.cfg.Cases {
			for i := range trials {
				tr := trials[(i+t.round)%len(trials)]
				if err := ctx.Err(); err != nil {
					return err
				}
				t.one(ctx, tr, w)
			}
		}
		t.round++
	}
	return nil
}

func (t *Tuner) one(ctx context.Context, tr *trial, w Workload) {
	t.done++
	if tr.failed != "" {
		return
	}
	flags := append(t.base.args(), tr.set.args()...)
	target := MillraceTarget(tr.set.String(), t.cfg.Binary, flags...)
	r := t.run(ctx, target, w)
	r.Rep = t.round
	tr.runs[w.String()] = append(tr.runs[w.String()], r)
	if r.Error != "" || r.Skipped != "" {
		tr.failed = strings.ReplaceAll(r.Error+r.Skipped, "\n", "; ")
	}
	if t.cfg.OnRun != nil {
		t.cfg.OnRun(t.phase, t.done, t.total, r)
	}
}

// ratios of a to b: for each repetition that both have, the geometric mean over the cases.
func (t *Tuner) ratios(a, b *trial) []float64 {
	byRep := map[int][]float64{}
	for _, w := range t.cfg.Cases {
		name := w.String()
		m := t.metric(w)
		for _, x := range a.runs[name] {
			for _, y := range b.runs[name] {
				vx, okx := m.of(&x)
				vy, oky := m.of(&y)
				if x.Rep == y.Rep && okx && oky {
					byRep[x.Rep] = append(byRep[x.Rep], math.Log(vx/vy))
				}
			}
		}
	}
	var out []float64
	for rep := t.since; rep < t.round; rep++ {
		if logs := byRep[rep]; len(logs) == len(t.cfg.Cases) {
			out = append(out, math.Exp(mean(logs)))
		}
	}
	return out
}

func (t *Tuner) metric(w Workload) Metric {
	switch {
	case t.cfg.Metric != "":
		return t.cfg.Metric
	case w.Kind == Sleep || w.Kind == Database:
		return MetricRate // the server waits: its CPU says nothing about its use
	}
	return MetricCPU
}

func (t *Tuner) metrics(base *trial) map[string]Metric {
	out := map[string]Metric{}
	for _, w := range t.cfg.Cases {
		out[w.String()] = t.metric(w)
	}
	return out
}

// score returns the median ratio to base; the worst possible if it failed.
func (t *Tuner) score(tr, base *trial) float64 {
	s := spread(t.ratios(tr, base))
	if tr.failed != "" || s.N == 0 {
		return math.Inf(1)
	}
	return s.Median
}

// promising returns the settings for the rounds: the singles, the combination of the best value of
// every flag that looks like a gain, and that combination without each of its flags.
func (t *Tuner) promising(base *trial, singles []*trial) []*trial {
	all := setting{}
	for _, d := range t.space {
		best, at := 0.995, ""
		for _, v := range d.Values {
			if s := t.score(t.trial(setting{d.Flag: v}), base); s < best {
				best, at = s, v
			}
		}
		if at != "" {
			all = all.with(d.Flag, at)
		}
	}
	out := slices.Clone(singles)
	add := func(s setting) {
		if tr := t.trial(s); len(s) > 1 && !slices.Contains(out, tr) {
			out = append(out, tr)
		}
	}
	add(all)
	for _, flag := range all.names() {
		add(all.without(flag))
	}
	return out
}

// halve runs rounds: each doubles the repetitions and keeps the better half, until one is left.
func (t *Tuner) halve(ctx context.Context, base *trial, in []*trial) (*trial, error) {
	in = t.better(base, in, (len(in)+1)/2)
	for reps := 2; len(in) > 1; reps = min(2*reps, t.cfg.Reps) {
		phase := fmt.Sprintf("round of %d", len(in))
		if err := t.measure(ctx, phase, append([]*trial{base}, in...), reps); err != nil {
			return nil, err
		}
		in = t.better(base, in, len(in)/2)
	}
	return in[0], nil
}

// better returns the n best; a combination that has not run yet ranks before settings without gain.
func (t *Tuner) better(base *trial, in []*trial, n int) []*trial {
	in = slices.Clone(in)
	key := func(tr *trial) float64 {
		if len(tr.runs) == 0 {
			return 0.99
		}
		return t.score(tr, base)
	}
	slices.SortStableFunc(in, func(a, b *trial) int {
		switch ka, kb := key(a), key(b); {
		case ka < kb:
			return -1
		case ka > kb:
			return 1
		}
		return 0
	})
	return in[:max(1, n)]
}
