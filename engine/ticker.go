package engine

import (
	"time"
)

// ticker runs on a goroutine and makes every loop check its timeouts.
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
		want := srv.tick()
		if srv.fast.Load() {
			want = min(want, drainTick)
		}
		if want != every {
			every = want
			t.Reset(every)
		}
		srv.guardFiles()
		srv.fitShare()
		peak := srv.budget.TakePeak()
		srv.nearNow(peak)
		trim.look(peak, srv.budget.Used(), time.Now())
		for _, l := range srv.allLoops() {
			l.mu.Lock()
			if l.sweepDue {
				l.late += every
			}
			l.sweepDue = true
			l.arm()
		}
	}
}

// tick returns the resolution of timeouts: an eighth of the shortest timeout, 10 to 250 ms; for
// UserTimeout a sixteenth.
func (srv *Server) tick() time.Duration {
	d, a := 250*time.Millisecond, srv.adjusted.Load()
	for _, t := range [...]time.Duration{a.FirstFrameTimeout, a.FrameTimeout, a.IdleTimeout, a.Heartbeat, srv.cfg.Linger, srv.cfg.UserTimeout / 2, srv.cfg.Resume} {
		if t > 0 {
			d = min(d, t/8)
		}
	}
	return max(d, 10*time.Millisecond)
}
