package engine

import (
	"context"
	"errors"
	"time"
)

// ErrDraining: the server is already draining.
var ErrDraining = errors.New("engine: the server is already draining")

// drainRun is a drain that Drain has begun.
type drainRun struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when all its goroutines have ended
}

// Drain takes the server out of service without stopping it: connections are refused, and the
// sessions are sent GOAWAY and end as in Stop, until Undrain. rate is how many are notified in a
// second; 0 means as in Config.DrainRate. Remaining sessions are closed after within, which is
// logged; 0 or Off means no limit. It returns at once; ErrDraining, without effect, if the server
// is already draining, and ErrClosed if it is not running.
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

// Undrain cancels a Drain: connections are accepted again, and no further session is notified.
// Sessions that were notified and have not ended continue as before, though their peers may
// disconnect. It does nothing if no such drain is in progress; it returns ErrClosed after Stop has
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

// endDrain ends a Drain, so that Stop can take over: sessions already notified are not notified
// again.
func (srv *Server) endDrain() {
	srv.drainMu.Lock()
	defer srv.drainMu.Unlock()
	if srv.drainRun != nil {
		srv.haltDrain()
	}
}

// haltDrain waits until all goroutines of a drain have ended. drainMu is held.
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
