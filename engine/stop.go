package engine

import (
	"context"
	"fmt"
	"math"
	"time"
)

const (
	drainTick  = 20 * time.Millisecond
	drainQuiet = 100 * time.Millisecond // GOAWAY to FIN, and the last request to FIN

	insistAfter = 2 * time.Second // GOAWAY to FIN for a client that never is quiet
)

// LossError tells what a Stop lost whose context ended before everything was done.
type LossError struct {
	Sessions int // cut off with something outstanding
	Frames   int // read and not answered, at least
	Bytes    int // staged or unsent
}

func (e *LossError) Error() string {
	return fmt.Sprintf("engine: stopped with losses: %d sessions, %d requests not handled, %d bytes not sent", e.Sessions, e.Frames, e.Bytes)
}

// Stop drains the server. New connections are refused; every session gets GOAWAY with
// the time that ctx leaves; requests already read are served, and later ones until the
// session has been quiet for 100 ms, or are refused with ERROR 7 once a quarter of the
// time (at most 1 s) has gone. A session with nothing outstanding gets a FIN. When ctx
// ends, what is left is cut off and counted in a *LossError. OnSocketClose has run for
// every session when Stop returns, unless a handler still blocks 1 s after ctx ended.
// It may be called twice, and on a server that never started.
func (srv *Server) Stop(ctx context.Context) error {
	if first, err := srv.claimStop(ctx); !first {
		return err
	}
	srv.beginDrain(ctx)
	var loss *LossError
	if srv.Err() != nil || !srv.waitEmpty(ctx) { // there is nothing to wait for on loops that have ended
		loss = srv.cutOff()
		srv.waitEmptyFor(time.Second)
	}
	close(srv.quit)
	srv.stopReactors()
	if srv.reap() {
		srv.waitEmptyFor(time.Second)
	}
	srv.plat.stop()
	srv.bg.Wait()
	if srv.ownPool {
		last, cancel := context.WithTimeout(context.Background(), time.Second)
		if srv.pool.Stop(last) != nil {
			srv.cfg.Logger.Warn("workers are still inside handlers")
		}
		cancel()
	}
	srv.mu.Lock()
	srv.state = serverStopped
	if srv.failure == nil {
		close(srv.done)
	}
	srv.mu.Unlock()
	close(srv.ended)
	if loss != nil {
		return loss
	}
	return nil
}

// claimStop tells whether the caller is the one to stop the server. If not, it has
// waited for the one that does. A Start under way is waited for first.
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

// reap ends the sessions that are left when the loops have ended: those whose
// descriptors were the engine's own.
func (srv *Server) reap() (some bool) {
	for _, l := range *srv.loops.Load() {
		for len(l.sessions) > 0 {
			l.abort(l.sessions[len(l.sessions)-1], ReasonStopped)
			some = true
		}
	}
	return some
}

func (srv *Server) waitEmptyFor(d time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	srv.waitEmpty(ctx)
}

// beginDrain has every loop tell its sessions.
func (srv *Server) beginDrain(ctx context.Context) {
	srv.drainFrom = time.Now()
	srv.draining.Store(true)
	srv.fast.Store(true)
	grace := time.Duration(math.MaxInt64) // nothing is ever cut off
	if t, ok := ctx.Deadline(); ok {
		grace = time.Until(t)
	}
	goAway := func(l *loop) {
		for _, s := range l.sessions {
			if s.rd.away == 0 {
				s.rd.away = srv.now()
				if s.rd.life == lifeOpen && s.closing.Load() == 0 {
					s.sendGoAway(grace)
				}
			}
		}
	}
	for _, l := range *srv.loops.Load() {
		srv.onLoop(l, goAway)
	}
	refuse := time.AfterFunc(min(time.Second, grace/4), func() { srv.refusing.Store(true) })
	context.AfterFunc(ctx, func() { refuse.Stop() })
}

// onLoop runs fn on a loop's goroutine, soon.
func (srv *Server) onLoop(l *loop, fn func(*loop)) {
	l.mu.Lock()
	l.jobs = append(l.jobs, fn)
	l.arm()
}

// drainStep closes a session of a draining server that has nothing outstanding and has
// been quiet. What a client sends after its GOAWAY is still served; only a request that
// crosses the FIN gets no answer but the end of the stream. A client that goes on asking
// although it is refused is not waited for beyond insistAfter.
func (l *loop) drainStep(s *Session, now int64) bool {
	quiet := s.rd.away
	if !l.srv.refusing.Load() || now-quiet < int64(insistAfter) {
		quiet = max(quiet, s.rd.heard)
	}
	if now-quiet < int64(drainQuiet) || s.rd.partial != nil || s.rd.paused != 0 || l.busy(s) || s.wire.unread() > 0 {
		return false
	}
	s.beginClose(ReasonDrain)
	return true
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

// cutOff ends every session that is left and counts what they still had to do.
func (srv *Server) cutOff() *LossError {
	loss := &LossError{}
	loops := *srv.loops.Load()
	sums := make(chan LossError, len(loops))
	for _, l := range loops {
		srv.onLoop(l, func(l *loop) {
			var t LossError
			for i := len(l.sessions) - 1; i >= 0; i-- {
				s := l.sessions[i]
				frames, bytes := s.outstanding()
				if frames+bytes > 0 && s.rd.life != lifeLinger {
					t.Sessions++
					t.Frames += frames
					t.Bytes += bytes
				}
				l.abort(s, ReasonStopped)
			}
			sums <- t
		})
	}
	late := time.After(time.Second)
	for range loops {
		select {
		case t := <-sums:
			loss.Sessions += t.Sessions
			loss.Frames += t.Frames
			loss.Bytes += t.Bytes
			continue
		case <-late: // a handler blocks that loop, or it has ended
		}
		break
	}
	if loss.Sessions == 0 {
		return nil
	}
	return loss
}

// outstanding counts the frames that wait or run, the answers owed, and unsent bytes.
func (s *Session) outstanding() (frames, bytes int) {
	s.in.mu.Lock()
	for it := s.in.head; it != nil; it = it.next {
		if it.kind == itemData {
			frames += countFrames(s.srv.codec, it.rest())
		}
	}
	if s.in.state == stateRunning {
		frames++
	}
	s.in.mu.Unlock()
	return frames + int(s.held.Load()), s.out.unsentBytes()
}
