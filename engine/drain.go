package engine

import (
	"cmp"
	"context"
	"math"
	"time"

	"millrace/engine/internal/flight"
	"millrace/engine/internal/outbox"
)

// drain begins to refuse connections and has the sessions told.
func (srv *Server) drain(ctx context.Context) {
	grace := forever // nothing is ever cut off
	if t, ok := ctx.Deadline(); ok {
		grace = max(time.Until(t), 0)
	}
	end := time.Now().Add(min(grace, 365*24*time.Hour)) // what is told counts down to it
	srv.beginDrain(grace)
	srv.bg.Go(func() { srv.tellAll(ctx, grace, end, 0) })
}

// beginDrain refuses connections from now on. In a drain that Drain has begun, sessions that
// were told stay so.
func (srv *Server) beginDrain(grace time.Duration) {
	srv.refuseAfter.Store(int64(min(time.Second, grace/4)))
	if !srv.draining.Load() {
		srv.drainFrom.Store(srv.now())
		srv.draining.Store(true)
	}
	srv.fast.Store(true)
	for _, l := range srv.allLoops() {
		l.onLoop((*loop).endWaiting)
	}
}

// tellAll has every session told, rate of them a second; 0: as Config.DrainRate says.
func (srv *Server) tellAll(ctx context.Context, grace time.Duration, end time.Time, perSecond int) {
	every := time.NewTicker(drainTick)
	defer every.Stop()
	var list []*Session
	credit := 0.0
	rate := 0.0
	for first := true; ; first = false {
		if len(list) == 0 { // at first, and to find who came just then
			srv.table.each(func(s *Session) bool {
				if s.goAway.Load() == 0 {
					list = append(list, s)
				}
				return true
			})
			if len(list) == 0 {
				return
			}
			if first {
				rate = srv.drainRate(perSecond, len(list), grace)
			}
		}
		credit += rate * drainTick.Seconds()
		n := min(int(credit), len(list))
		if grace != forever && time.Until(end) < min(time.Second, grace/2) {
			n = len(list) // the rest is told while it can still do something about it
		}
		credit = max(credit-float64(n), 0)
		for _, s := range list[:n] {
			s.loop.onLoop(func(l *loop) { l.tell(s, grace, end) })
		}
		list = list[n:]
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		case <-srv.quit:
			return
		}
	}
}

// drainRate is how many of n sessions are told in a second, if asked is 0.
func (srv *Server) drainRate(asked, n int, grace time.Duration) float64 {
	if r := cmp.Or(asked, srv.cfg.DrainRate); r > 0 {
		return float64(r)
	}
	return max(drainRate, float64(n)/max(grace.Seconds()/4, 0.001))
}

// tell sends a session its GOAWAY, and writes it: its time runs from then on. Loop goroutine.
func (l *loop) tell(s *Session, grace time.Duration, end time.Time) {
	if s.goAway.Load() != 0 || s.closed() {
		return
	}
	if grace != forever {
		grace = time.Until(end)
	}
	s.sendGoAway(grace)
	l.flush(s, outbox.LookWalk)
	l.srv.goAways.Add(1)
	s.note(flight.GoAway, 0, uint32(min(grace.Milliseconds(), maxUint32)))
	s.goAway.Store(uint32((l.srv.now()-l.srv.drainFrom.Load())/int64(time.Millisecond)) + 1)
}

// toldAt is when a session was told that the server drains, a millisecond later at most;
// 0: it was not.
func (srv *Server) toldAt(s *Session) int64 {
	ms := s.goAway.Load()
	if ms == 0 {
		return 0
	}
	return srv.drainFrom.Load() + int64(ms)*int64(time.Millisecond)
}

// late tells whether what is read now comes too late in a drain.
func (srv *Server) late(s *Session, now int64) bool {
	if !srv.draining.Load() {
		return false
	}
	told := srv.toldAt(s)
	return told != 0 && now-told > srv.refuseAfter.Load()
}

// drainStep closes a session of a draining server that has nothing outstanding and has
// been quiet. What a client sends after its GOAWAY is still served; only a request that
// crosses the FIN gets no answer but the end of the stream. A client that goes on asking
// although it is refused is not waited for beyond insistAfter, one that is in the middle
// of a frame no longer than requests are served.
func (l *loop) drainStep(s *Session, now int64) bool {
	told := l.srv.toldAt(s)
	quiet, late := told, l.srv.late(s, now)
	if !late || now-told < int64(insistAfter) {
		quiet = max(quiet, s.rd.heard)
	}
	if now-quiet < int64(drainQuiet) || s.rd.partial.Some() && !late || s.rd.paused != 0 || l.busy(s) || s.conn.Unread() > 0 && !late {
		return false
	}
	s.beginClose(ReasonDrain)
	return true
}

const forever = time.Duration(math.MaxInt64)
