package enginetest

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"
)

var long = flag.Bool("long", false, "run the large variants of the tests")

// Every scenario, from 200 seeds; from fewer under the race detector, which changes no run.
func TestSim(t *testing.T) {
	for _, s := range scenarios {
		t.Run(s.name, func(t *testing.T) {
			o := s.opt
			o.Seeds = simSeeds
			began := time.Now()
			Run(t, o, s.fn)
			t.Logf("%v", time.Since(began))
		})
	}
}

// How fast the simulation is, and how far the engine's clocks go; with -long.
func TestPace(t *testing.T) {
	if !*long {
		t.Skip("measures: use -long")
	}
	for _, s := range scenarios {
		o, err := s.opt.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		began, steps, events, lasted := time.Now(), 0, 0, time.Duration(0)
		const seeds = 200
		for seed := range uint64(seeds) {
			r := runOnce(t, o, seed, seeded(seed), false, s.fn)
			steps, events, lasted = steps+r.steps, events+r.events, lasted+r.lasted
		}
		took := time.Since(began)
		t.Logf("%-9s %d runs in %v: %d steps, %d events, %v simulated; %.0f steps and %.0f simulated seconds a second",
			s.name, seeds, took.Round(time.Millisecond), steps, events, lasted.Round(time.Second), float64(steps)/took.Seconds(), lasted.Seconds()/took.Seconds())
	}
}

// hashes runs each scenario from some seeds and returns their hashes.
func hashes(t *testing.T, seeds int) string {
	var b strings.Builder
	for _, s := range scenarios {
		o, err := s.opt.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		for seed := range uint64(seeds) {
			r := runOnce(t, o, seed, seeded(seed), false, s.fn)
			fmt.Fprintf(&b, "HASH %s %d: %d events, %d steps, %016x %.40s\n", s.name, seed, r.events, r.steps, r.hash, r.failed)
		}
	}
	return b.String()
}

// The same seed is the same run, whatever the number of processors, and playing its choices
// again is too.
func TestSameSeedSameRun(t *testing.T) {
	if underRace {
		t.Skip("runs without the race detector, in an eighth of the time")
	}
	const seeds = 4
	want := hashes(t, seeds)
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(0))
	for _, procs := range []int{1, 2} {
		runtime.GOMAXPROCS(procs)
		diff(t, fmt.Sprintf("GOMAXPROCS=%d", procs), hashes(t, seeds), want)
	}
	for _, s := range scenarios {
		o, _ := s.opt.withDefaults()
		a := runOnce(t, o, 3, seeded(3), false, s.fn)
		if b := runOnce(t, o, 3, played(a.rec), true, s.fn); a.hash != b.hash || a.events != b.events {
			t.Errorf("%s: played again: got %d events, hash %x, want %d, %x", s.name, b.events, b.hash, a.events, a.hash)
		}
		if b := runOnce(t, o, 4, seeded(4), false, s.fn); a.hash == b.hash {
			t.Errorf("%s: seeds 3 and 4 have the same hash", s.name)
		}
	}
}

func diff(t *testing.T, what, got, want string) {
	t.Helper()
	g, x := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range x {
		if i >= len(g) || g[i] != x[i] {
			t.Errorf("%s: got\n%s\nwant\n%s", what, g[min(i, len(g)-1)], x[i])
			return
		}
	}
}

// The race detector does not change a run either. It needs a separate build, so only with -long.
func TestSameSeedSameRunWithRace(t *testing.T) {
	if os.Getenv("ENGINETEST_HASHES") != "" {
		fmt.Print(hashes(t, 6))
		return
	}
	if !*long {
		t.Skip("builds itself twice: use -long")
	}
	out := map[string]string{}
	for _, race := range []string{"-race=true", "-race=false"} {
		cmd := exec.Command("go", "test", race, "-v", "-count=1", "-run", "^"+t.Name()+"$", "millrace/engine/enginetest")
		cmd.Env = append(os.Environ(), "ENGINETEST_HASHES=1")
		b, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, b)
		}
		for line := range strings.Lines(string(b)) {
			if strings.HasPrefix(line, "HASH ") {
				out[race] += line
			}
		}
		if out[race] == "" {
			t.Fatalf("%v printed no hashes:\n%s", cmd, b)
		}
	}
	diff(t, "with the race detector", out["-race=true"], out["-race=false"])
}
