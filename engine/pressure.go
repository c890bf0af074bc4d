package engine

import (
	"cmp"
	"runtime"
	"runtime/debug"
	"slices"
	"time"

	"millrace/codec"
	"millrace/engine/internal/budget"
)

// How the memory budget is enforced. Above it, sessions that hold more than their share are not
// read and their strands wait until their peers have read; broadcasts and group sends from outside
// of callbacks are refused. Above 5/4 of it every session that holds anything is stopped, and peers
// that do not read are closed at once. When it is exceeded for glutTime they are closed too.
const (
	glutTime   = 10 * time.Second
	glutStill  = glutTime / 2 // without a byte read by the peer, for a session to be closed
	spentStill = time.Second  // the same while the budget is spent
	glutRest   = 8            // closing stops when an eighth is free
	idleHeld   = 4 << 10      // closing a session that holds less does not help
)

// levelMoved is called by the budget, on the goroutine that changed it and under its locks.
func (srv *Server) levelMoved(budget.Level) {
	srv.fitShare()
	for _, l := range srv.allLoops() {
		l.mu.Lock()
		l.levelDue = true
		l.arm()
	}
}

// fitShare computes how much one session may hold. Changes of the level may be reported out of
// order, so the present level is used.
func (srv *Server) fitShare() {
	for {
		level := srv.budget.Level()
		srv.share.Store(int64(srv.budget.Share(level, int(srv.conns.Load()), srv.cfg.MaxOutbound)))
		if srv.budget.Level() == level {
			return
		}
	}
}

// spent reports whether the budget is used up: then every session that holds anything waits.
func (srv *Server) spent() bool { return srv.budget.Level() == budget.Spent }

// levelChanged applies a new level to the loop's sessions.
func (l *loop) levelChanged() {
	level := l.srv.budget.Level()
	if level == budget.Free {
		l.resumePaused()
		return
	}
	share := l.srv.shareOf(level)
	for i := len(l.sessions) - 1; i >= 0; i-- {
		if s := l.sessions[i]; s.rd.life == lifeOpen && s.rd.paused == 0 && l.held(s) >= share {
			l.review(s)
		}
	}
}

// resumePaused checks the sessions that were paused for the memory budget again. While it is
// exceeded, one of them may still complete a partial frame: the one that needs least, of those that
// hold nothing else. For others the frame would only wait behind what they hold.
func (l *loop) resumePaused() {
	list := l.paused
	l.paused = nil
	var least *Session
	for _, s := range list {
		s.rd.waits = false
		l.srv.starving.Add(-1)
		if s.rd.life != lifeOpen {
			continue
		}
		l.review(s)
		if s.rd.paused == 0 {
			continue
		}
		if !s.rd.waits {
			l.pause(s, s.rd.paused)
		}
		if part := s.rd.partial.Held(); part > 0 && part == l.held(s) && s.conn.Unread() > 0 &&
			(least == nil || s.rd.partial.Missing(s.framing.Load().codec) < least.rd.partial.Missing(least.framing.Load().codec)) {
			least = s
		}
	}
	if l.favoured == nil && least != nil {
		l.favour(least)
	}
}

// favour lets one session continue reading although the budget is tight; nil for none until the
// next check, which is requested.
func (l *loop) favour(s *Session) {
	l.favoured = s
	if s != nil {
		l.review(s)
		return
	}
	if len(l.paused) > 0 {
		l.mu.Lock()
		l.sweepDue = true
		l.arm()
	}
}

// weigh records, during a sweep, a session that holds memory which its peer does not read.
func (l *loop) weigh(s *Session, now int64) {
	still := glutStill
	if l.srv.spent() {
		still = spentStill
	}
	switch {
	case s.closed() || s.rd.life != lifeOpen:
	case s.rd.progress.past(now, still), s.line().gone(),
		s.rd.partial.Some() && past(now, s.rd.begun(now), still) && s.conn.Unread() == 0:
		// Many sessions without a connection may hold little each.
		if held := l.held(s); held >= l.srv.shareOf(budget.Tight) || l.srv.spent() || held > idleHeld && s.line().gone() {
			l.stuffed = append(l.stuffed, s)
		}
	}
}

// shed ends a sweep: while there is a glut it closes sessions that hold memory which their peers
// don't read, until an eighth is free: first those with the most unsolicited bytes unread, then
// those that hold most.
func (l *loop) shed(now int64) {
	list := l.stuffed
	l.stuffed = nil
	if !l.srv.glut(now) || len(list) == 0 {
		return
	}
	pushed := map[*Session]int{}
	for _, s := range list {
		own, lag := s.out.Lagging(&l.out)
		pushed[s] = own + lag
	}
	slices.SortFunc(list, func(a, b *Session) int {
		return cmp.Or(cmp.Compare(pushed[b], pushed[a]), cmp.Compare(l.held(b), l.held(a)))
	})
	enough := l.srv.budget.Limit() - l.srv.budget.Limit()/glutRest
	for _, s := range list {
		if l.srv.budget.Used() <= enough {
			return
		}
		if s.rd.life != lifeOpen {
			continue
		}
		l.srv.shed.Add(1)
		switch {
		case pushed[s] > 0 && !s.line().gone():
			l.abort(s, ReasonSlowConsumer)
		case s.out.Size() > 0 || s.line().gone(): // a session without a connection is not slow
			l.abort(s, ReasonMemory)
		default: // it is in the middle of a frame, and may receive the cause
			s.closeWithError(codec.Packet{}, CodeLimit, ReasonMemory.String(), ReasonMemory)
			s.rd.partial.Drop(l.budget)
		}
	}
}

// glut reports whether sessions must be closed for the budget.
func (srv *Server) glut(now int64) bool {
	used, limit := srv.budget.Used(), srv.budget.Limit()
	since := srv.glutSince.Load()
	switch {
	case used <= limit-limit/glutRest:
		srv.glutSince.Store(0)
		return false
	case srv.spent():
		return true
	case since == 0 && used > limit:
		srv.glutSince.CompareAndSwap(0, now)
		return false
	}
	return since != 0 && past(now, since, glutTime)
}

const (
	trimLeast = 2 << 20          // a smaller load is not worth it
	trimQuiet = 2 * time.Second  // how long little must have been held
	trimEvery = 20 * time.Second // at most that often
)

// trimmer makes the runtime return memory to the system after a load: an idle server would not
// collect it. Used by the ticker's goroutine.
type trimmer struct {
	peak      int
	low, last time.Time
}

// look is given the most memory held since the last call, and the present amount.
func (t *trimmer) look(peak, used int, now time.Time) {
	t.peak = max(t.peak, peak)
	if t.peak < trimLeast || used > t.peak/8 {
		t.low = time.Time{}
		return
	}
	if t.low.IsZero() {
		t.low = now
	}
	if now.Sub(t.low) < trimQuiet || now.Sub(t.last) < trimEvery {
		return
	}
	t.peak, t.low, t.last = 0, time.Time{}, now
	go func() {
		runtime.GC() // sync.Pool releases memory only after two collections
		debug.FreeOSMemory()
	}()
}
