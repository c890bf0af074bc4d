package engine

import "time"

// glutTime is how long MemoryBudget may be exceeded before sessions are closed for it,
// and glutRest how much of the budget must be free again before that time begins anew.
const (
	glutTime = 10 * time.Second
	glutRest = 8 // an eighth
)

// glut tells whether MemoryBudget has been exceeded for glutTime.
func (srv *Server) glut(now int64) bool {
	budget, since := int64(srv.cfg.MemoryBudget), srv.glutSince.Load()
	switch b := srv.buffered.Load(); {
	case since == 0 && b > budget:
		srv.glutSince.CompareAndSwap(0, now)
		return false
	case since == 0:
		return false
	case b <= budget-budget/glutRest:
		srv.glutSince.Store(0)
		return false
	}
	return past(now, since, glutTime)
}

// weigh finds, over a sweep, the session with the most unread pushes, of those that hold
// more than their share of the budget and have read nothing for long.
func (l *loop) weigh(s *Session, now int64) {
	p := s.out.pushed
	if p == 0 || l.heaviest != nil && p <= l.heaviest.out.pushed || !past(now, s.rd.progress, glutTime/2) || s.closing.Load() != 0 {
		return
	}
	if p >= l.srv.cfg.MemoryBudget/max(int(l.srv.conns.Load()), 1) {
		l.heaviest = s
	}
}

// lighten ends a sweep. While there is a glut it closes the heaviest session as a slow
// consumer: each is within MaxOutbound, but together they would hold up everybody's
// broadcasts for good. Unread answers close nobody.
func (l *loop) lighten(now int64) {
	s := l.heaviest
	l.heaviest = nil
	if l.srv.glut(now) && s != nil && s.rd.life != lifeGone {
		l.srv.lightened.Add(1)
		l.abort(s, ReasonSlowConsumer)
	}
}
