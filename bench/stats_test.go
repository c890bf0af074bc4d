package bench

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestStudentMatchesTheTables(t *testing.T) {
	for _, c := range []struct{ t, df, p float64 }{
		{12.706, 1, 0.05}, {2.571, 5, 0.05}, {3.707, 6, 0.01}, {2.228, 10, 0.05}, {2.042, 30, 0.05}, {5.959, 6, 0.001}, {0, 7, 1},
	} {
		if got := studentP(c.t, c.df); math.Abs(got-c.p) > 0.0006 {
			t.Errorf("t %v, %v degrees: got %.5f, want %.5f", c.t, c.df, got, c.p)
		}
	}
}

func TestSpreadInterpolates(t *testing.T) {
	got := spread([]float64{4, 1, 3, 2})
	if got != (Spread{4, 2.5, 1.75, 3.25}) {
		t.Errorf("got %+v", got)
	}
	if spread(nil) != (Spread{}) || spread([]float64{5}) != (Spread{1, 5, 5, 5}) {
		t.Error("wrong for none or one")
	}
}

func TestHolmSharesTheLevel(t *testing.T) {
	got := holm([]float64{0.04, 0.001, 0.02, 0.2}, 0.05)
	want := []bool{false, true, false, false} // 0.001 <= 0.0125, then 0.02 > 0.0167
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("got %v, want %v", got, want)
		}
	}
}

// noise makes results of two targets on a machine whose mood drifts by some 30 % and whose single
// runs scatter by sd; b costs factor times as much as a.
func noise(rng *rand.Rand, cases, reps int, sd, factor float64) *Results {
	r := &Results{Header: Header{Format: resultFormat, Base: "gnet", Targets: []Target{{Name: "a"}, {Name: "b"}, {Name: "gnet"}}, Reps: reps}}
	for c := range cases {
		r.Header.Cases = append(r.Header.Cases, Workload{Kind: Echo, Conns: c + 1, Depth: 1, Body: 64}.String())
	}
	mood := 0.25 * rng.NormFloat64()
	for rep := range reps { // as a Suite does it: all cases in each repetition
		for _, name := range r.Header.Cases {
			mood = 0.8*mood + 0.15*rng.NormFloat64()
			for target, cost := range map[string]float64{"a": 9, "b": 9 * factor, "gnet": 8} {
				cpu := cost * math.Exp(mood+sd*rng.NormFloat64())
				r.Runs = append(r.Runs, Run{Case: name, Target: target, Rep: rep, CPU: &CPU{PerMessage: cpu}})
			}
		}
	}
	return r
}

func TestCompareCriesNoWolf(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	paired, separate, raw := 0, 0, 0
	for range 1000 {
		one, two := noise(rng, 10, 7, 0.1, 1), noise(rng, 10, 7, 0.1, 1)
		for _, c := range []struct {
			count *int
			a, b  *Results
			cfg   CompareConfig
		}{
			{&paired, one, one, CompareConfig{Target: "a", TargetB: "b"}},
			{&separate, one, two, CompareConfig{Target: "a"}},
			{&raw, one, two, CompareConfig{Target: "a", Normalise: "-"}},
		} {
			out, err := Compare(c.a, c.b, c.cfg)
			if err != nil {
				t.Fatal(err)
			}
			if out.Regressed() {
				*c.count++
			}
		}
	}
	// One side of a two-sided test at 1 % over all cases together: some 5 of 1000.
	if paired > 15 || separate > 15 || raw > 30 {
		t.Errorf("false alarms in 1000 comparisons of 10 cases: %d interleaved, %d normalised, %d raw", paired, separate, raw)
	}
}

func TestCompareSeesARegression(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	seen := 0
	for range 200 {
		one := noise(rng, 10, 9, 0.1, 1.5)
		out, err := Compare(one, one, CompareConfig{Target: "a", TargetB: "b"})
		if err != nil {
			t.Fatal(err)
		}
		if out.Regressed() {
			seen++
		}
		back, err := Compare(one, one, CompareConfig{Target: "b", TargetB: "a"})
		if err != nil {
			t.Fatal(err)
		}
		if back.Regressed() {
			t.Fatal("an improvement was called a regression")
		}
	}
	if seen < 195 {
		t.Errorf("a cost of x1.5 at 10 %% scatter was seen %d times of 200", seen)
	}
}

func TestCompareWantsEnoughAndBothSides(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	two := noise(rng, 2, 2, 0.1, 20)
	out, err := Compare(two, two, CompareConfig{Target: "a", TargetB: "b"})
	if err != nil || out.Changes[0].Verdict != TooFew {
		t.Errorf("two runs: got %+v, %v, want too few", out, err)
	}
	one := noise(rng, 2, 5, 0.1, 1)
	if _, err := Compare(one, one, CompareConfig{Target: "a"}); err == nil {
		t.Error("a target was compared with itself")
	}
	if _, err := Compare(one, one, CompareConfig{Target: "a", TargetB: "nobody"}); err == nil {
		t.Error("a target that was not measured was compared")
	}
	for i := range one.Runs {
		if one.Runs[i].Target == "b" && one.Runs[i].Case == one.Header.Cases[1] {
			one.Runs[i] = Run{Case: one.Runs[i].Case, Target: "b", Rep: one.Runs[i].Rep, Error: "it broke"}
		}
	}
	out, err = Compare(one, one, CompareConfig{Target: "a", TargetB: "b"})
	if err != nil || out.Changes[1].Verdict != Broken || !out.Regressed() {
		t.Errorf("a case that fails now: got %+v, %v, want broken", out, err)
	}
}
