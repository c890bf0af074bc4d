//go:build !linux

package bench

import (
	"context"
	"time"
)

type timing struct{ warm, length time.Duration }

// RunGenerator returns at once: load is made on Linux only.
func RunGenerator() {}

func measure(_ context.Context, t Target, w Workload, _ timing, _ bool, _ int) Run {
	return Run{Case: w.String(), Target: t.Name, At: time.Now().UTC(), Error: "bench: measuring needs Linux (epoll and /proc)"}
}

func describeMachine(*Machine) {}
