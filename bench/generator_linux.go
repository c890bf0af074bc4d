package bench

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"time"

	"golang.org/x/sys/unix"
)

// RunGenerator makes this process a load generator, or the NATS server of a cluster, and exits, if
// a Suite or Tuner started it as one; in any other process it returns at once. Call it first in
// main, and in TestMain of tests that measure.
func RunGenerator() {
	if dir := os.Getenv(busEnv); dir != "" {
		serveBus(dir)
	}
	if os.Getenv(generatorEnv) == "" {
		return
	}
	if err := generate(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// generate reads the spec, executes the parent's commands and writes the result as its last line.
func generate(in io.Reader, out io.Writer) error {
	spec, err := readSpec(in)
	if err != nil {
		return err
	}
	debug.SetGCPercent(400) // there is little garbage; avoid collections
	res := measureSpec(spec, out)
	line, err := json.Marshal(res)
	if err != nil {
		return fmt.Errorf("bench: result: %w", err)
	}
	_, err = fmt.Fprintf(out, "%s\n", line)
	return err
}

// readSpec reads exactly one line: what follows are commands for the loop.
func readSpec(in io.Reader) (genSpec, error) {
	line, err := bufio.NewReaderSize(in, 1<<16).ReadBytes('\n')
	if err != nil {
		return genSpec{}, fmt.Errorf("bench: spec: %w", err)
	}
	var spec genSpec
	if err := json.Unmarshal(line, &spec); err != nil {
		return genSpec{}, fmt.Errorf("bench: spec: %w", err)
	}
	return spec, nil
}

func measureSpec(spec genSpec, out io.Writer) genResult {
	if err := raiseFiles(spec.Mine + spec.Halves + 64); err != nil {
		return genResult{Error: err.Error()}
	}
	drv, err := newDriver(spec)
	if err != nil {
		return genResult{Error: err.Error()}
	}
	l, err := newLoop(spec, drv, out)
	if err == nil {
		err = l.run()
	}
	if err != nil {
		if skip, ok := errors.AsType[errSkip](err); ok {
			return genResult{Skip: skip.reason}
		}
		return genResult{Error: err.Error()}
	}
	return l.result()
}

func (l *loop) result() genResult {
	res := genResult{
		Nanos:    l.shut.at - l.open.at,
		User:     l.shut.user - l.open.user,
		System:   l.shut.system - l.open.system,
		Lost:     l.drv.owed(l),
		Verified: l.verified,
	}
	for _, s := range l.drv.streams() {
		r, err := s.result()
		if err != nil {
			return genResult{Error: err.Error()}
		}
		res.Streams = append(res.Streams, r)
	}
	if d, ok := l.drv.(interface{ lateness() *stream }); ok && d.lateness() != nil {
		r, err := d.lateness().result()
		if err != nil {
			return genResult{Error: err.Error()}
		}
		res.Lag = &r
	}
	return res
}

func newDriver(spec genSpec) (driver, error) {
	switch spec.Kind {
	case Echo:
		return newEchoDriver(spec), nil
	case Broadcast:
		return newCastDriver(spec), nil
	case Idle:
		return newIdleDriver(spec), nil
	case Churn:
		return newChurnDriver(spec), nil
	case Groups, ClusterGroup:
		return newGroupDriver(spec), nil
	case ClusterUser:
		return newUserDriver(spec), nil
	case Timers:
		return newTimerDriver(spec), nil
	case Mixed:
		return newMixedDriver(spec), nil
	case Replay:
		return newReplayDriver(spec)
	case Flood:
		return newFloodDriver(spec)
	}
	if calls := callsOf(spec); calls != nil {
		return newCallDriver(spec, string(spec.Kind), calls), nil
	}
	return nil, fmt.Errorf("bench: no driver for %q", spec.Kind)
}

// raiseFiles makes room for n descriptors.
func raiseFiles(n int) error {
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil {
		return fmt.Errorf("bench: open-file limit: %w", err)
	}
	if lim.Cur < uint64(n) {
		want := unix.Rlimit{Cur: lim.Max, Max: lim.Max}
		if lim.Max < uint64(n) {
			want = unix.Rlimit{Cur: uint64(n), Max: uint64(n)}
		}
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &want); err != nil {
			return fmt.Errorf("bench: this needs an open-file limit of %d, it is %d: %w", n, lim.Max, err)
		}
	}
	return nil
}

// Waits of a generator process.
const (
	stallAfter  = 10 * time.Second
	settleAfter = 3 * time.Second
)
