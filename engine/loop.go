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
// Invariant: fields marked so are used only by the loop's goroutine, or by the one that takes over
// while an inline turn is blocked.
type loop struct {
	srv     *Server
	index   int
	io      netio.Loop
	out     outbox.Shared
	budget  *budget.Budget // its part of the server's budget
	turn    inlineTurn
	mode    dispatch.Mode // where packets run whose handle has no setting
	reserve bool          // nothing that might block runs here

	goroutine atomic.Uint64 // its goroutine's number, from the first accept on

	_                    [64]byte // separates fields written by all from those of the loop's goroutine
	mu                   tally.Mutex
	dirtyHead, dirtyTail *Session      // guarded by mu; linked by Session.dirty
	listed               atomic.Bool   // written with mu; something is on that list
	marks                uint64        // guarded by mu; number of sessions added so far
	armed                bool          // guarded by mu; a flush pass is scheduled
	sweepDue             bool          // guarded by mu
	late                 time.Duration // guarded by mu; for how long it has been due
	levelDue             bool          // guarded by mu; the memory budget's level has changed
	jobs                 []func(*loop) // guarded by mu; functions to run on the loop
	_                    [64]byte

	// Loop goroutine only.
	sessions  []*Session
	marked    *Session   // taken off the dirty list, still linked
	walking   bool       // a pass over all sessions is in progress
	cursor    int        // its position
	walkEnd   uint64     // the log's end when it began
	walked    uint64     // all sessions except lagging ones have passed this log position
	missed    []*Session // moved behind the cursor; still to be visited
	lagging   []*Session // may not have passed walked
	sweeping  bool
	sweepAt   int
	sweepNow  int64         // start of the current or last sweep
	sweepFrom int64         // start of the previous sweep
	stuffed   []*Session    // found by the sweep: hold memory that their peers don't read
	paused    []*Session    // reading paused because of MemoryBudget
	favoured  *Session      // may complete its frame although the budget is tight
	view      bufpool.Buf   // the frames of an inline turn
	silent    list.List     // of *link waiting for its first frame, in order of arrival
	links     []*link       // connections without a session, or with one of another loop
	recent    replay.Recent // large frames that lines keep
	slowed    []*Session    // reading paused because of a rate
	slowTimer bool          // a timer will check them
	postponed []postponed   // jobs of a session whose inline turn is blocked
	noted     int64         // the time for events recorded now; 0 if the clock must be read

	st  loopStats
	_   [64]byte // separates the loop goroutine's fields from shared ones
	sum sums
	_   [64]byte
}

type loopStats struct {
	conns                       atomic.Int64
	taken                       atomic.Uint64 // number of dirty sessions processed
	accepts, turns, drained     atomic.Uint64
	writes, blockedWrites       atomic.Uint64
	framesIn, bytesIn, bytesOut atomic.Uint64
	inline, pauses, handedOver  atomic.Uint64
}

// sums are counters that any goroutine may change: those for sessions of one loop, so that
// concurrent changes use separate memory as far as possible, or for none.
type sums struct {
	stale     atomic.Uint64 // sends and submits to closed sessions
	busy      atomic.Uint64 // ErrBusy
	parks     atomic.Uint64
	dropped   atomic.Uint64 // frames read and not handled because their session closed
	lostBytes atomic.Uint64 // staged bytes that were not sent
	errors    atomic.Uint64 // ERROR frames
	conflated atomic.Uint64
}

// addTo adds the counters to those of a server.
func (c *sums) addTo(st *Stats) {
	st.Stale += c.stale.Load()
	st.Busy += c.busy.Load()
	st.Parks += c.parks.Load()
	st.Dropped += c.dropped.Load()
	st.LostBytes += c.lostBytes.Load()
	st.Errors += c.errors.Load()
	st.Conflated += c.conflated.Load()
}

