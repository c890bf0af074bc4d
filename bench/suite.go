package bench

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"
)

// Config configures a Suite. Zero means the default.
type Config struct {
	// Targets to compare; at least one. The first is the subject of the report and of the SLO.
	Targets []Target
	// Base is the target that ratios refer to; default the one named gnet, else the second, else
	// none.
	Base string
	// Cases to run; default Standard(), none with Ramps. A rate of 50% is half of what the base
	// (without one: the first target) answers in a closed loop of the same shape, measured once,
	// before the case's first run: the same rate for every target.
	Cases []Workload
	// Ramps to run after the cases.
	Ramps []Ramp
	// SLO ends a ramp at the first step that misses an objective.
	SLO []SLO
	// Reps is how often every case is run for every target, interleaved; default 5, with only Ramps
	// 3.
	Reps int
	// Window is the measured time of a run or of a step; default 2 s. Cases of many connections get at least 100 µs
	// for each of them.
	Window time.Duration
	// Warm is the time before it; default 500 ms, at least 50 µs a connection.
	Warm time.Duration
	// Pinned puts the server on one processor with one loop and the generators on the others.
	Pinned bool
	// Generators is the number of load processes, if a workload can use several; default one for
	// each three processors, at most 8.
	Generators int
	// Retries is how often a failed run is repeated; default 1, negative none.
	Retries int
	// OnRun, when set, is called after each run on the goroutine that called Run.
	OnRun func(p Progress, r Run)
	// Journal, if set, is written while the suite runs: the header and then each run when it has
	// ended, in the format of WriteJSON.
	Journal io.Writer
	// Resume holds the runs of an interrupted suite with the same configuration; they are not
	// repeated.
	Resume *Results
}

// Progress is the state of a suite.
type Progress struct {
	Done, Total int           // runs; steps that a ramp did not need count as done
	Left        time.Duration // estimate for the rest
}

// Limits of a Config.
const (
	maxReps   = 1000
	maxWindow = 10 * time.Minute
)

func (c Config) withDefaults() Config {
	if c.Reps == 0 {
		c.Reps = 5
		if len(c.Ramps) > 0 && len(c.Cases) == 0 {
			c.Reps = 3
		}
	}
	if len(c.Cases) == 0 && len(c.Ramps) == 0 {
		c.Cases = Standard()
	}
	c.Cases = distinct(c.Cases)
	if c.Window == 0 {
		c.Window = 2 * time.Second
	}
	if c.Warm == 0 {
		c.Warm = 500 * time.Millisecond
	}
	if c.Generators == 0 {
		c.Generators = min(8, max(1, runtime.GOMAXPROCS(0)/3))
	}
	if c.Retries == 0 {
		c.Retries = 1
	}
	if c.Base == "" {
		c.Base = defaultBase(c.Targets)
	}
	return c
}

func defaultBase(ts []Target) string {
	for _, t := range ts {
		if t.Name == "gnet" {
			return t.Name
		}
	}
	if len(ts) > 1 {
		return ts[1].Name
	}
	return ""
}

func (c Config) validate() error {
	var errs []error
	if len(c.Targets) == 0 {
		errs = append(errs, errors.New("bench: no target"))
	}
	seen := map[string]bool{}
	for _, t := range c.Targets {
		errs = append(errs, t.validate())
		if seen[t.Name] {
			errs = append(errs, fmt.Errorf("bench: two targets are named %s", t.Name))
		}
		seen[t.Name] = true
	}
	if c.Base != "" && !seen[c.Base] {
		errs = append(errs, fmt.Errorf("bench: the base %s is not a target", c.Base))
	}
	for _, w := range c.Cases {
		if err := w.validate(); err != nil {
			errs = append(errs, fmt.Errorf("bench: %s: %w", w, err))
		}
	}
	for _, r := range c.Ramps {
		if err := r.validate(); err != nil {
			errs = append(errs, fmt.Errorf("bench: ramp %s: %w", r, err))
		}
	}
	if c.Resume != nil {
		errs = append(errs, c.resumes(&c.Resume.Header))
	}
	if c.Reps < 1 || c.Reps > maxReps {
		errs = append(errs, fmt.Errorf("bench: %d repetitions are not between 1 and %d", c.Reps, maxReps))
	}
	if c.Window < 50*time.Millisecond || c.Window > maxWindow || c.Warm < 0 || c.Warm > maxWindow {
		errs = append(errs, fmt.Errorf("bench: a window of %v after %v is not between 50ms and %v", c.Window, c.Warm, maxWindow))
	}
	if c.Generators < 1 || c.Generators > 64 {
		errs = append(errs, fmt.Errorf("bench: %d generators are not between 1 and 64", c.Generators))
	}
	return errors.Join(errs...)
}

