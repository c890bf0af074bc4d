package engine

import (
	"time"
)

// again gives a loop another turn once its poller has looked at the sockets. Execute
// within a turn would run before that.
func (srv *Server) again(l *loop) { srv.rearm <- l }

// rearmer's goroutine does what again asks for. Its channel has room for every loop.
func (srv *Server) rearmer() {
	defer srv.bg.Done()
	for {
		select {
		case l := <-srv.rearm:
			_ = l.io.Execute() // it fails only where the loops have ended
		case <-srv.quit:
			return
		}
	}
}

// ticker's goroutine has every loop sweep its clocks.
func (srv *Server) ticker() {
	defer srv.bg.Done()
	every := srv.tick()
	var trim trimmer
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-srv.quit:
			return
		case <-t.C:
		}
		if srv.fast.Load() && every > drainTick {
			every = drainTick
			t.Reset(every)
		}
		srv.guardFiles()
		srv.fitShare()
		trim.look(srv.budget.Used(), time.Now())
		for _, l := range srv.allLoops() {
			l.mu.Lock()
			l.sweepDue = true
			l.arm()
		}
	}
}

// tick is the clocks' resolution: an eighth of the shortest timeout, 10 to 250 ms. For
// UserTimeout it is a sixteenth.
func (srv *Server) tick() time.Duration {
	d := 250 * time.Millisecond
	for _, t := range []time.Duration{srv.cfg.FirstFrameTimeout, srv.cfg.FrameTimeout, srv.cfg.IdleTimeout, srv.cfg.Heartbeat, srv.cfg.Linger, srv.cfg.UserTimeout / 2} {
		if t > 0 {
			d = min(d, t/8)
		}
	}
	return max(d, 10*time.Millisecond)
}
