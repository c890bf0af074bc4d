package engine

import (
	"sync"
	"sync/atomic"

	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/netio"
	"millrace/engine/internal/outbox"
)

// loop is one event loop's part of the server: its sessions, and what they have to send.
//
// Invariant: what is marked so is touched by the loop's goroutine only, or by the one
// that stands in for it while an inline turn is held up.
type loop struct {
	srv   *Server
	index int
	io    netio.Loop
	out   outbox.Shared
	turn  inlineTurn

	goroutine atomic.Uint64 // its number, from the first accept on

	mu                   sync.Mutex
	dirtyHead, dirtyTail *Session      // guarded by mu; linked by Session.dirty
	dirtyLen             int           // guarded by mu
	armed                bool          // guarded by mu; a turn is on its way
	sweepDue             bool          // guarded by mu
	levelDue             bool          // guarded by mu; the memory budget's level has changed
	jobs                 []func(*loop) // guarded by mu; what the server's start and stop have to do here

	// Loop goroutine only.
	sessions  []*Session
	walking   bool       // a walk over sessions is under way
	cursor    int        // where it stands
	walkEnd   uint64     // the log's end when it began
	walked    uint64     // all but the lagging have had the log up to here
	missed    []*Session // moved behind the walk's cursor; it has still to look at them
	lagging   []*Session // may not have had the log up to walked
	sweeping  bool
	sweepAt   int
	sweepNow  int64       // when the sweep began that runs or ran last
	sweepFrom int64       // when the one before did
	stuffed   []*Session  // seen by the sweep: hold memory that their peers don't take
	paused    []*Session  // not read from because of MemoryBudget
	favoured  *Session    // may finish its frame although the budget is tight
	view      bufpool.Buf // the frames of an inline turn

	st loopStats
}

type loopStats struct {
	conns                       atomic.Int64
	accepts, turns, drained     atomic.Uint64
	writes, blockedWrites       atomic.Uint64
	framesIn, bytesIn, bytesOut atomic.Uint64
	inline, pauses, handedOver  atomic.Uint64
}

func newLoop(srv *Server, index int, io netio.Loop) *loop {
	l := &loop{srv: srv, index: index, io: io}
	l.out.MaxOutbound, l.out.MaxQueued, l.out.MaxFrame = srv.cfg.MaxOutbound, srv.maxOutbox(), srv.cfg.MaxFrame
	l.out.Budget, l.out.Share = srv.budget, &srv.share
	l.out.Lent = bufpool.Get(srv.cfg.ReadBuffer)
	return l
}

// markDirty puts a session, whose outbox has just been marked so, on the dirty list and
// asks for a turn.
func (l *loop) markDirty(s *Session) {
	l.mu.Lock()
	s.dirty = nil
	if l.dirtyTail == nil {
		l.dirtyHead = s
	} else {
		l.dirtyTail.dirty = s
	}
	l.dirtyTail = s
	l.dirtyLen++
	l.arm()
}

// arm asks for a turn if none is on its way. It unlocks mu.
func (l *loop) arm() {
	arm := !l.armed
	l.armed = true
	l.mu.Unlock()
	if arm {
		_ = l.io.Execute() // it fails only where the loops have ended
	}
}

// onLoop runs fn on the loop's goroutine, soon.
func (l *loop) onLoop(fn func(*loop)) {
	l.mu.Lock()
	l.jobs = append(l.jobs, fn)
	l.arm()
}

func (l *loop) popDirty() *Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.dirtyHead
	if s == nil {
		return nil
	}
	l.dirtyHead = s.dirty
	if l.dirtyHead == nil {
		l.dirtyTail = nil
	}
	s.dirty = nil
	l.dirtyLen--
	return s
}

// Turn does the loop's own work piece by piece while nothing else waits for the loop.
// What is left over waits until the poller has looked at the sockets again.
func (l *loop) Turn() {
	for l.piece() {
		if !l.io.Idle() {
			l.srv.again(l)
			return
		}
	}
}

