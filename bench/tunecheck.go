package bench

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
)

// screened summarizes every value on its own. With few repetitions it is only a hint.
func (t *Tuner) screened(base *trial, singles []*trial) []Effect {
	var out []Effect
	var ps []float64
	for _, tr := range singles {
		flag := tr.set.names()[0]
		e := t.effect(tr, base, flag)
		e.Was = t.was(flag, t.known[flag])
		out = append(out, e)
		ps = append(ps, e.P)
	}
	t.mark(out, ps)
	return out
}

// effect returns the effect of a flag: with has it, without has not.
func (t *Tuner) effect(with, without *trial, flag string) Effect {
	ratios := t.ratios(with, without)
	e := Effect{Flag: flag, Value: with.set[flag], Ratio: spread(ratios), P: pairedP(logs(ratios)), Failed: with.failed}
	e.Was = without.set[flag]
	return e
}

func (t *Tuner) mark(es []Effect, ps []float64) {
	for i, significant := range holm(ps, tuneAlpha) {
		m := es[i].Ratio.Median
		es[i].Shown = significant && es[i].Failed == "" && (m >= 1+t.cfg.Least || m <= 1/(1+t.cfg.Least))
	}
}

// check measures the winner against itself without each flag, keeps the flags shown to help, and
// measures the rest against the starting point. Only fresh runs count, as the runs that selected
// the winner are biased in its favour.
func (t *Tuner) check(ctx context.Context, base, winner *trial, out *Outcome) error {
	trials := []*trial{base, winner}
	flags := winner.set.names()
	for _, flag := range flags {
		if tr := t.trial(winner.set.without(flag)); !slices.Contains(trials, tr) {
			trials = append(trials, tr)
		}
	}
	t.since = t.round
	if err := t.measure(ctx, "check", trials, t.cfg.Reps); err != nil {
		return err
	}
	var ps []float64
	for _, flag := range flags {
		e := t.effect(winner, t.trial(winner.set.without(flag)), flag)
		e.Was = t.was(flag, t.known[flag])
		out.Checked = append(out.Checked, e)
		ps = append(ps, e.P)
	}
	t.mark(out.Checked, ps)
	best := setting{}
	for _, e := range out.Checked {
		if e.Shown && e.Ratio.Median < 1 {
			best = best.with(e.Flag, e.Value)
		}
	}
	return t.confirm(ctx, base, best, out)
}

// confirm measures the gain of the remaining flags, with fresh runs if that is a new setting.
func (t *Tuner) confirm(ctx context.Context, base *trial, best setting, out *Outcome) error {
	out.best = t.whole(best)
	out.Best = out.best.args()
	if len(best) == 0 {
		return nil
	}
	tr := t.trial(best)
	if len(t.ratios(tr, base)) < t.cfg.Reps {
		if err := t.measure(ctx, "confirm", []*trial{base, tr}, t.cfg.Reps); err != nil {
			return err
		}
	}
	ratios := t.ratios(tr, base)
	out.Gain, out.GainP = spread(ratios), pairedP(logs(ratios))
	return nil
}

// whole returns the starting point changed by s.
func (t *Tuner) whole(s setting) setting {
	out := s
	for n, v := range t.base {
		if _, set := s[n]; !set {
			out = out.with(n, v)
		}
	}
	return out
}

// WriteTable writes the outcome for a terminal.
func (o *Outcome) WriteTable(w io.Writer) error {
	fmt.Fprintln(w, "Each value alone against the starting point (cost, lower is better; few runs, a hint only):")
	if err := writeEffects(w, o.Screened); err != nil {
		return err
	}
	if len(o.Checked) > 0 {
		fmt.Fprintln(w, "\nThe best combination, each flag of it against the same without it:")
		if err := writeEffects(w, o.Checked); err != nil {
			return err
		}
	}
	for _, f := range o.Unknown {
		fmt.Fprintf(w, "(serve has no --%s here)\n", f)
	}
	fmt.Fprintln(w)
	if o.Gain.N == 0 {
		fmt.Fprintln(w, "No flag shows a gain here: leave them as they are.")
		return nil
	}
	fmt.Fprintf(w, "Cost with these x%.2f of before (quartiles %.2f-%.2f, %d interleaved pairs, p %.2g):\n",
		o.Gain.Median, o.Gain.Low, o.Gain.High, o.Gain.N, o.GainP)
	fmt.Fprintln(w, "  millrace serve "+strings.Join(o.Best, " "))
	return nil
}

func writeEffects(w io.Writer, es []Effect) error {
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	for _, e := range es {
		was := e.Was
		if was == "" {
			was = "unset"
		}
		if e.Failed != "" {
			fmt.Fprintf(t, "  --%s=%s\tfor %s\tFAILED\t%s\t\n", e.Flag, e.Value, was, e.Failed)
			continue
		}
		fmt.Fprintf(t, "  --%s=%s\tfor %s\tx%.2f\t%.2f-%.2f\t%s\n", e.Flag, e.Value, was, e.Ratio.Median, e.Ratio.Low, e.Ratio.High, e.verdict())
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("bench: write outcome: %w", err)
	}
	return nil
}

func (e *Effect) verdict() string {
	switch {
	case !e.Shown:
		return "noise"
	case e.Ratio.Median < 1:
		return "better"
	}
	return "worse"
}

// WriteConfig writes the flags as a file for serve's --config.
func (o *Outcome) WriteConfig(w io.Writer) error {
	for _, name := range o.best.names() {
		value := strconv.Quote(o.best[name])
		if _, err := strconv.Atoi(o.best[name]); err == nil {
			value = o.best[name]
		}
		if _, err := fmt.Fprintf(w, "%s = %s\n", name, value); err != nil {
			return fmt.Errorf("bench: write config: %w", err)
		}
	}
	return nil
}
