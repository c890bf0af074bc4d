package enginetest

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	shrinkTime = 10 * time.Second // how long a simpler run is looked for
	shrinkRuns = 2000             // how many are tried at most
	recordMost = 8 << 10          // characters of a record that is printed
)

// report tells of a run that has failed, and of the simplest that was found.
func (r result) report(t *testing.T, o Options, seed uint64, fn func(*World)) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "enginetest: seed %d: %s\n", seed, r.failed)
	fmt.Fprintf(&b, "repeat it with: ENGINETEST_SEED=%d go test -run '%s' in this package\n", seed, pattern(t))
	best, tried := r, 0
	if !o.NoShrink {
		best, tried = r.shrink(t, o, seed, fn)
	}
	last := runOnce(t, o, seed, played(best.rec), true, fn)
	if last.failed == "" {
		last = runOnce(t, o, seed, seeded(seed), true, fn) // fn does not depend on the seed alone
		fmt.Fprintf(&b, "WARNING: playing the same choices again did not fail: the function does something that the seed does not decide\n")
	}
	fmt.Fprintf(&b, "shrunk in %d runs from %d choices and %d events to %d choices (%d of them not 0) and %d events: %s\n",
		tried, len(r.rec), r.events, len(best.rec), some(best.rec), last.events, last.failed)
	if text := encode(best.rec); len(text) <= recordMost {
		fmt.Fprintf(&b, "repeat that with: ENGINETEST_REPLAY=%s\n", text)
	}
	b.WriteString(last.trace)
	return b.String()
}

// some is how many choices are not 0.
func some(rec []uint32) (n int) {
	for _, v := range rec {
		if v != 0 {
			n++
		}
	}
	return n
}

// shrink looks for a record of choices that fails in the same way, and is shorter or has
// more zeros.
func (r result) shrink(t *testing.T, o Options, seed uint64, fn func(*World)) (best result, tried int) {
	t.Helper()
	best = r
	began := time.Now()
	try := func(rec []uint32) bool {
		if tried >= shrinkRuns || time.Since(began) > shrinkTime || t.Failed() {
			return false
		}
		tried++
		next := runOnce(t, o, seed, played(rec), false, fn)
		if kind(next.failed) != kind(r.failed) {
			return false
		}
		for len(rec) > 0 && rec[len(rec)-1] == 0 {
			rec = rec[:len(rec)-1] // it goes on with zeros by itself
		}
		next.rec = rec
		best = next
		return true
	}
	for before := -1; before != len(best.rec)+some(best.rec); {
		before = len(best.rec) + some(best.rec)
		for size := len(best.rec); size > 0; size /= 2 { // cut the end off
			for len(best.rec) >= size && try(slices.Clone(best.rec[:len(best.rec)-size])) {
			}
		}
		for size := max(len(best.rec)/2, 1); ; size /= 2 { // leave out, or make zero, pieces of it
			for at := 0; at < len(best.rec); at += size {
				end := min(at+size, len(best.rec))
				if some(best.rec[at:end]) > 0 {
					zeros := slices.Clone(best.rec)
					clear(zeros[at:end])
					try(zeros)
				}
				if end <= len(best.rec) && size > 1 {
					try(slices.Delete(slices.Clone(best.rec), at, end))
				}
			}
			if size <= 1 {
				break
			}
		}
	}
	return best, tried
}

// kind is a failure without what differs between two that are the same: its numbers.
func kind(failed string) string {
	line, _, _ := strings.Cut(failed, "\n")
	return strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' || c == '.' {
			return -1
		}
		return c
	}, line[:min(len(line), 60)])
}

func stack() string {
	b := make([]byte, 8<<10)
	return string(b[:runtime.Stack(b, false)])
}
