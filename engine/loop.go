package engine

import (
	"sync"
	"sync/atomic"
	"time"
)

// wire is a connection as the engine uses it. Loop goroutine only. The engine writes
// past gnet, so that every unsent byte is in its own hands.
type wire interface {
	// write gives bytes to the kernel. n < len(p) without an error: it takes no more now.
	write(p []byte) (n int, err error)
	// watch has the session's canWrite called once the kernel takes bytes again.
	watch() error
	// mask stops reading, or goes on with it. False: that isn't possible here.
	mask(stop bool) bool
	// fin sends the FIN behind what was written.
	fin()
	// acks tells what the kernel knows of the peer's acknowledgements: whether any are
	// owed, whether it has asked for them in vain, and how long ago the last one came.
	acks() (owed, missed bool, ago time.Duration)
	// reset makes close a reset that drops what the kernel has not sent.
	reset()
	// unread is how many bytes the kernel holds for reading.
	unread() int
	// rest reads what is left, calling take for each piece; false on an error.
	rest(take func([]byte)) bool
	// keep takes the connection over from gnet, which is about to close its descriptor.
	keep() bool
	// close closes the connection; it may call back into loop.gone.
	close()
}

// executor runs a loop's turns on its goroutine.
type executor interface {
	// execute has a turn run soon. It may be called from anywhere.
	execute(l *loop) error
	// idle tells whether the poller has nothing else for the loop now. Loop goroutine.
	idle() bool
}

// loop is one event loop's part of the server: its sessions, and what they have to send.
//
// Invariant: sessions, cursor and everything marked so are touched on its goroutine only.
type loop struct {
	srv   *Server
	index int
	exec  executor

	mu                   sync.Mutex
	dirtyHead, dirtyTail *Session      // guarded by mu; linked by Session.out.next
	dirtyLen             int           // guarded by mu
	armed                bool          // guarded by mu; a turn is on its way
	sweepDue             bool          // guarded by mu
	jobs                 []func(*loop) // guarded by mu; what the server's start and stop have to do here
	log                  []byte        // guarded by mu; broadcasts, written by anyone, cut by the loop
	logBase              uint64        // guarded by mu; the offset of log[0]

	logEnd atomic.Uint64 // offset behind the log's last byte; stored under mu
	queued atomic.Int64  // bytes of the log, of pushes on stages and of what group sends hold

	// Loop goroutine only.
	sessions  []*Session
	walking   bool       // a walk over sessions is under way
	cursor    int        // where it stands
	walkEnd   uint64     // the log's end when it began
	walked    uint64     // every session has had the log up to here
	behind    []*Session // moved behind the walk's cursor; it has still to look at them
	sweeping  bool
	sweepAt   int
	sweepNow  int64    // when the sweep began that runs or ran last
	sweepFrom int64    // when the one before did
	heaviest  *Session // has the most unread pushes of those that the sweep has seen; see weigh
	lent      *buf     // staging memory for inline turns
	view      buf      // the frames of an inline turn
	segs      []seg
	starved   []*Session // not read from because of MemoryBudget
	rejects   []*reject

	st loopStats
}

type loopStats struct {
	conns                       atomic.Int64
	accepts, turns, drained     atomic.Uint64
	writes, blockedWrites       atomic.Uint64
	framesIn, bytesIn, bytesOut atomic.Uint64
	inline, pauses              atomic.Uint64
}

func newLoop(srv *Server, index int, exec executor) *loop {
	return &loop{srv: srv, index: index, exec: exec, lent: getBuf(srv.cfg.ReadBuffer)}
}

// markDirty puts a session, whose out.dirty the caller has just set, on the dirty list
// and asks for a turn.
func (l *loop) markDirty(s *Session) {
	l.mu.Lock()
	s.out.next = nil
	if l.dirtyTail == nil {
		l.dirtyHead = s
	} else {
		l.dirtyTail.out.next = s
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
		l.exec.execute(l)
	}
}

