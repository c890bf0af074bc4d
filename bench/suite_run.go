package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"time"
)

// Total returns the largest number of runs that Run may make, counting every step of every ramp.
func (s *Suite) Total() int {
	n := len(s.cfg.Cases)
	for _, r := range s.cfg.Ramps {
		n += len(r.Steps())
	}
	return s.cfg.Reps * n * len(s.cfg.Targets)
}

// Estimate estimates how long Run will take, from the cost of runs on a small machine; Progress is
// more precise.
func (s *Suite) Estimate() time.Duration {
	var sum time.Duration
	for _, w := range s.cfg.Cases {
		sum += s.estimate(w)
	}
	for _, r := range s.cfg.Ramps {
		for _, w := range r.Steps() {
			sum += s.estimate(w)
		}
	}
	return sum * time.Duration(s.cfg.Reps*len(s.cfg.Targets))
}

// estimate of one run: start, connect, warm-up, window, stop.
func (s *Suite) estimate(w Workload) time.Duration {
	const start, settle = 100 * time.Millisecond, 1500 * time.Millisecond
	connection := 130 * time.Microsecond
	if w.Door != "" {
		connection = time.Millisecond // a handshake, both sides on this machine
	}
	around := start*time.Duration(1+5*w.Nodes) + time.Duration(w.Conns)*connection
	if w.Kind == Idle {
		return around + settle
	}
	tm := s.timing(w)
	return around + tm.warm + tm.length
}

// timing extends the window for many connections, as a round over all of them takes long.
func (s *Suite) timing(w Workload) timing {
	n := time.Duration(w.Conns)
	return timing{max(s.cfg.Warm, min(n*50*time.Microsecond, maxWindow)), max(s.cfg.Window, min(n*100*time.Microsecond, maxWindow))}
}

// passing is the state of a Run.
type passing struct {
	*Suite
	res    *Results
	done   int
	began  time.Time
	ahead  time.Duration        // estimate of what is still to come
	behind time.Duration        // estimate of what was measured
	skip   map[[2]string]string // why a target is skipped from now on
	failed map[[2]string]int
	rates  map[string]saturation // by case in a closed loop
}

// saturation is what the base answers in a closed loop.
type saturation struct {
	rate float64
	err  error
}

const (
	saturationRuns = 3
	// mayFail is in how many repetitions of a case a target may fail before it is skipped.
	mayFail = 2
)

// Run measures every case of every target Reps times, interleaved: within a repetition a case is
// run for one target after the other, in an order that rotates by one each time, each with a fresh
// server; ramps likewise, each with one server. It blocks until all is done, the journal fails or
// ctx ends; then it returns the results so far, with the error. A failed run has its Error set and
// does not affect others; a target that fails a case twice is skipped for that case.
func (s *Suite) Run(ctx context.Context) (*Results, error) {
	p := &passing{
		Suite: s, res: &Results{Header: s.header()}, began: time.Now(), ahead: s.Estimate(),
		skip: map[[2]string]string{}, failed: map[[2]string]int{}, rates: map[string]saturation{},
	}
	if err := p.begin(); err != nil {
		return p.res, err
	}
	for rep := range s.cfg.Reps {
		for _, w := range s.cfg.Cases {
			for _, t := range rotate(s.cfg.Targets, rep) {
				if err := p.one(ctx, rep, t, w); err != nil {
					return p.res, err
				}
			}
		}
		for _, r := range s.cfg.Ramps {
			for _, t := range rotate(s.cfg.Targets, rep) {
				if err := p.ramp(ctx, rep, t, r); err != nil {
					return p.res, err
				}
			}
		}
	}
	return p.res, nil
}

func rotate(ts []Target, by int) []Target {
	by %= len(ts)
	return slices.Concat(ts[by:], ts[:by])
}

// begin writes the header. A resumed suite keeps that of its first part.
func (p *passing) begin() error {
	if p.cfg.Resume != nil {
		p.res.Header = p.cfg.Resume.Header
	}
	return p.write(p.res.Header)
}

func (p *passing) write(v any) error {
	if p.cfg.Journal == nil {
		return nil
	}
	if err := json.NewEncoder(p.cfg.Journal).Encode(v); err != nil {
		return fmt.Errorf("bench: write results: %w", err)
	}
	return nil
}

// keep adds a run.
func (p *passing) keep(r Run) error {
	p.res.Runs = append(p.res.Runs, r)
	return p.write(r)
}

// step counts a run and reports it.
func (p *passing) step(w Workload, n int, r *Run) {
	cost := p.estimate(w)
	p.done += n
	p.ahead -= cost * time.Duration(n)
	if r == nil {
		return
	}
	p.behind += cost
	if p.cfg.OnRun != nil {
		left := float64(p.ahead) * float64(time.Since(p.began)) / float64(p.behind)
		p.cfg.OnRun(Progress{p.done, p.Total(), time.Duration(left)}, *r)
	}
}

