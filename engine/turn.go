package engine

import "millrace/engine/internal/outbox"

// Turn does the loop's own work piece by piece while nothing else waits for the loop. The rest
// waits until the poller has checked the sockets again.
func (l *loop) Turn() {
	for l.piece() {
		if !l.io.Idle() {
			l.srv.again(l)
			return
		}
	}
}

// piece is a bounded part of the loop's own work: sessions with something to send, the pass that
// distributes broadcasts, the sweep for timeouts. It reports whether more is left; then the loop is
// still armed.
func (l *loop) piece() (more bool) {
	budget := l.srv.cfg.DrainBudget
	l.st.turns.Add(1)
	l.mu.Lock()
	jobs, levelDue := l.jobs, l.levelDue
	l.jobs, l.levelDue = nil, false
	l.takeDirty()
	sweepDue := l.sweepDue && !l.sweeping
	if sweepDue {
		l.sweepDue, l.late = false, 0
	}
	l.mu.Unlock()
	if len(l.postponed) > 0 && !l.turn.away {
		l.runPostponed()
	}
	for _, fn := range jobs {
		fn(l)
	}
	if levelDue {
		l.levelChanged()
	}
	clock := l.costClock()
	for budget > 0 {
		s := l.popDirty()
		if s == nil {
			break
		}
		budget--
		l.flush(s, outbox.LookAsked)
		clock = l.charge(s, clock)
	}
	l.walk(max(budget, (l.srv.cfg.DrainBudget+1)/2)) // also when there are always dirty sessions
	l.sweep(sweepDue)
	l.wakeSenders()
	l.mu.Lock()
	more = l.marked != nil || l.dirtyHead != nil || l.walking || l.out.Log.End() > l.walked || l.sweepDue || l.sweeping || l.levelDue || len(l.jobs) > 0
	l.armed = more
	l.mu.Unlock()
	return more
}

// walk brings up to budget sessions up to date with the log. When all are, the log is cut.
func (l *loop) walk(budget int) {
	for budget > 0 {
		if !l.walking {
			end := l.out.Log.End()
			if end == l.walked {
				return
			}
			l.walking, l.cursor, l.walkEnd = true, 0, end
		}
		clock := l.costClock()
		for ; budget > 0 && l.cursor < len(l.sessions); budget-- {
			s := l.sessions[l.cursor]
			l.cursor++
			l.visit(s)
			clock = l.charge(s, clock)
		}
		if l.cursor < len(l.sessions) || !l.catchUp(&budget) {
			return
		}
		l.out.Queued.Add(-int64(l.walkEnd - l.walked))
		l.walking, l.walked = false, l.walkEnd
		l.cutLog()
	}
}

// visit brings one session up to date with the log.
func (l *loop) visit(s *Session) {
	if s.out.Pos() >= l.walkEnd {
		return
	}
	l.flush(s, outbox.LookWalk)
	if !s.rd.lagging && s.rd.life != lifeGone && s.out.Behind(l.walkEnd) {
		s.rd.lagging = true
		l.lagging = append(l.lagging, s)
	}
}

// catchUp visits the sessions that were moved behind the pass's cursor; false if some are left for
// the next time.
func (l *loop) catchUp(budget *int) bool {
	for ; *budget > 0 && len(l.missed) > 0; *budget-- {
		last := len(l.missed) - 1
		s := l.missed[last]
		l.missed[last] = nil
		l.missed = l.missed[:last]
		if s.rd.life != lifeGone {
			l.visit(s)
		}
	}
	return len(l.missed) == 0
}

// wakeSenders wakes the strands that wait for room in the loops' outboxes, when half of every one
// is free. The loop that gets there last does it.
func (l *loop) wakeSenders() {
	f := &l.srv.flow
	if f.waiting.Load() > 0 && l.srv.outboxBelow(int64(l.out.MaxQueued)/2+1) {
		f.wake()
	}
}

// again requests another Turn of a loop after its poller has checked the sockets. Execute within a
// Turn would run before that.
func (srv *Server) again(l *loop) { srv.rearm <- l }

// rearmer runs on a goroutine and executes the requests of again. Its channel has room for every
// loop.
func (srv *Server) rearmer() {
	defer srv.bg.Done()
	for {
		select {
		case l := <-srv.rearm:
			_ = l.io.Execute() // it fails only if the loops have ended
		case <-srv.quit:
			return
		}
	}
}
