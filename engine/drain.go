package engine

import (
	"cmp"
	"context"
	"math"
	"time"

	"millrace/engine/internal/flight"
	"millrace/engine/internal/outbox"
)

// drain starts refusing connections and notifies the sessions.
func (srv *Server) drain(ctx context.Context) {
	grace := forever // no deadline
	if t, ok := ctx.Deadline(); ok {
		grace = max(time.Until(t), 0)
	}
	end := time.Now().Add(min(grace, 365*24*time.Hour)) // the end announced in GOAWAY
	srv.beginDrain(grace)
	srv.bg.Go(func() { srv.tellAll(ctx, grace, end, 0) })
}

// beginDrain refuses connections from now on. In a drain begun by Drain, sessions already notified
// are not notified again.
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

// tellAll notifies every session, rate of them a second; 0 means as in Config.DrainRate.
func (srv *Server) tellAll(ctx context.Context, grace time.Duration, end time.Time, perSecond int) {
	every := time.NewTicker(drainTick)
	defer every.Stop()
	var list []*Session
	credit := 0.0
	rate := 0.0
	pace := newPace(srv, grace, end)
	for first := true; ; first = false {
		if len(list) == 0 { // initially, and to find sessions that were just accepted
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
		credit += pace.next(rate, len(list))
		if grace != forever && time.Until(end) < min(time.Second, grace/2) {
			credit = float64(len(list)) // notify the rest while there is still time to react
		}
		for len(list) > 0 {
			s := list[0]
			if !s.closed() && !s.Detached() { // else nobody hears of it
				if credit < 1 {
					break
				}
				credit--
			}
			list = list[1:]
			s.loop.onLoop(func(l *loop) { l.tell(s, grace, end) })
		}
		select {
		case <-every.C:
		case <-ctx.Done():
			return
		case <-srv.quit:
			return
		}
	}
}

// drainRate returns how many of n sessions are notified in a second, if asked is 0.
func (srv *Server) drainRate(asked, n int, grace time.Duration) float64 {
	if r := cmp.Or(asked, srv.cfg.DrainRate); r > 0 {
		return float64(r)
	}
	return max(drainRate, float64(n)/max(grace.Seconds()/4, 0.001))
}

// tell sends a session its GOAWAY, and writes it: its drain time runs from then on. Loop goroutine.
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

// toldAt returns when a session was notified of the drain, up to a millisecond too late; 0 if it
// was not.
func (srv *Server) toldAt(s *Session) int64 {
	ms := s.goAway.Load()
	if ms == 0 {
		return 0
	}
	return srv.drainFrom.Load() + int64(ms)*int64(time.Millisecond)
}

// late reports whether a request read now is too late in a drain.
func (srv *Server) late(s *Session, now int64) bool {
	if !srv.draining.Load() {
		return false
	}
	told := srv.toldAt(s)
	return told != 0 && now-told > srv.refuseAfter.Load()
}

// drainStep closes a session of a draining server that has nothing outstanding and has been quiet.
// Requests sent after the GOAWAY are still served; only a request that crosses the FIN gets no
// answer, not one that a loop which was held up has not read yet. A client that keeps sending
// requests although they are refused is closed after insistAfter; one in the middle of a frame is
// not waited for longer than requests are served.
func (l *loop) drainStep(s *Session, now int64) bool {
	told := l.srv.toldAt(s)
	quiet, late := told, l.srv.late(s, now)
	heard := !late || now-told < int64(insistAfter)
	if heard {
		quiet = max(quiet, s.rd.heard)
	}
	if now-quiet < int64(drainQuiet) || s.rd.partial.Some() && !late || s.rd.paused != 0 || l.busy(s) || heard && s.conn.Unread() > 0 {
		return false
	}
	if ln := s.line(); ln != nil && ln.cur != nil && l.survives(s) && l.srv.evacuates() {
		l.leave(s, closeCode(ReasonDrain)) // its peer is to go on elsewhere
		return true
	}
	s.beginClose(ReasonDrain)
	return true
}

const forever = time.Duration(math.MaxInt64)
