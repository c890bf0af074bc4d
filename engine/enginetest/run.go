package enginetest

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"testing"
	"testing/cryptotest"
	"testing/synctest"
	"time"

	"millrace/engine"
)

// Options configure Run. A zero field means the default given at the field.
type Options struct {
	Seeds int    // number of runs, each with its own seed; 20, or $ENGINETEST_SEEDS
	First uint64 // the first seed; 1

	Path     Path          // of clients that are not given another
	Smooth   bool          // reads and writes are complete wherever they can be
	InOrder  bool          // workers take tasks in order, as real ones do
	Files    int           // limit of open file descriptors; 1,048,576
	Patience time.Duration // how long Until and the end of a run wait, in simulated time; 2 min
	MaxSteps int           // of a run, after which it fails; 1,000,000
	Panics   bool          // callbacks may panic, on purpose
	Trace    bool          // World.Trace has the text of every run, not only of a failed one

	NoShrink bool // a failed run is reported without searching for a simpler one
}

func (o Options) withDefaults() (Options, error) {
	if s := os.Getenv("ENGINETEST_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 {
			return o, fmt.Errorf("enginetest: ENGINETEST_SEEDS=%q: give a number of at least 1", s)
		}
		o.Seeds = n
	}
	o.NoShrink = o.NoShrink || os.Getenv("ENGINETEST_NOSHRINK") != ""
	or(&o.Seeds, 20)
	or(&o.First, 1)
	or(&o.Files, 1<<20)
	or(&o.Patience, 2*time.Minute)
	or(&o.MaxSteps, 1_000_000)
	return o, nil
}

// Run runs fn once for each seed, in a World of its own. The test fails at the first run that does:
// its output has the seed, how to repeat it, and what happened in the simplest run found that fails
// in the same way. Environment variables: ENGINETEST_SEED=n runs only that seed, ENGINETEST_SEEDS=n
// that many, ENGINETEST_REPLAY repeats the run of a failure's output, and ENGINETEST_NOSHRINK=1
// skips the search for the simplest run.
//
// fn is called many times, so it must create everything it uses. It runs in a testing/synctest
// bubble: the time package uses simulated time in fn and in the goroutines that it starts, which
// must have ended when it returns.
func Run(t *testing.T, o Options, fn func(w *World)) {
	t.Helper()
	o, err := o.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	if s := os.Getenv("ENGINETEST_REPLAY"); s != "" {
		rec, err := decode(s)
		if err != nil {
			t.Fatal(err)
		}
		r := runOnce(t, o, o.First, played(rec), true, fn)
		if r.failed == "" {
			t.Logf("enginetest: the record does not fail; %d events", r.events)
			return
		}
		t.Fatalf("enginetest: %s\n%s", r.failed, r.trace)
	}
	first, seeds := o.First, o.Seeds
	if s := os.Getenv("ENGINETEST_SEED"); s != "" {
		if first, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("enginetest: ENGINETEST_SEED=%q: give a number", s)
		}
		seeds = 1
	}
	for i := range uint64(seeds) {
		seed := first + i
		r := runOnce(t, o, seed, seeded(seed), false, fn)
		if r.failed != "" {
			t.Fatal(r.report(t, o, seed, fn))
		}
		if t.Failed() {
			t.Fatalf("enginetest: seed %d did not come to an end; repeat it with ENGINETEST_SEED=%d go test -run '%s'", seed, seed, pattern(t))
		}
	}
}

// result is the result of a run.
type result struct {
	failed string
	rec    []uint32
	events int
	hash   uint64
	steps  int
	lasted time.Duration
	stats  []engine.Stats
	trace  string
}

// runOnce does one run in a bubble.
func runOnce(t *testing.T, o Options, seed uint64, c *choices, keep bool, fn func(*World)) (r result) {
	t.Helper()
	defer func() {
		if v := recover(); v != nil && r.failed == "" {
			r.failed, r.rec = fmt.Sprint(v), c.rec // goroutines are left behind
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		cryptotest.SetGlobalRandom(t, seed)
		w := newWorld(t, o, c, keep || o.Trace)
		w.seed = seed
		defer w.close()
		if !w.try(func() { fn(w); w.end() }) {
			w.tearDown()
		}
		r.failed, r.rec = w.failure(), c.rec
		r.events, r.hash = w.trace.sums()
		r.steps, r.lasted, r.trace = w.steps, w.Now(), w.Trace()
		for _, s := range w.servers {
			r.stats = append(r.stats, s.Stats())
		}
	})
	return r
}

// try calls fn and reports whether the run did not fail in it.
func (w *World) try(fn func()) (ok bool) {
	defer func() {
		if ok {
			return
		}
		if v := recover(); v != nil && v != any(abort{}) {
			w.Errorf("panic: %v\n%s", v, stack())
		} else if w.failure() == "" {
			w.Errorf("the function that Run was given has ended its goroutine")
		}
	}()
	fn()
	w.settle()
	return w.failure() == ""
}

var plain = regexp.MustCompile(`^[A-Za-z0-9_/=.-]+$`)

// pattern returns the argument of go test's -run for this test alone.
func pattern(t *testing.T) string {
	if !plain.MatchString(t.Name()) {
		return t.Name()
	}
	return "^" + t.Name() + "$"
}