func (l *loop) popDirty() *Session {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := l.dirtyHead
	if s == nil {
		return nil
	}
	l.dirtyHead = s.out.next
	if l.dirtyHead == nil {
		l.dirtyTail = nil
	}
	s.out.next = nil
	l.dirtyLen--
	return s
}

// turn does the loop's own work piece by piece while nothing else waits for the loop.
// What is left over waits until the poller has looked at the sockets again.
func (l *loop) turn() {
	for l.piece() {
		if !l.exec.idle() {
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
	jobs := l.jobs
	l.jobs = nil
	l.mu.Unlock()
	for _, fn := range jobs {
		fn(l)
	}
	for budget > 0 {
		s := l.popDirty()
		if s == nil {
			break
		}
		budget--
		l.flush(s, flushPopped)
	}
	l.walk(max(budget, (l.srv.cfg.DrainBudget+1)/2)) // also when there are always dirty sessions
	l.sweep()
	l.wakeSenders()
	l.mu.Lock()
	more = l.dirtyHead != nil || l.walking || l.logEnd.Load() > l.walked || l.sweepDue || l.sweeping || len(l.jobs) > 0
	l.armed = more
	l.mu.Unlock()
	return more
}

// cast appends an encoded broadcast to the log. The caller has looked at the limit.
func (l *loop) cast(frame []byte) {
	l.queued.Add(int64(len(frame)))
	l.mu.Lock()
	l.log = append(l.log, frame...)
	l.logEnd.Store(l.logBase + uint64(len(l.log)))
	l.arm()
}

// walk brings the log to up to budget sessions. When all have had it, the log is cut.
func (l *loop) walk(budget int) {
	for budget > 0 {
		if !l.walking {
			end := l.logEnd.Load()
			if end == l.walked {
				return
			}
			l.walking, l.cursor, l.walkEnd = true, 0, end
		}
		for ; budget > 0 && l.cursor < len(l.sessions); budget-- {
			s := l.sessions[l.cursor]
			l.cursor++
			if s.out.pos < l.walkEnd {
				l.flush(s, flushWalk)
			}
		}
		if l.cursor < len(l.sessions) || !l.catchUp(&budget) {
			return
		}
		l.walking, l.walked = false, l.walkEnd
		l.cut(l.walkEnd)
	}
}

// catchUp brings the log to the sessions that were moved behind the walk; false: some
// are left for the next turn.
func (l *loop) catchUp(budget *int) bool {
	for ; *budget > 0 && len(l.behind) > 0; *budget-- {
		last := len(l.behind) - 1
		s := l.behind[last]
		l.behind[last] = nil
		l.behind = l.behind[:last]
		if s.out.pos < l.walkEnd {
			l.flush(s, flushWalk)
		}
	}
	return len(l.behind) == 0
}

// logKeep is how much memory an empty log keeps.
const logKeep = 256 << 10

// cut forgets the log up to the offset to.
func (l *loop) cut(to uint64) {
	l.mu.Lock()
	n := copy(l.log, l.log[to-l.logBase:])
	l.queued.Add(-int64(to - l.logBase))
	l.log = l.log[:n]
	l.logBase = to
	if n == 0 && cap(l.log) > logKeep {
		l.log = nil
	}
	l.mu.Unlock()
}

// wakeSenders lets go the strands that wait for room in the loops' outboxes, once half
// of every one is free. The loop that is the last to get there does it.
func (l *loop) wakeSenders() {
	if l.srv.flow.waiting.Load() > 0 && l.srv.outboxBelow(int64(l.srv.cfg.MaxOutbox)/2+1) {
		l.srv.flow.wake()
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
	l.st.conns.Add(-1)
	if moved != s && l.walking && i < l.cursor && moved.out.pos < l.walkEnd {
		l.behind = append(l.behind, moved)
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
	if f.srv.outboxBelow(int64(f.srv.cfg.MaxOutbox)) {
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
		s.out.waits.Store(false)
		s.in.wake(s)
	}
}
