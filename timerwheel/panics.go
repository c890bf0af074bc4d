package timerwheel

import (
	"fmt"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
)

// maxPlaces limits the panicking places that are remembered.
const maxPlaces = 1024

// A panicLog logs panics of foreign code, once for each place in it.
type panicLog struct {
	logger *slog.Logger
	places sync.Map
	n      atomic.Int32
}

// note logs a panic; p is nil for runtime.Goexit. It must be called while the
// stack is still that of the panic, by the deferred function.
func (l *panicLog) note(p any) {
	var pcs [64]uintptr
	place := origin(pcs[:runtime.Callers(3, pcs[:])])
	if l.n.Load() >= maxPlaces {
		return
	}
	if _, seen := l.places.LoadOrStore(place, true); seen {
		return
	}
	l.n.Add(1)
	stack := make([]byte, 8<<10)
	stack = stack[:runtime.Stack(stack, false)]
	if p == nil {
		p = "runtime.Goexit"
	}
	l.logger.Error("timerwheel: panic in a callback", "panic", p, "at", place, "stack", string(stack))
}

// origin names the frame that panicked: the first outside the runtime above
// the runtime's own, which lie above our deferred function's.
func origin(pcs []uintptr) string {
	frames := runtime.CallersFrames(pcs)
	for unwound := false; ; {
		f, more := frames.Next()
		if strings.HasPrefix(f.Function, "runtime.") {
			unwound = true
		} else if unwound {
			return fmt.Sprintf("%s:%d", f.File, f.Line)
		}
		if !more {
			return "unknown"
		}
	}
}
