package engine

import (
	"context"
	"errors"
	"time"
)

// ErrDraining: the server drains already.
var ErrDraining = errors.New("engine: the server drains already")

// drainRun is a drain that Drain has begun.
type drainRun struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when nothing of it goes on
}

// Drain takes the server out of use without stopping it: connections are refused, and the
// sessions get GOAWAY and end as in Stop, until Undrain. rate is how many are told in a
// second; 0 is as Config.DrainRate says. What is left after within is cut off, and logged;
// 0 or Off: nothing is. It returns at once. ErrDraining, and nothing changes, while the
// server drains; ErrClosed when it doesn't run.
func (srv *Server) Drain(within time.Duration, rate int) error {
	srv.drainMu.Lock()
	defer srv.drainMu.Unlock()
	switch {
	case srv.draining.Load():
		return ErrDraining
	case !srv.Running():
		return ErrClosed
	}
	ctx, cancel := context.WithCancel(context.Background())
	grace := forever
	if within > 0 {
		grace = within
		ctx, cancel = context.WithTimeout(context.Background(), within)
	}
	run := &drainRun{cancel, make(chan struct{})}
	srv.drainRun = run
	srv.beginDrain(grace)
	srv.bg.Go(func() {
		defer close(run.done)
		srv.tellAll(ctx, grace, time.Now().Add(min(grace, 365*24*time.Hour)), rate)
		select {
		case <-ctx.Done():
		case <-srv.quit:
			return
		}
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return
		}
		if loss := srv.cutOff(); loss.Sessions > 0 {
			loss.Cause = ctx.Err()
			srv.cfg.Logger.Warn("engine: the drain has ended with losses", "sessions", loss.Sessions, "requests", loss.Frames, "bytes", loss.Bytes)
		}
	})
	return nil
}

// Undrain takes back what Drain has begun: connections are accepted again, and no further
// session is told. Those that were told and have not ended yet go on as before, though their
// peers may leave. It does nothing where no such drain is under way; ErrClosed once Stop has
// begun.
func (srv *Server) Undrain() error {
	srv.drainMu.Lock()
	defer srv.drainMu.Unlock()
	if !srv.Running() {
		return ErrClosed
	}
	if srv.drainRun == nil {
		return nil
	}
	srv.haltDrain()
	srv.draining.Store(false)
	srv.fast.Store(false)
	srv.onEachLoop(func(l *loop) {
		for _, s := range l.sessions {
			s.goAway.Store(0)
		}
	})
	return nil
}

// endDrain ends what Drain has begun, for Stop to take over: the sessions that were told
// stay so.
func (srv *Server) endDrain() {
	srv.drainMu.Lock()
	defer srv.drainMu.Unlock()
	if srv.drainRun != nil {
		srv.haltDrain()
	}
}

// haltDrain waits until nothing of a drain goes on. drainMu is held.
func (srv *Server) haltDrain() {
	srv.drainRun.cancel()
	<-srv.drainRun.done
	srv.drainRun = nil
}

// onEachLoop runs fn on every loop, and waits for them, but not for loops that have ended.
func (srv *Server) onEachLoop(fn func(*loop)) {
	loops := srv.allLoops()
	done := make(chan struct{}, len(loops))
	for _, l := range loops {
		l.onLoop(func(l *loop) {
			fn(l)
			done <- struct{}{}
		})
	}
	late := time.NewTimer(stopGrace)
	defer late.Stop()
	for range loops {
		select {
		case <-done:
		case <-late.C:
			return
		}
	}
}
