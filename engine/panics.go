package engine

import (
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

// maxPanicPlaces bounds how many places panics are remembered for.
const maxPanicPlaces = 256

// panicLog logs the stack of a panic once for each place, and counts all of them.
type panicLog struct {
	log   *slog.Logger
	total atomic.Uint64

	mu     sync.Mutex
	places map[string]int
}

func newPanicLog(log *slog.Logger) *panicLog { return &panicLog{log: log, places: map[string]int{}} }

// report is called in a deferred function with what recover gave: nil means that the
// callback ended its goroutine with runtime.Goexit.
func (l *panicLog) report(callback string, id ID, handle uint32, v any) {
	l.total.Add(1)
	text := "runtime.Goexit"
	if v != nil {
		text = fmt.Sprint(v)
	}
	place := panicPlace()
	l.mu.Lock()
	seen := l.places[place]
	if seen > 0 || len(l.places) < maxPanicPlaces {
		l.places[place] = seen + 1
	}
	full := len(l.places) >= maxPanicPlaces
	l.mu.Unlock()
	if seen > 0 || full {
		return
	}
	stack := make([]byte, 16<<10)
	stack = stack[:runtime.Stack(stack, false)]
	l.log.Error("panic in a callback", "callback", callback, "session", id.String(), "handle", handle,
		"panic", text, "place", place, "stack", string(stack))
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
