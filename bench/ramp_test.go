package bench

import (
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestRampsAreParsed(t *testing.T) {
	for spec, want := range map[string]string{
		"5k..20k/5k":       "5000 10000 15000 20000",
		"rate=100..450/x2": "100 200 400 450",
		"100..1100":        "100 200 300 400 500 600 700 800 900 1000 1100",
		"conns=1..10":      "1 2 4 8 10",
		"conns=3..9/3":     "3 6 9",
		"conns=1..3/0.5":   "1 2 3",
		"7..7":             "7",
	} {
		r, err := ParseRamp(spec, mustParse("echo/100x1")[0])
		if err != nil {
			t.Errorf("%s: %v", spec, err)
			continue
		}
		var got []string
		for _, w := range r.Steps() {
			got = append(got, string(jsonf("%g", r.load(w))))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%s: got steps %v, want %s", spec, got, want)
		}
	}
	for _, bad := range []string{
		"", "5", "5..", "..5", "5..1", "0..5", "-1..5", "1..5/0", "1..5/x1", "1..5/x1.001", "1..Inf", "1..NaN", "1..1e9/1", "1..5/1e-30", "colour=1..5",
		"conns=1.5..5", "conns=1..1e9", "1..5/2/3", "rate=1...5",
	} {
		if r, err := ParseRamp(bad, mustParse("echo/100x1")[0]); err == nil {
			t.Errorf("%q: got %+v, want an error", bad, r)
		}
	}
	for _, w := range []string{"idle/100", "echo/100@50", "echo/100@50%"} {
		if _, err := ParseRamp("conns=1..5", mustParse(w)[0]); err == nil {
			t.Errorf("a ramp of %s was accepted", w)
		}
	}
	if _, err := ParseRamp("1..5", mustParse("broadcast/5x1")[0]); err == nil {
		t.Error("a broadcast at a fixed rate was accepted")
	}
}

func TestRampsRiseToTheirEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := Ramp{Work: mustParse("echo/10x1")[0], Over: rapid.SampledFrom([]Axis{OverRate, OverConns}).Draw(t, "axis")}
		r.From = float64(rapid.IntRange(1, 1000).Draw(t, "from"))
		r.To = r.From + float64(rapid.IntRange(0, 100000).Draw(t, "more"))
		if rapid.Bool().Draw(t, "times") {
			r.Mult = rapid.Float64Range(1.01, 5).Draw(t, "factor")
		} else {
			r.Add = rapid.Float64Range(0.1, 5000).Draw(t, "step")
		}
		if r.validate() != nil {
			return
		}
		steps := r.Steps()
		if len(steps) > maxSteps+1 || r.load(steps[0]) != r.From || r.load(steps[len(steps)-1]) != r.To {
			t.Fatalf("%s: %d steps from %g to %g", r, len(steps), r.load(steps[0]), r.load(steps[len(steps)-1]))
		}
		for i := range steps[1:] {
			if r.load(steps[i+1]) <= r.load(steps[i]) {
				t.Fatalf("%s: step %d does not rise", r, i+1)
			}
		}
	})
}

// climbed makes the runs of a pass with these rates, as Suite would have.
func climbed(r Ramp, target string, rates []float64, lost ...int) []Run {
	var out []Run
	best := 0.0
	for i, w := range r.Steps() {
		run := Run{
			Case: w.String(), Target: target, Ramp: r.String(), Seconds: 1, Rate: rates[i], Messages: uint64(rates[i]), Offered: w.Rate,
			CPU: &CPU{PerMessage: 2 + float64(i)}, Latency: &Latency{Points: make([]float64, len(quantiles))},
		}
		if i < len(lost) {
			run.Lost = lost[i]
		}
		run.Saturated = r.saturated(&run, best, nil)
		best = max(best, run.Rate)
		if out = append(out, run); r.ended(out) {
			break
		}
	}
	return out
}

