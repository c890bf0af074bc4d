package bench

import (
	"bytes"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

const help = `Usage: millrace serve [flags]

  -h, --help    Show help.
  --loops=N            Event loops (one per CPU: 2).
  --workers=N          Workers that run handlers (two per CPU: 4).
  --dispatch=MODE      Where packets run: adaptive (quick handles on their
                       loop), ordered (workers) or inline (loops) (adaptive).
  --read-buffer=BYTES    Most that one read takes, per loop (64KiB).
  --drain-budget=N       Sessions written to in one turn (64).
  --unsafe-demo          Enable 1/9 (false).
`

func TestHelpGivesFlagsAndDefaults(t *testing.T) {
	got := parseHelp(help)
	for name, want := range map[string]string{
		"loops": "2", "workers": "4", "dispatch": "adaptive", "read-buffer": "64KiB", "drain-budget": "64", "unsafe-demo": "false",
	} {
		if got[name] != want {
			t.Errorf("--%s: got default %q, want %q", name, got[name], want)
		}
	}
	if _, ok := got["db-lanes"]; ok || len(got) != 7 {
		t.Errorf("got %v", got)
	}
}

// model is a server whose cost is a product of what its flags do, with noise.
type model struct {
	rng   *rand.Rand
	costs map[string]float64 // --flag=value
	sd    float64
	runs  int
}

func (m *model) run(_ context.Context, t Target, w Workload) Run {
	m.runs++
	last := map[string]string{}
	for _, a := range t.Command {
		if name, value, ok := strings.Cut(a, "="); ok {
			last[name] = value
		}
	}
	cost := 10.0
	for name, value := range last {
		if c, ok := m.costs[name+"="+value]; ok {
			cost *= c
		}
	}
	return Run{Case: w.String(), Target: t.Name, CPU: &CPU{PerMessage: cost * math.Exp(m.sd*m.rng.NormFloat64())}}
}

func tuneModel(t *testing.T, seed uint64, costs map[string]float64, flags ...string) (*Outcome, *model) {
	t.Helper()
	tuner, err := NewTuner(TuneConfig{
		Binary: "x", Flags: flags, Cases: mustParse("echo/100x8/4KiB"),
		Space: []Dimension{
			{"loops", []string{"1", "2"}}, {"dispatch", []string{"adaptive", "ordered", "inline"}},
			{"read-buffer", []string{"16KiB", "64KiB", "256KiB"}}, {"drain-budget", []string{"16", "64", "256"}}, {"db-lanes", []string{"1"}},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	m := &model{rng: rand.New(rand.NewPCG(seed, 1)), costs: costs, sd: 0.05}
	tuner.run = m.run
	tuner.known = parseHelp(help)
	out, err := tuner.search(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return out, m
}

func TestTunerFindsTheCombinationAndLeavesNoise(t *testing.T) {
	found, strays := 0, 0
	for seed := range uint64(50) {
		out, m := tuneModel(t, seed, map[string]float64{
			"--dispatch=inline": 0.7, "--dispatch=ordered": 1.2, "--read-buffer=256KiB": 0.6, "--read-buffer=16KiB": 2, "--drain-budget=16": 1.01,
		})
		line := strings.Join(out.Best, " ")
		if strings.Contains(line, "--dispatch=inline") && strings.Contains(line, "--read-buffer=256KiB") {
			found++
		}
		if strings.Contains(line, "--loops") || strings.Contains(line, "--drain-budget") {
			strays++
		}
		if m.runs > 250 {
			t.Fatalf("it took %d runs", m.runs)
		}
		if len(out.Unknown) != 1 || out.Unknown[0] != "db-lanes" {
			t.Fatalf("unknown flags: got %v", out.Unknown)
		}
	}
	if found < 48 || strays > 5 {
		t.Errorf("of 50 searches %d found both flags, %d kept one that does nothing", found, strays)
	}
}

func TestTunerSaysWhatItCanNotTry(t *testing.T) {
	for flag, want := range map[string]string{"nosuch": "serve has no flag --nosuch", "dispatch": "those that serve has already"} {
		tuner, err := NewTuner(TuneConfig{Binary: "x", Cases: mustParse("echo/1x1"), Space: []Dimension{{flag, []string{"adaptive"}}}})
		if err != nil {
			t.Fatal(err)
		}
		tuner.known = map[string]string{"dispatch": "adaptive"}
		if _, err := tuner.search(t.Context()); !errors.Is(err, ErrNothingToTry) || !strings.Contains(err.Error(), want) {
			t.Errorf("--try %s=adaptive: got %v, want %q", flag, err, want)
		}
	}
}

func TestTunerLeavesAGoodServerAlone(t *testing.T) {
	touched := 0
	for seed := range uint64(50) {
		out, _ := tuneModel(t, 100+seed, map[string]float64{"--dispatch=ordered": 1.3})
		if out.Gain.N > 0 {
			touched++
		}
	}
	if touched > 5 {
		t.Errorf("%d of 50 searches of a server that nothing improves kept a flag", touched)
	}
}

func TestTunerStartsFromTheGivenFlags(t *testing.T) {
	out, _ := tuneModel(t, 7, map[string]float64{"--read-buffer=16KiB": 2, "--read-buffer=256KiB": 1.3}, "--read-buffer=16KiB", "--workers", "9")
	line := strings.Join(out.Best, " ")
	if !strings.Contains(line, "--read-buffer=64KiB") || !strings.Contains(line, "--workers=9") {
		t.Errorf("got %q, want the better read buffer and the given workers", line)
	}
	if out.Gain.Median > 0.6 || out.Gain.Median < 0.4 {
		t.Errorf("got a gain of x%.2f, want 0.5", out.Gain.Median)
	}
	var file, table bytes.Buffer
	if err := out.WriteConfig(&file); err != nil {
		t.Fatal(err)
	}
	if file.String() != "read-buffer = \"64KiB\"\nworkers = 9\n" {
		t.Errorf("got the file %q", file.String())
	}
	if err := out.WriteTable(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"millrace serve --read-buffer=64KiB --workers=9", "noise", "better"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, table.String())
		}
	}
}

func TestTunerRefusesNonsense(t *testing.T) {
	for name, cfg := range map[string]TuneConfig{
		"no program":    {},
		"idle":          {Binary: "x", Cases: mustParse("idle/100")},
		"no flag":       {Binary: "x", Flags: []string{"loops"}},
		"no value":      {Binary: "x", Flags: []string{"--loops"}},
		"too few reps":  {Binary: "x", Reps: 1},
		"flag for flag": {Binary: "x", Flags: []string{"--loops", "--workers=1"}},
	} {
		if _, err := NewTuner(cfg); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
