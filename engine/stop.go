package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/sched"
	"millrace/engine/internal/strand"
)

// How long Stop waits, after its context has ended, for handlers to return, and for each part that
// it ends itself: the loops, then the pool.
const (
	handlerGrace = time.Second
	stopGrace    = 500 * time.Millisecond
	slowGrace    = 10 * time.Second // for loops not blocked by callbacks, on a suspended machine
)

// LossError reports what was lost by a Stop whose context ended before everything was done. It
// unwraps to the context's error.
type LossError struct {
	Sessions  int     // closed with something outstanding
	Frames    int     // read and not answered, at least
	Bytes     int     // accepted by Send and not delivered, including those in the kernel's buffers
	Functions int     // submitted to Strands of the server's own pool, and not started
	Stuck     []Stuck // callbacks still running when Stop returned
	Cause     error   // the context's error
}

// Stuck is a callback that did not return in time.
type Stuck struct {
	Session   ID
	Main, Sub uint16 // handle of the packet in OnSocketRead; 0/0 in any other callback
}

func (e *LossError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "engine: stopped with losses: %d sessions, %d requests not handled, %d bytes not delivered", e.Sessions, e.Frames, e.Bytes)
	if e.Functions > 0 {
		fmt.Fprintf(&b, ", %d functions not run", e.Functions)
	}
	for i, x := range e.Stuck {
		if i == 3 {
			fmt.Fprintf(&b, " and %d more", len(e.Stuck)-i)
			break
		}
		fmt.Fprintf(&b, "; session %v is still in its callback for %d/%d", x.Session, x.Main, x.Sub)
	}
	return b.String()
}

func (e *LossError) Unwrap() error { return e.Cause }

// Stop drains the server. New connections are refused; the sessions are sent GOAWAY with the time
// that ctx leaves, DrainRate of them a second. Requests already read are served, and later ones
// until the session has been quiet for 100 ms, or are refused with ERROR 7 when a quarter of the
// time (at most 1 s) has passed since its GOAWAY. A session with nothing outstanding gets a FIN.
// When ctx ends, the remaining sessions are closed and counted in a *LossError; so are functions
// waiting in Strands of the server's own pool. Stop returns at most 3 s later, whatever handlers
// do. When it returns, OnSocketClose has run for every session, except those named by
// LossError.Stuck, and the hooks of Config have been called for everything that happened, except
// after one that blocks. It may be called twice, and on a server that was never started. In a
// callback or hook of this server it would wait for itself: then it returns ErrInCallback and does
// nothing.
func (srv *Server) Stop(ctx context.Context) error {
	if srv.inCallback() {
		return ErrInCallback
	}
	if first, err := srv.claimStop(ctx); !first {
		return err
	}
	srv.endDrain()
	srv.drain(ctx)
	var loss *LossError
	if srv.Err() != nil || !srv.waitEmpty(ctx) { // loops that have ended need not be waited for
		loss = srv.cutOff()
		srv.waitEmptyFor(handlerGrace)
	}
	srv.serving.Store(false)
	close(srv.quit)
	srv.endLoops()
	srv.bg.Wait()
	if loss == nil {
		loss = &LossError{}
	}
	loss.Stuck = srv.stuck()
	if srv.ownPool {
		loss.Functions = srv.stopPool(ctx)
	}
	srv.stopHooks(ctx)
	loss.Cause = ctx.Err()
	srv.mu.Lock()
	srv.state = serverStopped
	if srv.failure == nil {
		close(srv.done)
	}
	srv.mu.Unlock()
	close(srv.ended)
	if loss.Sessions == 0 && loss.Functions == 0 && len(loss.Stuck) == 0 {
		return nil
	}
	return loss
}

// stopPool ends the server's own pool. Its Strands continue until ctx ends: lost are the functions
// that wait in them then.
func (srv *Server) stopPool(ctx context.Context) (lost int) {
	if srv.pool.sched.TasksBusy() {
		_ = srv.pool.Stop(ctx) // blocked callbacks are reported below
	}
	last, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	if err := srv.pool.Stop(last); err != nil {
		srv.cfg.Logger.Warn("workers are still blocked and were abandoned", "err", err)
	}
	return srv.pool.strands.budget.Used() / strand.TaskCost
}

// stopHooks waits for pending calls of OnStall, OnFlight and OnNearMiss, as calls after Stop might
// be lost with the process. A hook that blocks is abandoned, as handlers are.
func (srv *Server) stopHooks(ctx context.Context) {
	told := make(chan struct{})
	go func() {
		srv.stalls.Close()
		srv.hooks.wait()
		close(told)
	}()
	select {
	case <-told:
		return
	case <-ctx.Done():
	}
	select {
	case <-told:
	case <-time.After(stopGrace):
	}
}

