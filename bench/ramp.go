package bench

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Axis is the quantity that a Ramp raises.
type Axis string

const (
	OverRate  Axis = "rate"  // requests a second on a fixed schedule: an open loop
	OverConns Axis = "conns" // connections, each with Depth requests in flight: a closed loop
)

// Ramp is a workload under a load that rises step by step until the server is saturated. One server
// process serves all the steps; each has its own connections, warm-up and window.
type Ramp struct {
	Work Workload `json:"work"` // what each step does; the ramp sets its Rate or its Conns
	Over Axis     `json:"over"`
	From float64  `json:"from"`
	To   float64  `json:"to"`
	Add  float64  `json:"add,omitempty"`  // to the next step; or
	Mult float64  `json:"mult,omitempty"` // its factor
}

// Limits of a ramp and what ends it.
const (
	maxSteps = 200
	// answeredLeast is the part of the offered rate that a server must answer.
	answeredLeast = 0.98
	// growthLeast is how much the rate of a closed loop must grow over the best earlier step; two
	// consecutive steps that grow less end the ramp.
	growthLeast = 1.02
	// kneePart is the part of the best rate of a closed loop at which the knee is.
	kneePart = 0.95
)

// ParseRamp parses [rate=|conns=]FROM..TO[/STEP]; STEP is a number or xFACTOR, by default a tenth
// of the range, and x2 for connections. Numbers may end in k.
//
//	5k..100k        5000..100000/2500        conns=1..1000/x2
func ParseRamp(spec string, w Workload) (Ramp, error) {
	r := Ramp{Work: w, Over: OverRate}
	axis, span, named := strings.Cut(spec, "=")
	if !named {
		span = spec
	} else {
		r.Over = Axis(axis)
	}
	span, step, stepped := strings.Cut(span, "/")
	from, to, ok := strings.Cut(span, "..")
	if !ok {
		return Ramp{}, fmt.Errorf("bench: ramp %q: want FROM..TO/STEP, as in 5k..100k/5k or conns=1..1000/x2", spec)
	}
	var errs [3]error
	r.From, errs[0] = parseCount(from)
	r.To, errs[1] = parseCount(to)
	switch factor, times := strings.CutPrefix(step, "x"); {
	case times:
		r.Mult, errs[2] = parseCount(factor)
	case stepped:
		r.Add, errs[2] = parseCount(step)
	case r.Over == OverConns:
		r.Mult = 2
	default:
		r.Add = (r.To - r.From) / 10
	}
	err := errors.Join(errs[:]...)
	if r.Over == OverConns {
		r.Work.Conns = int(r.From) // its name should not say anything else
	}
	if err == nil {
		err = r.validate()
	}
	if err != nil {
		return Ramp{}, fmt.Errorf("bench: ramp %q of %s: %w", spec, w, err)
	}
	return r, nil
}

func parseCount(s string) (float64, error) {
	number, thousands := strings.CutSuffix(s, "k")
	x, err := strconv.ParseFloat(number, 64)
	if err != nil || !(x > 0) || math.IsInf(x, 0) {
		return 0, fmt.Errorf("%q is not a positive number", s)
	}
	if thousands {
		x *= 1000
	}
	return x, nil
}

func (r Ramp) validate() error {
	switch {
	case r.Over != OverRate && r.Over != OverConns:
		return fmt.Errorf("it can rise over rate or conns, not over %q", string(r.Over))
	case r.Work.open():
		return errors.New("its case has a rate already")
	case r.Work.Kind == Idle:
		return errors.New("memory at rest has no rate")
	case !(r.From > 0) || r.To < r.From:
		return fmt.Errorf("it goes from %g to %g", r.From, r.To)
	case r.Over == OverConns && r.From != math.Trunc(r.From):
		return fmt.Errorf("%g connections", r.From)
	case (r.Add > 0) == (r.Mult > 0) && r.From < r.To:
		return errors.New("it needs a step that is added or a factor, one of them")
	case r.Mult > 0 && r.Mult < 1.01:
		return fmt.Errorf("the factor %g is under 1.01", r.Mult)
	}
	if r.count() > maxSteps {
		return fmt.Errorf("it has more than %d steps", maxSteps)
	}
	steps := r.Steps()
	return errors.Join(steps[0].validate(), steps[len(steps)-1].validate())
}

// count returns the approximate number of steps.
func (r Ramp) count() float64 {
	switch {
	case r.Mult > 0:
		return math.Log(r.To/r.From) / math.Log(r.Mult)
	case r.Add > 0:
		return (r.To - r.From) / r.Add
	}
	return 1
}

// Steps are the workloads of the ramp; the last one is To.
func (r Ramp) Steps() []Workload {
	var out []Workload
	last := 0.0
	for x, n := r.From, 0; x < r.To*(1-1e-9) && n <= maxSteps; n++ {
		if at := r.round(x); at > last {
			out = append(out, r.step(at))
			last = at
		}
		if r.Mult > 0 {
			x *= r.Mult
		} else {
			x += r.Add
		}
	}
	if at := r.round(r.To); at > last {
		out = append(out, r.step(at))
	}
	return out
}

// round rounds to whole connections and to round rates.
func (r Ramp) round(x float64) float64 {
	if r.Over == OverConns || x >= 100 {
		return math.Round(x)
	}
	return x
}

func (r Ramp) step(x float64) Workload {
	w := r.Work
	if r.Over == OverConns {
		w.Conns = int(x)
	} else {
		w.Rate = x
	}
	return w
}

// load returns the load of a step.
func (r Ramp) load(w Workload) float64 {
	if r.Over == OverConns {
		return float64(w.Conns)
	}
	return w.Rate
}

// most is the step with most connections.
func (r Ramp) most() Workload {
	steps := r.Steps()
	return steps[len(steps)-1]
}

// String names the ramp in every report.
func (r Ramp) String() string {
	number := func(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }
	step := "/" + number(r.Add)
	if r.Mult > 0 {
		step = "/x" + number(r.Mult)
	}
	return fmt.Sprintf("%s %s=%s..%s%s", r.Work, r.Over, number(r.From), number(r.To), step)
}

// saturated returns why a step is too much for the server; "" if it is not. best is the highest
// rate of the earlier steps.
func (r Ramp) saturated(run *Run, best float64, slos []SLO) string {
	for _, o := range slos {
		if x, ok := o.figure(run); ok && !o.holds(x) {
			return o.text + " broken: " + o.format(x)
		}
	}
	if run.Lost > 0 {
		return fmt.Sprintf("%d replies missing", run.Lost)
	}
	if r.Over == OverConns {
		if best > 0 && run.Rate < growthLeast*best {
			return noGrowth
		}
		return ""
	}
	// Two messages are the edges of the window.
	if due := run.Offered * run.Seconds; float64(run.Messages)+2 < answeredLeast*due {
		return fmt.Sprintf("%.2f of the offered rate answered", float64(run.Messages)/due)
	}
	return ""
}

const noGrowth = "no faster than with less"

// ended reports whether the ramp ends after these steps of one pass.
func (r Ramp) ended(steps []Run) bool {
	n := len(steps)
	if n == 0 {
		return false
	}
	last := &steps[n-1]
	switch {
	case last.Error != "" || last.Skipped != "" || n >= len(r.Steps()):
		return true
	case last.Saturated == noGrowth:
		return n > 1 && steps[n-2].Saturated == noGrowth
	}
	return last.Saturated != ""
}