// Standard returns the full set of cases: the tables of the README.
func Standard() []Workload {
	return mustParse("echo/1x1 echo/100x1 echo/1000x1 echo/10000x1 echo/100x32 echo/1000x16 echo/100x8/4KiB " +
		"echo/100@20000 broadcast/1000x1 broadcast/1000x8 broadcast/10000x1 groups/1000x1 idle/15000 churn/64 " +
		"mixed/200x4 timers/100x10 setkill/100x8 database/100x4 services/100x8 inline/100x8 cache/100x3 locks/100 " +
		"tls-echo/100x32 ws-echo/100x32 tls-idle/5000 ws-idle/5000 tls-churn/64 flood/100@20000")
}

// Quick returns a short set: under a minute for one target.
func Quick() []Workload {
	return mustParse("echo/1x1 echo/100x1 echo/100x32 echo/100x8/4KiB echo/100@10000 broadcast/1000x1 broadcast/1000x8 idle/5000")
}

// Targeted returns the cases of the performance targets, for the comparison with raw gnet.
func Targeted() []Workload {
	return append(mustParse("echo/1x1 echo/100x1 echo/1000x1 echo/10000x1 echo/100x32 echo/1000x16 echo/100x8/4KiB "+
		"broadcast/1000x1 broadcast/1000x8 broadcast/10000x1 idle/15000"), AtHalf()...)
}

// Doors returns the cases over TLS and WebSocket, each with the plain case.
func Doors() []Workload {
	return mustParse("echo/1x1 tls-echo/1x1 ws-echo/1x1 echo/100x1 tls-echo/100x1 ws-echo/100x1 echo/100x32 tls-echo/100x32 ws-echo/100x32 " +
		"echo/100x8/4KiB tls-echo/100x8/4KiB ws-echo/100x8/4KiB broadcast/1000x8 ws-broadcast/1000x8 tcp+ws-broadcast/1000x8 " +
		"idle/5000 tls-idle/5000 ws-idle/5000 tls-churn/64 echo/100@50% flood/100@50%")
}

// Clustered returns the cases over three nodes.
func Clustered() []Workload {
	return mustParse("cluster-call/1x1 cluster-call/64x1 cluster-group/300x4/g300 cluster-user/64x4 cluster-bind/64x1 room/64x4")
}

// Growth returns the cases over 1, 3, 5 and 9 nodes, with the same connections, spread over them.
func Growth() []Workload {
	var out []Workload
	for _, n := range []int{1, 3, 5, 9} {
		for _, w := range mustParse("cluster-call/90x1 cluster-group/270x4/g270 cluster-user/90x1 cluster-bind/90x1 room/90x1") {
			w.Nodes = n
			out = append(out, w)
		}
	}
	return out
}

// AtHalf returns the latency case at half of the base's saturated rate.
func AtHalf() []Workload { return mustParse("echo/100@50%") }

func mustParse(specs string) []Workload {
	ws, err := ParseWorkloads(specs)
	if err != nil {
		panic(err) // our own constants
	}
	return ws
}

// ParseWorkloads parses specs separated by spaces or commas; the words standard, quick, targets,
// latency, doors, cluster and growth stand for those sets.
func ParseWorkloads(specs string) ([]Workload, error) {
	var out []Workload
	for _, s := range strings.FieldsFunc(specs, func(r rune) bool { return r == ' ' || r == ',' }) {
		switch s {
		case "standard":
			out = append(out, Standard()...)
		case "quick":
			out = append(out, Quick()...)
		case "targets":
			out = append(out, Targeted()...)
		case "doors":
			out = append(out, Doors()...)
		case "cluster":
			out = append(out, Clustered()...)
		case "growth":
			out = append(out, Growth()...)
		case "latency":
			out = append(out, AtHalf()...)
		default:
			w, err := ParseWorkload(s)
			if err != nil {
				return nil, err
			}
			out = append(out, w)
		}
	}
	return out, nil
}

// Suite measures targets.
type Suite struct{ cfg Config }

// New checks cfg and starts nothing.
func New(cfg Config) (*Suite, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	return &Suite{cfg}, nil
}

// distinct removes duplicates.
func distinct(ws []Workload) []Workload {
	var out []Workload
	for _, w := range ws {
		if !slices.Contains(out, w) {
			out = append(out, w)
		}
	}
	return out
}

func (s *Suite) header() Header {
	c := s.cfg
	h := Header{
		Format: resultFormat, At: time.Now().UTC().Truncate(time.Second), Machine: thisMachine(), Commit: commit(),
		Seconds: c.Window.Seconds(), Warm: c.Warm.Seconds(), Reps: c.Reps, Pinned: c.Pinned,
		Base: c.Base, Targets: recorded(c.Targets), Ramps: c.Ramps,
	}
	for _, w := range c.Cases {
		h.Cases = append(h.Cases, w.String())
	}
	return h
}

// recorded returns the part of targets that a results file keeps: the program's name without its
// path.
func recorded(ts []Target) []Target {
	out := slices.Clone(ts)
	for i := range out {
		t := &out[i]
		t.OneLoop, t.Doors, t.Nodes, t.Env = nil, nil, nil, nil
		if len(t.Command) > 0 {
			t.Command = slices.Clone(t.Command)
			t.Command[0] = filepath.Base(t.Command[0])
		}
	}
	return out
}
