package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"
	"time"

	"millrace/engine"
)

// Signals less than sameSignal apart count as one: timeout(1) and others signal a process, and then its
// group.
const sameSignal = 50 * time.Millisecond

// untilSignals runs fn, whose context ends sameSignal after the first SIGINT or SIGTERM: who sends another
// because of what the first has done sends a second one. It returns what fn returns, or at a second signal
// an error at once: then everything ends with the process.
func untilSignals(fn func(stop context.Context) error) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	stop, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- fn(stop) }()
	var same <-chan time.Time
	for {
		select {
		case err := <-ended:
			return err
		case <-same:
			cancel()
		case sig := <-signals:
			switch {
			case same == nil:
				same = time.After(sameSignal)
			case stop.Err() != nil:
				n, _ := sig.(syscall.Signal)
				return exitf(exitSignal+int(n), "stopped at once by a second signal (%v)", sig)
			}
		}
	}
}

// drain stops srv, waiting for up to d for its sessions.
func drain(srv *engine.Server, behind *backends, d time.Duration) error {
	ctx := context.Background()
	if d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	behind.leaveNode(ctx, d)
	return stopError(srv.Stop(ctx))
}

func stopError(err error) error {
	var loss *engine.LossError
	switch {
	case errors.As(err, &loss):
		return exitf(exitLoss, "drained with losses at --drain-timeout: %d sessions cut off, %d requests not answered, %d bytes not sent",
			loss.Sessions, loss.Frames, loss.Bytes)
	case err != nil:
		return exitf(exitFailed, "stop: %w", err)
	}
	return nil
}