// markDirty puts a session, whose outbox has just been marked, on the dirty list and requests a
// flush pass.
func (l *loop) markDirty(s *Session) {
	l.mu.Lock()
	s.dirty = nil
	if l.dirtyTail == nil {
		l.dirtyHead = s
		l.listed.Store(true)
	} else {
		l.dirtyTail.dirty = s
	}
	l.dirtyTail = s
	l.marks++
	l.arm()
}

// arm requests a flush pass if none is scheduled. It unlocks mu.
func (l *loop) arm() {
	arm := !l.armed
	l.armed = true
	l.mu.Unlock()
	if arm {
		_ = l.io.Execute() // it fails only if the loops have ended
	}
}

// onLoop schedules fn on the loop's goroutine.
func (l *loop) onLoop(fn func(*loop)) {
	l.mu.Lock()
	l.jobs = append(l.jobs, fn)
	l.arm()
}

// postponed is a job for a session.
type postponed struct {
	s  *Session
	fn func()
}

// with runs fn on the loop's goroutine: at once if the caller runs on it (from is the caller's
// loop), and, while another goroutine has taken over the loop's work, not before the session's
// inline turn has ended. Jobs run in order.
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

// run runs fn on the loop's goroutine, at once if the caller runs on it (from is the caller's
// loop).
func (l *loop) run(from *loop, fn func()) {
	if l == from {
		fn()
		return
	}
	l.onLoop(func(*loop) { fn() })
}

// runPostponed runs the jobs postponed during an inline turn that has ended.
func (l *loop) runPostponed() {
	list := l.postponed
	l.postponed = nil
	for _, p := range list {
		p.fn()
	}
}

// takeDirty takes the whole dirty list, once what it took before is done. mu is held.
func (l *loop) takeDirty() {
	if l.marked == nil {
		l.marked, l.dirtyHead, l.dirtyTail = l.dirtyHead, nil, nil
		l.listed.Store(false)
	}
}

// popDirty returns the next session that has something to send. The lock is taken once for a list
// of them, and not for an empty one: what is put on it meanwhile is seen by the end of the piece.
func (l *loop) popDirty() *Session {
	if l.marked == nil && l.listed.Load() {
		l.mu.Lock()
		l.takeDirty()
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

// broadcast appends an encoded broadcast to the log. The caller has checked the limit.
func (l *loop) broadcast(frame []byte) {
	l.out.Queued.Add(int64(len(frame)))
	l.budget.Add(l.out.Log.Append(frame))
	l.mu.Lock()
	l.arm()
}

// add adds a new session to the loop.
func (l *loop) add(s *Session) {
	s.rd.place = int32(len(l.sessions))
	l.sessions = append(l.sessions, s)
	l.st.conns.Add(1)
}

// remove removes a session from the loop. The last one takes its place, and if the pass would so
// miss it, the pass visits it before it ends. Not here: a flush may end in a remove. The sweep
// visits it a tick later.
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

// past reports whether d has passed since then. It is false if d is 0.
func past(now, then int64, d time.Duration) bool { return d > 0 && now-then > int64(d) }

// inlineTurn is a loop's turn with callbacks. While one is blocked, a watcher hands the loop's work
// to another goroutine; when it ends, the work is returned before the turn continues.
type inlineTurn struct {
	since atomic.Int64            // start on the server's clock; 0 for none; negated while the loop's work is handed over
	s     atomic.Pointer[Session] // session whose callbacks run, or ran last
	away  bool                    // the work is handed over. Used by the loop's goroutine and the other one

	mu       sync.Mutex
	giveBack func() // guarded by mu; ends the other goroutine's work
	reported int64  // since of the reported stall; used by the watcher
	dead     bool   // guarded by mu; the loop's goroutine has ended
}

// saw counts complete frames.
func (l *loop) saw(s *Session, frames int, now int64) {
	s.rd.heard, s.rd.last, s.rd.opened = now, now, true
	s.framesIn.Add(uint64(frames))
	l.st.framesIn.Add(uint64(frames))
}
