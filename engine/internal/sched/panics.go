package sched

import (
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

// maxPlaces bounds how many places in the code a log remembers.
const maxPlaces = 256

// Panics logs the stack of a panic once for each place, of maxPlaces at a time, and counts all of
// them.
type Panics struct {
	log   *slog.Logger
	total atomic.Uint64

	mu     sync.Mutex
	places map[string]bool // guarded by mu
}

// NewPanics makes a Panics that writes to log.
func NewPanics(log *slog.Logger) *Panics { return &Panics{log: log, places: map[string]bool{}} }

// Total is how many have been reported.
func (l *Panics) Total() uint64 { return l.total.Load() }

// Report is called in a deferred function with what recover gave: nil means that the
// callback ended its goroutine with runtime.Goexit. session is "" where there is none.
func (l *Panics) Report(callback, session string, handle uint32, v any) {
	l.total.Add(1)
	text := "runtime.Goexit"
	if v != nil {
		text = fmt.Sprint(v)
	}
	place := panicPlace()
	if !l.first(place) {
		return
	}
	stack := make([]byte, maxStack)
	stack = stack[:runtime.Stack(stack, false)]
	l.log.Error("panic in a callback", "callback", callback, "session", session, "handle", handle,
		"panic", text, "place", place, "stack", string(stack))
}

// first reports whether a place is new. If there are too many to remember it forgets all, so that
// what is new is still logged.
func (l *Panics) first(place string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.places[place] {
		return false
	}
	if len(l.places) >= maxPlaces {
		clear(l.places)
	}
	l.places[place] = true
	return true
}

// panicPlace is the function and line that panicked: the first frame below the
// runtime's own frames that a panic puts on the stack.
func panicPlace() string {
	var pcs [32]uintptr
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs[:])])
	below, first := false, ""
	for {
		f, more := frames.Next()
		switch {
		case strings.HasPrefix(f.Function, "runtime."):
			below = true
		case below:
			return fmt.Sprintf("%s:%d", f.Function, f.Line)
		case first == "":
			first = fmt.Sprintf("%s:%d", f.Function, f.Line)
		}
		if !more {
			return first
		}
	}
}
