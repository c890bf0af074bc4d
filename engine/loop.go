package engine

import (
	"container/list"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine/internal/budget"
	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/dispatch"
	"millrace/engine/internal/netio"
	"millrace/engine/internal/outbox"
	"millrace/engine/internal/replay"
	"millrace/internal/tally"
)

// loop is one event loop's part of the server: its sessions, and what they have to send.
//
// Invariant: what is marked so is touched by the loop's goroutine only, or by the one
// that stands in for it while an inline turn is held up.
type loop struct {
	srv     *Server
	index   int
	io      netio.Loop
	out     outbox.Shared
	budget  *budget.Budget // its part of the server's
	turn    inlineTurn
	mode    dispatch.Mode // where packets run whose handle is not fixed
	reserve bool          // nothing runs here that could block

	goroutine atomic.Uint64 // its number, from the first accept on

	_                    [64]byte // what all write apart from what the loop's goroutine does
	mu                   tally.Mutex
	dirtyHead, dirtyTail *Session      // guarded by mu; linked by Session.dirty
	marks                uint64        // guarded by mu; sessions ever put there
	armed                bool          // guarded by mu; a turn is on its way
	sweepDue             bool          // guarded by mu
	late                 time.Duration // guarded by mu; for how long it has been
	levelDue             bool          // guarded by mu; the memory budget's level has changed
	jobs                 []func(*loop) // guarded by mu; what the server's start and stop have to do here
	_                    [64]byte

	// Loop goroutine only.
	sessions  []*Session
	marked    *Session   // taken off the dirty list, and linked as there
	walking   bool       // a walk over sessions is under way
	cursor    int        // where it stands
	walkEnd   uint64     // the log's end when it began
	walked    uint64     // all but the lagging have had the log up to here
	missed    []*Session // moved behind the walk's cursor; it has still to look at them
	lagging   []*Session // may not have had the log up to walked
	sweeping  bool
	sweepAt   int
	sweepNow  int64         // when the sweep began that runs or ran last
	sweepFrom int64         // when the one before did
	stuffed   []*Session    // seen by the sweep: hold memory that their peers don't take
	paused    []*Session    // not read from because of MemoryBudget
	favoured  *Session      // may finish its frame although the budget is tight
	view      bufpool.Buf   // the frames of an inline turn
	silent    list.List     // of *link, whose first frame is to come, in the order in which they came
	links     []*link       // connections that are no session's, or one's of another loop
	recent    replay.Recent // large frames that lines keep
	slowed    []*Session    // not read from because of a rate, until a time
	slowTimer bool          // somebody will look at them
	postponed []postponed   // jobs of a session whose inline turn is held up
	noted     int64         // the time, for what is noted just now; 0: it has to be looked at

	st  loopStats
	_   [64]byte // what the loop's goroutine writes apart from what all do
	sum sums
	_   [64]byte
}

type loopStats struct {
	conns                       atomic.Int64
	taken                       atomic.Uint64 // of the sessions that were marked dirty
	accepts, turns, drained     atomic.Uint64
	writes, blockedWrites       atomic.Uint64
	framesIn, bytesIn, bytesOut atomic.Uint64
	inline, pauses, handedOver  atomic.Uint64
}

// sums count what anybody may do to sessions: those of one loop, so that many who do it at
// once write to the same memory no more than they must, or of none.
type sums struct {
	stale     atomic.Uint64 // sends and submits to sessions that had gone
	busy      atomic.Uint64 // ErrBusy
	parks     atomic.Uint64
	dropped   atomic.Uint64 // frames read and not handled because their session closed
	lostBytes atomic.Uint64 // staged bytes that never left
	errors    atomic.Uint64 // ERROR frames
	conflated atomic.Uint64
}

// addTo adds them to a server's.
func (c *sums) addTo(st *Stats) {
	st.Stale += c.stale.Load()
	st.Busy += c.busy.Load()
	st.Parks += c.parks.Load()
	st.Dropped += c.dropped.Load()
	st.LostBytes += c.lostBytes.Load()
	st.Errors += c.errors.Load()
	st.Conflated += c.conflated.Load()
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
	l.marks++
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

// postponed is what is to be done with a session.
type postponed struct {
	s  *Session
	fn func()
}

// with runs fn on the loop's goroutine: at once where that is the caller's, who is on the
// loop from, and not before the session's inline turn has ended where another goroutine does
// the loop's work meanwhile. What is asked for first runs first.
func (l *loop) with(s *Session, from *loop, fn func()) {
	l.run(from, func() {
		held := l.turn.away && l.turn.s.Load() == s
		for i := 0; i < len(l.postponed) && !held; i++ {
			held = l.postponed[i].s == s
		}
		if held {
			l.postponed = append(l.postponed, postponed{s, fn})
			return
		}
		fn()
	})
}

// run runs fn on the loop's goroutine, at once where that is the caller's, who is on the
// loop from.
func (l *loop) run(from *loop, fn func()) {
	if l == from {
		fn()
		return
	}
	l.onLoop(func(*loop) { fn() })
}

// runPostponed does what was put off for an inline turn that has ended.
func (l *loop) runPostponed() {
	list := l.postponed
	l.postponed = nil
	for _, p := range list {
		p.fn()
	}
}

// popDirty takes the next session that has something to send: of those that were marked when
// the loop last looked, so that the lock is taken once for many.
func (l *loop) popDirty() *Session {
	if l.marked == nil {
		l.mu.Lock()
		l.marked, l.dirtyHead, l.dirtyTail = l.dirtyHead, nil, nil
		l.mu.Unlock()
	}
	s := l.marked
	if s == nil {
		return nil
	}
	l.marked, s.dirty = s.dirty, nil
	l.st.taken.Add(1)
	return s
}

// broadcast appends an encoded broadcast to the log. The caller has looked at the limit.
func (l *loop) broadcast(frame []byte) {
	l.out.Queued.Add(int64(len(frame)))
	l.budget.Add(l.out.Log.Append(frame))
	l.mu.Lock()
	l.arm()
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

// past tells whether d has gone by since then. A d of 0 never goes by.
func past(now, then int64, d time.Duration) bool { return d > 0 && now-then > int64(d) }

// inlineTurn is a loop's turn with callbacks. While one is held up, a watcher hands the
// loop's work to another goroutine; when it ends, the work is given back before the turn
// goes on.
type inlineTurn struct {
	since atomic.Int64            // when it began, on the server's clock; 0: there is none; negative: the same, and the loop's work is handed over
	s     atomic.Pointer[Session] // whose callbacks run, or ran last
	away  bool                    // the work is another goroutine's. That goroutine and the loop's use it

	mu       sync.Mutex
	giveBack func() // guarded by mu; ends the other goroutine's work
	reported int64  // the since of the stall that was reported; the watcher's
	dead     bool   // guarded by mu; the loop's goroutine has ended
}

// saw notes whole frames.
func (l *loop) saw(s *Session, frames int, now int64) {
	s.rd.heard, s.rd.last, s.rd.opened = now, now, true
	s.framesIn.Add(uint64(frames))
	l.st.framesIn.Add(uint64(frames))
}
