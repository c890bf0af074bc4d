package bench

import (
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// paced echoes at most rate frames a second, all connections together.
func paced(rate float64) reply {
	var mu sync.Mutex
	var next time.Time
	each := time.Duration(float64(time.Second) / rate)
	return func(s *fakeServer, c *fakeConn, handle uint32, body []byte) {
		mu.Lock()
		if now := time.Now(); next.Before(now.Add(-20 * time.Millisecond)) {
			next = now.Add(-20 * time.Millisecond) // it makes up for short delays
		}
		next = next.Add(each)
		wait := time.Until(next)
		mu.Unlock()
		time.Sleep(wait) // the pace is what is tested
		honest(s, c, handle, body)
	}
}

func TestARampStopsWhereTheServerHasEnough(t *testing.T) {
	target := startFake(t, paced(3000)).target()
	ramp, err := ParseRamp("500..64k/x2", mustParse("echo/20x1")[0])
	if err != nil {
		t.Fatal(err)
	}
	var last Progress
	res := runSuite(t, Config{
		Targets: []Target{target}, Ramps: []Ramp{ramp}, Reps: 1, Window: 200 * time.Millisecond, Warm: 20 * time.Millisecond,
		OnRun: func(p Progress, _ Run) { last = p },
	})
	c := res.Curves()
	if len(c) != 1 || !c[0].Saturated || c[0].Knee < 0 || c[0].Steps[c[0].Knee].Work.Rate > 3000 {
		t.Fatalf("got %+v, want a knee under 3000/s", c)
	}
	if n := len(c[0].Steps); n != len(res.Runs) || n > 4 || c[0].Steps[n-1].Work.Rate > 4000 {
		t.Errorf("got %d steps: the ramp went on after saturation", n)
	}
	if last.Total != 8 || last.Done > last.Total || last.Left < 0 {
		t.Errorf("got progress %+v, want 8 in all", last)
	}
}

// counted is a command that notes each start in a file and then runs the peer std.
func counted(t *testing.T) (target Target, starts func() int) {
	t.Helper()
	std, err := findPeers(t).Target(t.Context(), "std")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "starts")
	target = Target{Name: "std", Command: []string{"/bin/sh", "-c", "echo x >>" + file + "; exec " + strings.Join(std.Command, " ")}}
	return target, func() int {
		b, _ := os.ReadFile(file) // none: no start
		return strings.Count(string(b), "x")
	}
}

func TestARampOverConnectionsUsesOneServer(t *testing.T) {
	target, starts := counted(t)
	ramp, err := ParseRamp("conns=1..4", mustParse("echo/9x2")[0])
	if err != nil {
		t.Fatal(err)
	}
	res := runSuite(t, Config{Targets: []Target{target}, Ramps: []Ramp{ramp}, Reps: 2, Window: 50 * time.Millisecond, Warm: 10 * time.Millisecond})
	if starts() != 2 {
		t.Errorf("two passes started %d servers, want 2", starts())
	}
	for _, r := range res.Runs {
		if r.Verified == 0 || r.CPU == nil || !strings.HasSuffix(r.Case, "x2") {
			t.Errorf("got %+v", r)
		}
	}
}

func TestHalfTheSaturatedRateIsTheSameForAll(t *testing.T) {
	a, b := startFake(t, honest).target(), startFake(t, paced(1500)).target()
	a.Name, b.Name = "a", "b"
	res := runSuite(t, Config{
		Targets: []Target{a, b}, Cases: mustParse("echo/20@50%"), Base: "b", Reps: 2, Window: 100 * time.Millisecond, Warm: 10 * time.Millisecond,
	})
	var base []float64
	offered := map[float64]int{}
	for _, r := range res.Runs {
		if r.Case == "saturation of echo/20x1" {
			if r.Target != "b" {
				t.Errorf("the rate was found with %s, not with the base", r.Target)
			}
			base = append(base, r.Rate)
			continue
		}
		offered[r.Offered]++
	}
	want := spread(base).Median / 2
	if len(base) != saturationRuns || len(offered) != 1 || offered[float64(int(want+0.5))] != 4 {
		t.Errorf("got rates %v from saturations %v, want four runs at %.0f/s", offered, base, want)
	}
	if want < 500 || want > 1000 {
		t.Errorf("half of what a server of 1500/s answers is %.0f/s", want)
	}
	cells := res.Cells()
	if len(cells) != 2 || cells[0].P50Ratio.N != 2 || cells[0].P99Ratio.N != 2 {
		t.Errorf("the cells lack the ratios of p50 and p99: %+v", cells)
	}
	var table strings.Builder
	if err := res.WriteTable(&table); err != nil || !strings.Contains(table.String(), "p99 x b") {
		t.Errorf("the table lacks the ratio of p99: %v\n%s", err, table.String())
	}
	cmp, err := Compare(res, res, CompareConfig{Target: "b", TargetB: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if len(cmp.Changes) != 3 || cmp.Changes[1].Metric != MetricP50 || cmp.Changes[2].Metric != MetricP99 {
		t.Errorf("got changes %+v, want the cost, p50 and p99", cmp.Changes)
	}
}

func TestWithoutASaturatedRateTheCaseFailsAndTheRestGoesOn(t *testing.T) {
	s, err := New(Config{
		Targets: []Target{{Name: "dead", Command: []string{"/bin/false"}}, startFake(t, honest).target()}, Base: "dead",
		Cases: mustParse("echo/2@50% echo/2"), Reps: 1, Retries: -1, Window: 50 * time.Millisecond, Warm: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range res.Runs {
		fine := r.Case == "echo/2x1" && r.Target == "fake"
		if (r.Error == "") != fine {
			t.Errorf("%s of %s: %q", r.Case, r.Target, r.Error)
		}
	}
}

// forgetful goes silent after some requests of a connection.
func forgetful(s *fakeServer, c *fakeConn, handle uint32, body []byte) {
	if c.n < 40 {
		honest(s, c, handle, body)
	}
}

func TestMissingRepliesFailARunAndSaturateAStep(t *testing.T) {
	tm := timing{10 * time.Millisecond, 100 * time.Millisecond}
	w := mustParse("echo/5@4000")[0]
	plain := make(chan Run, 1)
	target := startFake(t, forgetful).target()
	go func() { plain <- measure(t.Context(), target, w, tm, false, 1) }()
	s, err := openSession(t.Context(), startFake(t, forgetful).target(), w, false, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	step := s.measure(t.Context(), w, tm, true)
	if step.Error != "" || step.Lost == 0 || step.Messages == 0 || step.CPU == nil {
		t.Errorf("a step that lost replies: got %+v", step)
	}
	if r := <-plain; !strings.Contains(r.Error, "did not come") {
		t.Errorf("a run that lost replies: got %q", r.Error)
	}
}