// one makes one run of a case.
func (p *passing) one(ctx context.Context, rep int, t Target, w Workload) error {
	if old := p.before(func(r *Run) bool { return r.Ramp == "" && r.Case == w.String() && r.Target == t.Name && r.Rep == rep }); old != nil {
		p.note(&old[0])
		p.step(w, 1, nil)
		return p.keep(old[0])
	}
	r := Run{Case: w.String(), Target: t.Name, At: time.Now().UTC().Truncate(time.Millisecond)}
	if r.Skipped = p.skip[[2]string{r.Case, t.Name}]; r.Skipped == "" {
		var err error
		if r, err = p.fresh(ctx, t, w); err != nil {
			return err
		}
	}
	r.Rep = rep
	p.note(&r)
	if err := p.keep(r); err != nil {
		return err
	}
	p.step(w, 1, &r)
	return nil
}

// before returns runs of the part that is resumed.
func (p *passing) before(want func(*Run) bool) []Run {
	if p.cfg.Resume == nil {
		return nil
	}
	var out []Run
	for i := range p.cfg.Resume.Runs {
		if r := &p.cfg.Resume.Runs[i]; want(r) {
			out = append(out, *r)
		}
	}
	return out
}

// note remembers which targets to skip.
func (p *passing) note(r *Run) {
	key := [2]string{r.Case, r.Target}
	if r.Ramp != "" {
		key[0] = r.Ramp
	}
	if r.Skipped != "" {
		p.skip[key] = r.Skipped
	}
	if r.Error == "" {
		return
	}
	if p.failed[key]++; p.failed[key] >= mayFail {
		p.skip[key] = fmt.Sprintf("it failed in %d repetitions", mayFail)
	}
}

// fresh makes a run with a fresh server, at a rate that is determined first. It fails when ctx ends
// or the journal does; a run in progress then gives no result.
func (p *passing) fresh(ctx context.Context, t Target, w Workload) (Run, error) {
	at, why, err := p.settle(ctx, w)
	if err != nil {
		return Run{}, err
	}
	if why != nil {
		return newRun(t, w).with(why), nil
	}
	r := p.once(ctx, t, at)
	r.Case = w.String()
	return r, ctx.Err()
}

// once makes one run, and repeats it if it failed.
func (s *Suite) once(ctx context.Context, t Target, w Workload) Run {
	for try := 0; ; try++ {
		r := measure(ctx, t, w, s.timing(w), s.cfg.Pinned, s.cfg.Generators)
		if r.Error == "" || try >= s.cfg.Retries || ctx.Err() != nil {
			return r
		}
	}
}

// settle converts a rate in percent to requests per second.
func (p *passing) settle(ctx context.Context, w Workload) (at Workload, why, err error) {
	if w.Percent == 0 {
		return w, nil, nil
	}
	name := w.closed().String()
	sat, known := p.rates[name]
	if !known {
		if sat, err = p.saturate(ctx, w.closed()); err != nil {
			return w, nil, err
		}
		p.rates[name] = sat
	}
	at = w
	at.Percent, at.Rate = 0, max(1, math.Round(sat.rate*w.Percent/100))
	return at, sat.err, nil
}

// saturate measures what the base answers in a closed loop: the median of a few runs, which are
// recorded under a name of their own.
func (p *passing) saturate(ctx context.Context, w Workload) (saturation, error) {
	base := p.cfg.Targets[0]
	for _, t := range p.cfg.Targets {
		if t.Name == p.cfg.Base {
			base = t
		}
	}
	name := "saturation of " + w.String()
	runs := p.before(func(r *Run) bool { return r.Case == name })
	for _, r := range runs {
		if err := p.keep(r); err != nil {
			return saturation{}, err
		}
	}
	for len(runs) < saturationRuns {
		r := p.once(ctx, base, w)
		if err := ctx.Err(); err != nil {
			return saturation{}, err
		}
		r.Case, r.Rep = name, len(runs)
		runs = append(runs, r)
		if err := p.keep(r); err != nil {
			return saturation{}, err
		}
		p.behind += p.estimate(w)
	}
	got := collect(runs, func(r *Run) (float64, bool) { return r.Rate, r.Rate > 0 })
	if got.N == 0 {
		return saturation{err: fmt.Errorf("bench: %s has no saturated rate: %s", base.Name, firstError(runs))}, nil
	}
	return saturation{rate: got.Median}, nil
}

// resumes checks that h is what this configuration would have written.
func (c Config) resumes(h *Header) error {
	mine := (&Suite{c}).header()
	same := h.Seconds == mine.Seconds && h.Warm == mine.Warm && h.Pinned == mine.Pinned && h.Base == mine.Base && h.Reps == mine.Reps &&
		slices.Equal(h.Cases, mine.Cases) && slices.Equal(h.Ramps, mine.Ramps) && reflect.DeepEqual(recorded(h.Targets), mine.Targets)
	switch {
	case !same:
		return errors.New("bench: the results to resume come from other targets, cases or settings")
	case h.Machine != mine.Machine || h.Commit != mine.Commit:
		return errors.New("bench: the results to resume come from another machine or commit")
	}
	return nil
}
