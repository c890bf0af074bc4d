package sched

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Stall is a callback that blocks its goroutine.
type Stall struct {
	Where     string        // what the goroutine is: "worker" or "loop"
	Session   string        // "" for a function that belongs to none
	Main, Sub uint16        // the packet's handle; 0/0 when no packet is handled
	At        time.Time     // when it was reported
	For       time.Duration // until then; of a callback that had ended by then, until it was noticed
	Stack     string        // of the goroutine; "" when the callback ended before it was taken
}

// Suspect is a goroutine that has been inside one callback for longer than Watch.After.
type Suspect struct {
	Where     string
	Session   string
	Main, Sub uint16
	Since     time.Time   // when the callback began
	Goroutine uint64      // see GoroutineID
	Still     func() bool // whether it is in that callback now; any goroutine
	Told      func(Stall) // is told of the report as the hook is, and before it; may be nil

	at time.Time // when it was given to Report
}

const (
	logEvery   = time.Second // between two log lines of one place
	stackShare = 20          // at most one part in so many of the time goes into stacks
	maxPending = 1024        // stalls that wait to be reported; more are only counted
)

// Watch counts and reports stalls. It finds none itself: whoever looks after goroutines
// that run callbacks, a pool's monitor or a loop's, calls Report once for each. A nil
// Watch reports nothing.
//
//	if began := l.began.Load(); began != 0 && now-began > int64(w.After()) && began != l.reported {
//		l.reported = began
//		w.Report(Suspect{Where: "loop", Goroutine: l.goroutine, Since: ..., Still: func() bool { return l.began.Load() == began }})
//	}
type Watch struct {
	after  time.Duration
	log    *slog.Logger
	hook   func(Stall)
	panics *Panics
	stalls atomic.Uint64
	id     atomic.Uint64 // the reporter's goroutine; 0: none

	mu        sync.Mutex
	pending   []Suspect      // guarded by mu
	reporting bool           // guarded by mu; a reporter runs
	closed    bool           // guarded by mu
	quit      chan struct{}  // closed with closed
	reporter  sync.WaitGroup // Add under mu, not once closed
	batch     []Suspect      // what it reports now; the reporter's own, as are these
	places    map[string]*logLine
	next      time.Time // when stacks may be taken again
}

// logLine is what is known of one place's lines in the log.
type logLine struct {
	last time.Time
	held int // reports since then
}

// NewWatch makes a Watch for callbacks that take longer than after; nil for none when
// after is 0. hook, which may be nil, is called for each report, on a goroutine of the
// Watch; its panics go to panics.
func NewWatch(after time.Duration, log *slog.Logger, hook func(Stall), panics *Panics) *Watch {
	if after <= 0 {
		return nil
	}
	return &Watch{after: after, log: log, hook: hook, panics: panics, quit: make(chan struct{}), places: map[string]*logLine{}}
}

// After is how long a callback may take; 0 when there is no watch.
func (w *Watch) After() time.Duration {
	if w == nil {
		return 0
	}
	return w.after
}

// Stalls is how many were reported to it.
func (w *Watch) Stalls() uint64 {
	if w == nil {
		return 0
	}
	return w.stalls.Load()
}

// Report counts a stall, and has it logged and given to the hook soon. It blocks for
// neither. Any goroutine.
func (w *Watch) Report(s Suspect) {
	if w == nil {
		return
	}
	w.stalls.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed || len(w.pending) >= maxPending {
		return
	}
	s.at = time.Now()
	w.pending = append(w.pending, s)
	if !w.reporting {
		w.reporting = true
		w.reporter.Add(1)
		go w.report()
	}
}

// Close ends the reporter, behind what it is about to report. It waits for the hook.
func (w *Watch) Close() {
	if w == nil {
		return
	}
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.quit)
	}
	w.mu.Unlock()
	w.reporter.Wait()
}

// OnReporter tells whether the goroutine with this number runs the hook.
func (w *Watch) OnReporter(id uint64) bool { return w != nil && w.id.Load() == id }

// report is the reporter's goroutine. It lives while there is something to report.
func (w *Watch) report() {
	id := GoroutineID()
	w.id.Store(id)
	clean := false
	defer func() {
		w.id.CompareAndSwap(id, 0)
		if !clean { // the hook ended this goroutine with runtime.Goexit
			w.reporter.Add(1)
			go w.report()
		}
		w.reporter.Done()
	}()
	for w.fill() {
		w.pause()
		began := time.Now()
		all := allStacks()
		w.next = time.Now().Add(stackShare * time.Since(began))
		for len(w.batch) > 0 {
			s := w.batch[0]
			w.batch = w.batch[1:]
			w.tell(s, all)
		}
	}
	clean = true
}

// fill takes what is to be reported; false, and the reporter has ended, when that is
// nothing.
func (w *Watch) fill() bool {
	if len(w.batch) > 0 {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.batch, w.pending = w.pending, nil
	w.reporting = len(w.batch) > 0
	return w.reporting
}

// pause waits until stacks may be taken again, or the watch ends.
func (w *Watch) pause() {
	d := time.Until(w.next)
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-w.quit:
	}
}

func (w *Watch) tell(s Suspect, all []byte) {
	now := time.Now()
	st := Stall{Where: s.Where, Session: s.Session, Main: s.Main, Sub: s.Sub, At: now, For: s.at.Sub(s.Since)}
	if s.Still() { // also after the stack was taken, so it is this callback's
		st.For = now.Sub(s.Since)
		st.Stack = stackOf(all, s.Goroutine)
	}
	place := StackPlace(st.Stack)
	if held, ok := w.mayLog(place); ok {
		w.log.Warn("a callback blocks its goroutine", "where", st.Where, "session", st.Session, "main", st.Main, "sub", st.Sub,
			"for", st.For, "place", place, "omitted", held, "stack", st.Stack)
	}
	if s.Told != nil {
		s.Told(st)
	}
	if w.hook != nil {
		w.call(st)
	}
}

// mayLog tells whether a place's line may be written, and how many were not since its
// last one.
func (w *Watch) mayLog(place string) (held int, ok bool) {
	p := w.places[place]
	if p == nil {
		if len(w.places) >= maxPlaces {
			clear(w.places)
		}
		p = &logLine{}
		w.places[place] = p
	}
	if now := time.Now(); p.last.IsZero() || now.Sub(p.last) >= logEvery {
		held, p.held, p.last = p.held, 0, now
		return held, true
	}
	p.held++
	return 0, false
}

func (w *Watch) call(st Stall) {
	ok := false
	defer func() {
		if !ok {
			w.panics.Report("OnStall", st.Session, uint32(st.Main)<<16|uint32(st.Sub), recover())
		}
	}()
	w.hook(st)
	ok = true
}
