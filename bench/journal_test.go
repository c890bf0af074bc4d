//go:build linux

package bench

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// journalled runs a suite of echo and a ramp, ends it after so many reported runs, and
// returns the journal.
func journalled(t *testing.T, targets []Target, resume *Results, stop int) (*Results, []byte, int) {
	t.Helper()
	ramp, err := ParseRamp("200..400/200", mustParse("echo/2x1")[0])
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var file bytes.Buffer
	fresh := 0
	s, err := New(Config{
		Targets: targets, Cases: mustParse("echo/2x1 echo/3@50%"), Ramps: []Ramp{ramp}, Reps: 2, Window: 50 * time.Millisecond, Warm: time.Millisecond,
		Journal: &file, Resume: resume,
		OnRun: func(Progress, Run) {
			if fresh++; fresh == stop {
				cancel()
			}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Run(ctx)
	if stop > 0 && !errors.Is(err, context.Canceled) || stop == 0 && err != nil {
		t.Fatalf("got %v after %d runs", err, fresh)
	}
	return res, file.Bytes(), fresh
}

func TestAnInterruptedSuiteIsResumed(t *testing.T) {
	targets := []Target{startFake(t, honest).target()}
	whole := 2*2 + 2*2
	for _, stop := range []int{3, 5} { // in the ramp, in the second repetition
		_, file, _ := journalled(t, targets, nil, stop)
		file = append(file, `{"case":"echo/2x1","tar`...) // killed while it wrote
		part, err := ReadJSON(bytes.NewReader(file))
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range part.Runs {
			if r.Error != "" {
				t.Errorf("the run that was interrupted is in the file: %+v", r)
			}
		}
		res, file, fresh := journalled(t, targets, part, 0)
		seen := map[string]bool{}
		n := 0
		for _, r := range res.Runs {
			key := strings.Join([]string{r.Case, r.Target, r.Ramp, itoa(r.Rep)}, "|")
			if seen[key] {
				t.Errorf("stopped after %d: %s twice", stop, key)
			}
			if seen[key] = true; !strings.HasPrefix(r.Case, "saturation") {
				n++
			}
		}
		if n != whole || fresh > whole-stop+1 {
			t.Errorf("stopped after %d: %d runs, %d of them new, want %d in all", stop, n, fresh, whole)
		}
		again, err := ReadJSON(bytes.NewReader(file))
		if err != nil || len(again.Runs) != len(res.Runs) {
			t.Errorf("the journal does not hold what was returned: %v", err)
		}
		rates := map[float64]bool{}
		for _, r := range res.Runs {
			if r.Case == "echo/3@50%" {
				rates[r.Offered] = true
			}
		}
		if len(rates) != 1 {
			t.Errorf("stopped after %d: the rate in percent is %v, want one", stop, rates)
		}
	}
}

func TestOnlyTheSameSuiteIsResumed(t *testing.T) {
	target := Target{Name: "x", Addr: "127.0.0.1:1"}
	cfg := Config{Targets: []Target{target}, Cases: mustParse("echo/2"), Window: time.Second}
	s, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Resume = &Results{Header: s.header()}
	if _, err := New(cfg); err != nil {
		t.Errorf("its own header: %v", err)
	}
	for name, change := range map[string]func(*Header){
		"cases":   func(h *Header) { h.Cases = []string{"echo/3x1"} },
		"targets": func(h *Header) { h.Targets = []Target{{Name: "x", Addr: "127.0.0.1:2"}} },
		"window":  func(h *Header) { h.Seconds = 3 },
		"commit":  func(h *Header) { h.Commit = "another" },
		"machine": func(h *Header) { h.Machine.CPUs = 1 << 20 },
		"reps":    func(h *Header) { h.Reps = 99 },
	} {
		h := s.header()
		change(&h)
		cfg.Resume = &Results{Header: h}
		if _, err := New(cfg); err == nil {
			t.Errorf("other %s were resumed", name)
		}
	}
}

func TestAnInterruptCutsARunShortAndKeepsTheRest(t *testing.T) {
	target := startFake(t, honest).target()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	s, err := New(Config{Targets: []Target{target}, Cases: mustParse("echo/2"), Window: 100 * time.Millisecond, OnRun: func(Progress, Run) {
		time.AfterFunc(50*time.Millisecond, cancel) // while the next one runs
	}})
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Run(ctx)
	if !errors.Is(err, context.Canceled) || len(res.Runs) != 1 || res.Runs[0].Error != "" {
		t.Errorf("got %+v and %v, want the first run only", res.Runs, err)
	}
}

// full fails from the third write on.
type full struct{ n int }

var errFull = errors.New("no space")

func (f *full) Write(p []byte) (int, error) {
	if f.n++; f.n > 2 {
		return 0, errFull
	}
	return len(p), nil
}

func TestAFullDiskEndsTheSuiteAtOnce(t *testing.T) {
	s, err := New(Config{Targets: []Target{startFake(t, honest).target()}, Cases: mustParse("echo/2"), Reps: 50, Window: 50 * time.Millisecond, Journal: &full{}})
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Run(t.Context())
	if !errors.Is(err, errFull) || len(res.Runs) != 2 {
		t.Errorf("got %d runs and %v, want 2 and the writer's error", len(res.Runs), err)
	}
}

func TestATargetThatDiesCostsNothingElse(t *testing.T) {
	bad := Target{Name: "bad", Command: []string{"/bin/sh", "-c", "echo ready 127.0.0.1:1; sleep 0.05; exit 3"}}
	good := startFake(t, honest).target()
	s, err := New(Config{Targets: []Target{bad, good}, Cases: mustParse("echo/2"), Reps: 4, Retries: -1, Window: 50 * time.Millisecond, Warm: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	res, err := s.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var failed, left, fine int
	for _, r := range res.Runs {
		switch {
		case r.Target == "fake" && r.Error == "":
			fine++
		case r.Error != "":
			failed++
		case strings.Contains(r.Skipped, "failed in 2"):
			left++
		}
	}
	if fine != 4 || failed != 2 || left != 2 {
		t.Errorf("got %d good runs, %d failures, %d left out; want 4, 2, 2", fine, failed, left)
	}
	if c := res.Cells(); !slices.ContainsFunc(c, func(c Cell) bool { return c.Target == "bad" && c.Failed == 2 }) {
		t.Errorf("got cells %+v", c)
	}
}

func TestEstimatesAddUp(t *testing.T) {
	cfg := Config{Targets: []Target{{Name: "x", Addr: "127.0.0.1:1"}, {Name: "y", Addr: "127.0.0.1:2"}}, Reps: 3, Warm: time.Second, Window: 2 * time.Second}
	total := func(cases string) time.Duration {
		cfg.Cases = mustParse(cases)
		s, err := New(cfg)
		if err != nil {
			t.Fatal(err)
		}
		return s.Estimate()
	}
	small := total("echo/1x1")
	if small < 18*time.Second || small > 22*time.Second {
		t.Errorf("six runs of 3 s are estimated at %v", small)
	}
	if two := total("echo/1x1 churn/1"); two != 2*small {
		t.Errorf("two cases are estimated at %v, one at %v", two, small)
	}
	if many := total("echo/100000x1"); many < 6*25*time.Second {
		t.Errorf("100,000 connections need a longer window: %v", many)
	}
}

// A results file says which program ran, not where this machine keeps it.
func TestResultsNameNoPathOfTheMachine(t *testing.T) {
	targets := []Target{MillraceTarget("now", "/home/someone/bin/millrace"), {Name: "running", Addr: "tcp://127.0.0.1:1"}}
	h := (&Suite{Config{Targets: targets}}).header()
	if got := h.Targets[0].Command[0]; got != "millrace" {
		t.Errorf("got %q", got)
	}
	if targets[0].Command[0] != "/home/someone/bin/millrace" || targets[0].OneLoop == nil {
		t.Error("the targets that run were changed")
	}
}