// endLoops ends the network's loops, and the sessions that remain then: those whose descriptors
// were the engine's own. A loop that is blocked in a callback is abandoned.
func (srv *Server) endLoops() {
	for _, l := range srv.allLoops() {
		l.bury()
	}
	srv.stopNetwork()
	defer srv.dropKept()
	defer srv.budget.Add(-srv.kept)
	some := false
	for _, l := range srv.allLoops() {
		if l.turn.since.Load() != 0 {
			continue
		}
		for len(l.sessions) > 0 {
			l.abort(l.sessions[len(l.sessions)-1], ReasonStopped)
			some = true
		}
	}
	if some {
		srv.waitEmptyFor(stopGrace)
	}
}

// stopNetwork ends the loops, and waits for them: while one is alive only it may end its sessions.
// Loops blocked in a callback are not waited for.
func (srv *Server) stopNetwork() {
	heldUp := func(l *loop) bool { return l.turn.since.Load() != 0 }
	for end := time.Now().Add(slowGrace); ; {
		ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
		err := srv.net.Stop(ctx)
		cancel()
		if err == nil || slices.ContainsFunc(srv.allLoops(), heldUp) || time.Now().After(end) {
			return
		}
	}
}

// bury takes back the work of a loop whose goroutine was ended by a callback.
func (l *loop) bury() {
	l.turn.mu.Lock()
	dead := l.turn.dead
	l.turn.mu.Unlock()
	if dead {
		l.turn.end()
	}
}

// stuck returns the callbacks still running.
func (srv *Server) stuck() (list []Stuck) {
	srv.table.each(func(s *Session) bool {
		if s.in.State() == strand.Running {
			_, main, sub := (*strandTask)(s).Running()
			list = append(list, Stuck{s.id, main, sub})
		}
		return true
	})
	return list
}

// claimStop reports whether the caller is the one to stop the server. If not, it has waited for the
// one that does. It first waits for a Start in progress.
func (srv *Server) claimStop(ctx context.Context) (bool, error) {
	srv.mu.Lock()
	for srv.state == serverStarting {
		srv.mu.Unlock()
		select {
		case <-srv.started:
		case <-ctx.Done():
			return false, fmt.Errorf("engine: stop: %w", ctx.Err())
		}
		srv.mu.Lock()
	}
	defer srv.mu.Unlock()
	switch {
	case srv.state == serverNew:
		srv.state = serverStopped
		close(srv.done)
		return false, nil
	case srv.state == serverStopped:
		return false, nil
	case !srv.stopping:
		srv.stopping = true
		srv.state = serverStopping
		return true, nil
	}
	srv.mu.Unlock()
	defer srv.mu.Lock()
	select {
	case <-srv.ended:
		return false, nil
	case <-ctx.Done():
		return false, fmt.Errorf("engine: stop: %w", ctx.Err())
	}
}

func (srv *Server) waitEmptyFor(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	srv.waitEmpty(ctx)
}

// waitEmpty waits until the last session has ended.
func (srv *Server) waitEmpty(ctx context.Context) bool {
	for srv.table.count() > 0 {
		select {
		case <-srv.tickNow:
		case <-ctx.Done():
			return srv.table.count() == 0
		}
	}
	return true
}

// cutOff ends every remaining session and counts what was outstanding.
func (srv *Server) cutOff() *LossError {
	loss := &LossError{}
	loops := srv.allLoops()
	sums := make(chan LossError, len(loops))
	for _, l := range loops {
		l.onLoop(func(l *loop) {
			var t LossError
			for i := len(l.sessions) - 1; i >= 0; i-- {
				s := l.sessions[i]
				if frames, bytes := s.outstanding(); frames+bytes > 0 {
					t.Sessions++
					t.Frames += frames
					t.Bytes += bytes
				}
				l.abort(s, ReasonStopped)
			}
			sums <- t
		})
	}
	late := time.After(stopGrace)
	for range loops {
		select {
		case t := <-sums:
			loss.Sessions += t.Sessions
			loss.Frames += t.Frames
			loss.Bytes += t.Bytes
			continue
		case <-late: // a loop has ended
		}
		break
	}
	return loss
}

// outstanding counts waiting and running frames, pending answers, and undelivered bytes.
func (s *Session) outstanding() (frames, bytes int) {
	s.in.Each(func(it *bufpool.Buf) bool {
		if it.Tag == strand.Data {
			frames += countFrames(s.framing.Load().codec, it.Rest())
		}
		return true
	})
	if s.in.State() == strand.Running {
		frames++
	}
	bytes = s.out.Size()
	if s.line() != nil {
		bytes += s.line().unsent()
	}
	if s.rd.life == lifeLinger || Reason(s.closing.Load()) == ReasonDrain {
		bytes += s.loop.undelivered(s)
	}
	return frames + int(s.held.Load()), bytes
}

// inCallback reports whether the caller is in a callback that this server's Stop waits for.
func (srv *Server) inCallback() bool {
	if owner, on := srv.pool.sched.Current(); on {
		s := ownerSession(owner)
		return srv.ownPool || s != nil && s.srv == srv
	}
	id := sched.GoroutineID()
	if srv.hooks.id.Load() == id || srv.stalls.OnReporter(id) {
		return true
	}
	for _, l := range srv.allLoops() {
		if l.goroutine.Load() == id {
			return true
		}
	}
	return false
}