// piece is a bounded part of the loop's own work: sessions with something to send, the
// walk that hands out broadcasts, the sweep for timeouts. It tells whether more is left;
// then the loop is still armed.
func (l *loop) piece() (more bool) {
	budget := l.srv.cfg.DrainBudget
	l.st.turns.Add(1)
	l.mu.Lock()
	jobs, levelDue := l.jobs, l.levelDue
	l.jobs, l.levelDue = nil, false
	l.mu.Unlock()
	for _, fn := range jobs {
		fn(l)
	}
	if levelDue {
		l.levelChanged()
	}
	for budget > 0 {
		s := l.popDirty()
		if s == nil {
			break
		}
		budget--
		l.flush(s, outbox.LookAsked)
	}
	l.walk(max(budget, (l.srv.cfg.DrainBudget+1)/2)) // also when there are always dirty sessions
	l.sweep()
	l.wakeSenders()
	l.mu.Lock()
	more = l.dirtyHead != nil || l.walking || l.out.Log.End() > l.walked || l.sweepDue || l.sweeping || l.levelDue || len(l.jobs) > 0
	l.armed = more
	l.mu.Unlock()
	return more
}

// broadcast appends an encoded broadcast to the log. The caller has looked at the limit.
func (l *loop) broadcast(frame []byte) {
	l.out.Queued.Add(int64(len(frame)))
	l.srv.budget.Add(l.out.Log.Append(frame))
	l.mu.Lock()
	l.arm()
}

// walk brings the log to up to budget sessions. When all have had it, the log is cut.
func (l *loop) walk(budget int) {
	for budget > 0 {
		if !l.walking {
			end := l.out.Log.End()
			if end == l.walked {
				return
			}
			l.walking, l.cursor, l.walkEnd = true, 0, end
		}
		for ; budget > 0 && l.cursor < len(l.sessions); budget-- {
			s := l.sessions[l.cursor]
			l.cursor++
			l.visit(s)
		}
		if l.cursor < len(l.sessions) || !l.catchUp(&budget) {
			return
		}
		l.out.Queued.Add(-int64(l.walkEnd - l.walked))
		l.walking, l.walked = false, l.walkEnd
		l.cutLog()
	}
}

// visit brings the log to one session.
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

// catchUp brings the log to the sessions that were moved behind the walk; false: some
// are left for the next turn.
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

// cutLog forgets what every session has had of the log.
func (l *loop) cutLog() {
	least, still := l.walked, l.lagging[:0]
	for _, s := range l.lagging {
		if s.rd.life == lifeGone || !s.out.Behind(l.walked) {
			s.rd.lagging = false
			continue
		}
		least = min(least, s.out.Pos())
		still = append(still, s)
	}
	clear(l.lagging[len(still):])
	l.lagging = still
	l.srv.budget.Add(-l.out.Log.Cut(least))
}

// wakeSenders lets go the strands that wait for room in the loops' outboxes, once half
// of every one is free. The loop that is the last to get there does it.
func (l *loop) wakeSenders() {
	f := &l.srv.flow
	if f.waiting.Load() > 0 && l.srv.outboxBelow(int64(l.out.MaxQueued)/2+1) {
		f.wake()
	}
}

// add takes a new session onto the loop.
func (l *loop) add(s *Session) {
	s.rd.place = int32(len(l.sessions))
	l.sessions = append(l.sessions, s)
	l.st.conns.Add(1)
}

// remove takes a session off the loop. The last one fills its place, and if the walk
// would so miss it, the walk looks at it before it ends. Not here: a flush may end in a
// remove. The sweep finds it a tick later.
func (l *loop) remove(s *Session) {
	i, last := int(s.rd.place), len(l.sessions)-1
	moved := l.sessions[last]
	l.sessions[i] = moved
	moved.rd.place = int32(i)
	l.sessions[last] = nil
	l.sessions = l.sessions[:last]
	if cap(l.sessions) > 1024 && len(l.sessions) < cap(l.sessions)/4 {
		l.sessions = append(make([]*Session, 0, cap(l.sessions)/2), l.sessions...)
	}
	l.st.conns.Add(-1)
	if moved != s && l.walking && i < l.cursor && moved.out.Pos() < l.walkEnd {
		l.missed = append(l.missed, moved)
	}
}

// flow is where strands wait whose broadcasts met a full outbox.
type flow struct {
	srv     *Server
	waiting atomic.Int32
	mu      sync.Mutex
	list    []*Session // guarded by mu
}

// wait puts a parked session on the list, unless there is room again.
func (f *flow) wait(s *Session) {
	f.mu.Lock()
	f.list = append(f.list, s)
	f.waiting.Store(int32(len(f.list)))
	f.mu.Unlock()
	if f.srv.outboxBelow(int64(f.srv.maxOutbox())) {
		f.wake()
	}
}

func (f *flow) wake() {
	f.mu.Lock()
	list := f.list
	f.list = nil
	f.waiting.Store(0)
	f.mu.Unlock()
	for _, s := range list {
		s.out.ResumeFromLog()
		s.wakeStrand()
	}
}
