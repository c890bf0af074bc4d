//go:build !linux

package bench

import (
	"context"
	"errors"
	"time"
)

type timing struct{ warm, length time.Duration }

// RunGenerator returns at once: load is made on Linux only.
func RunGenerator() {}

var errNotHere = errors.New("bench: measuring needs Linux (epoll and /proc)")

func measure(_ context.Context, t Target, w Workload, _ timing, _ bool, _ int) Run {
	return Run{Case: w.String(), Target: t.Name, At: time.Now().UTC(), Error: errNotHere.Error()}
}

type session struct{}

func openSession(context.Context, Target, Workload, bool, int) (*session, error) {
	return nil, errNotHere
}

func (*session) measure(context.Context, Workload, timing, bool) Run { return Run{} }

func (*session) close() {}

func describeMachine(*Machine) {}