func TestKneesAreWhereTheServerHadEnough(t *testing.T) {
	open, _ := ParseRamp("1000..5000/1000", mustParse("echo/10x1")[0])
	closed, _ := ParseRamp("conns=1..64", mustParse("echo/10x1")[0])
	for name, c := range map[string]struct {
		ramp      Ramp
		rates     []float64
		lost      []int
		steps     int
		knee      int
		saturated bool
	}{
		"answers less":          {open, []float64{1000, 1995, 2960, 3000, 3000}, nil, 4, 2, true},
		"two messages short":    {open, []float64{998, 1998, 2998, 3998, 4998}, nil, 5, 4, false},
		"at the first step":     {open, []float64{500, 500, 500, 500, 500}, nil, 1, -1, true},
		"loses replies":         {open, []float64{1000, 2000, 3000, 4000, 5000}, []int{0, 3}, 2, 0, true},
		"grows to the end":      {closed, []float64{10, 20, 40, 80, 160, 320, 640}, nil, 7, 6, false},
		"grows no more":         {closed, []float64{10, 20, 40, 40.1, 40.3, 41, 50}, nil, 5, 2, true},
		"one dip":               {closed, []float64{10, 20, 15, 80, 160, 150, 160}, nil, 7, 4, true},
		"nearly all is enough ": {closed, []float64{10, 97, 100, 100, 100, 100, 100}, nil, 5, 1, true},
	} {
		res := &Results{Header: Header{Targets: []Target{{Name: "x"}}, Ramps: []Ramp{c.ramp}}, Runs: climbed(c.ramp, "x", c.rates, c.lost...)}
		got := res.Curves()[0]
		if len(got.Steps) != c.steps || got.Knee != c.knee || got.Saturated != c.saturated {
			t.Errorf("%s: got %d steps, knee %d, saturated %v; want %d, %d, %v", name, len(got.Steps), got.Knee, got.Saturated, c.steps, c.knee, c.saturated)
		}
	}
}

func TestAConditionEndsARamp(t *testing.T) {
	r, _ := ParseRamp("1000..5000/1000", mustParse("echo/10x1")[0])
	o, err := ParseSLO("p99<2ms")
	if err != nil {
		t.Fatal(err)
	}
	run := Run{Rate: 1000, Messages: 1000, Seconds: 1, Offered: 1000, Latency: &Latency{Points: make([]float64, len(quantiles))}}
	if why := r.saturated(&run, 0, []SLO{o}); why != "" {
		t.Errorf("got %q for a step that is well", why)
	}
	run.Latency.Points[slices.Index(quantiles, 99)] = 2500
	if why := r.saturated(&run, 0, []SLO{o}); why != "p99<2ms broken: 2.50ms" {
		t.Errorf("got %q", why)
	}
	run.Saturated = "p99<2ms broken: 2.50ms"
	res := &Results{Header: Header{Targets: []Target{{Name: "x"}}, Ramps: []Ramp{r}}}
	run.Case, run.Target, run.Ramp = r.Steps()[0].String(), "x", r.String()
	res.Runs = []Run{run}
	if b := res.RampBreaches(); len(b) != 1 || b[0].SLO != run.Saturated {
		t.Errorf("got %v, want the first step's", b)
	}
}

// rampSample has two ramps of three targets, one of which fails in the first.
func rampSample() *Results {
	open, _ := ParseRamp("1000..5000/1000", mustParse("echo/10x1")[0])
	closed, _ := ParseRamp("conns=1..64", mustParse("echo/10x1")[0])
	r := &Results{Header: Header{
		Format: resultFormat, Base: "gnet", Reps: 2, Ramps: []Ramp{open, closed},
		Targets: []Target{{Name: "mill", Command: []string{"x", "serve"}}, {Name: "gnet"}, {Name: "bad"}},
	}}
	for rep := range 2 {
		for _, target := range []string{"mill", "gnet"} {
			for _, run := range append(climbed(open, target, []float64{1000, 2000, 3000, 3100, 3100}), climbed(closed, target, []float64{10, 20, 40, 40, 40, 40, 40})...) {
				run.Rep = rep
				for i := range run.Latency.Points {
					run.Latency.Points[i] = float64(50 + 10*i)
				}
				r.Runs = append(r.Runs, run)
			}
		}
		r.Runs = append(r.Runs, Run{Case: open.Steps()[0].String(), Target: "bad", Ramp: open.String(), Rep: rep, Error: "it burst"})
	}
	return r
}

func TestRampsAreReported(t *testing.T) {
	r := rampSample()
	var b strings.Builder
	if err := r.WriteTable(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"Ramp echo/10x1 rate=1000..5000/1000", "<- knee", "mill: knee at 3000/s: 3000/s, p50 70.0µs, p99 110µs, 4.00µs a message, x1.00; at 4000/s: 0.78 of the offered rate answered",
		"bad: no knee: 1000/s was too much (FAILED: it burst)", "gnet: knee at 4 connections", "no faster than with less",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, b.String())
		}
	}
	page := writeReport(t, r)
	if !strings.Contains(page, "Ramp echo/1x1 conns=1..64/x2") || strings.Count(page, "<path") < 2*4*2 {
		t.Error("the page lacks the ramps' curves")
	}
	if m := outside.FindString(page); m != "" {
		t.Errorf("the page has %q, which may load something", m)
	}
	b.Reset()
	if err := r.WriteSVG(&b); err != nil || !strings.Contains(b.String(), "p99 latency over the rate") || strings.Contains(b.String(), "NaN") {
		t.Errorf("picture of a ramp: %v", err)
	}
	if math.IsNaN(r.Curves()[0].Steps[0].Answered.Median) {
		t.Error("the answered part is no number")
	}
}
