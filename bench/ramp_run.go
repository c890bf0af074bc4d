package bench

import (
	"context"
	"time"
)

// ramp makes one pass of a ramp: one server, step after step.
func (p *passing) ramp(ctx context.Context, rep int, t Target, r Ramp) error {
	name := r.String()
	old := p.before(func(run *Run) bool { return run.Ramp == name && run.Target == t.Name && run.Rep == rep })
	if r.ended(old) {
		p.rest(r, 0)
		for i := range old {
			p.note(&old[i])
			if err := p.keep(old[i]); err != nil {
				return err
			}
		}
		return nil
	}
	if why := p.skip[[2]string{name, t.Name}]; why != "" {
		return p.only(r, rep, newRun(t, r.Steps()[0]).with(errSkipped{why}))
	}
	s, err := openSession(ctx, t, r.most(), p.cfg.Pinned, p.cfg.Generators)
	if ctx.Err() != nil {
		if err == nil {
			s.close()
		}
		return ctx.Err()
	}
	if err != nil {
		return p.only(r, rep, newRun(t, r.Steps()[0]).with(err))
	}
	defer s.close()
	return p.climb(ctx, rep, r, s)
}

// only records the single run of a pass that could not be made.
func (p *passing) only(r Ramp, rep int, run Run) error {
	run.Ramp, run.Rep = r.String(), rep
	p.note(&run)
	if err := p.keep(run); err != nil {
		return err
	}
	p.step(r.Steps()[0], 1, &run)
	p.rest(r, 1)
	return nil
}

// rest counts the steps from number n on that were not needed.
func (p *passing) rest(r Ramp, n int) {
	for _, w := range r.Steps()[n:] {
		p.step(w, 1, nil)
	}
}

func (p *passing) climb(ctx context.Context, rep int, r Ramp, s *session) error {
	var made []Run
	best := 0.0
	for _, w := range r.Steps() {
		run := p.rung(ctx, r, s, w, best)
		if err := ctx.Err(); err != nil {
			return err
		}
		run.Rep = rep
		p.note(&run)
		if err := p.keep(run); err != nil {
			return err
		}
		p.step(w, 1, &run)
		made = append(made, run)
		best = max(best, run.Rate)
		if r.ended(made) {
			break
		}
	}
	p.rest(r, len(made))
	return nil
}

// rung runs one step. A step that was too much is repeated, as a single hiccup of the machine
// should not end the ramp; the second result counts.
func (p *passing) rung(ctx context.Context, r Ramp, s *session, w Workload, best float64) Run {
	for try := 0; ; try++ {
		began := time.Now()
		run := s.measure(ctx, w, p.timing(w), true)
		run.Ramp = r.String()
		if run.Error == "" && run.Skipped == "" {
			run.Saturated = r.saturated(&run, best, p.cfg.SLO)
		}
		if run.Saturated == "" || run.Saturated == noGrowth || try > 0 || ctx.Err() != nil {
			return run
		}
		p.behind += min(p.estimate(w), time.Since(began))
	}
}
