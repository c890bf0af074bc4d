// Package strand is the queue of one session's work, and the state that ensures that at most one
// goroutine runs it at a time. It does not use sockets, frames or the pool: its caller runs the items,
// and schedules the strand when a method says so. Any goroutine may call the methods that add
// items; Begin, Next and those that end a turn are for the goroutine that runs the strand.
package strand

import (
	"sync/atomic"

	"millrace/engine/internal/budget"
	"millrace/engine/internal/bufpool"
	"millrace/internal/tally"
)

// State says who runs a strand.
//
// Invariant: at most one goroutine has it Running; it is on the run queue exactly while
// it is Queued.
type State uint8

const (
	Idle State = iota
	Queued
	Running
	Parked // waits for Wake, Unpark or Unhold, such as until an outbox has drained; not queued, not running
	Done   // ended; nothing is accepted any more
)

// Tags of items.
const (
	Data   uint8 = iota // whole frames; Flag: they were read too late, and a draining server refuses them
	Func                // Fn, a submitted function
	Accept              // the session begins
	Fin                 // the peer's FIN
	Bad                 // a bad frame: B is the text of the ERROR
	Tell                // Fn, which calls the handler
)

const (
	// taskCost is about what a submitted function costs beside its item, in bytes: a closure
	// with a few variables.
	taskCost = 48
	// blockMost is how large a block for small reads becomes while a strand is behind.
	blockMost = 32 << 10
)

// Strand is the queue.
type Strand struct {
	mu         tally.Mutex
	head, tail *bufpool.Buf // guarded by mu
	held       atomic.Int64 // written with mu; memory of the frames that wait or run
	tasks      int32        // guarded by mu; functions that wait
	state      State        // guarded by mu
	paused     bool         // guarded by mu; the loop waits until held has fallen
}

// put appends an item, and returns whether the strand must be scheduled. mu is held.
func (s *Strand) put(it *bufpool.Buf) (schedule bool) {
	if s.tail == nil {
		s.head = it
	} else {
		s.tail.Next = it
	}
	s.tail = it
	if s.state == Idle {
		s.state = Queued
		return true
	}
	return false
}

// Post appends an item other than frames or a function. ok is false when the strand is Done; then the
// item stays the caller's.
func (s *Strand) Post(it *bufpool.Buf) (schedule, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Done {
		return false, false
	}
	return s.put(it), true
}

// Open appends the first item of a new strand; with nil the caller runs the strand at once. It must be
// called before others know the strand.
func (s *Strand) Open(it *bufpool.Buf) {
	if it == nil {
		s.state = Running
		return
	}
	s.put(it)
}

// PostFrames appends a copy of whole frames, which were read at the time at, in nanoseconds. They are
// added to the last block if that has the same late and enough room, and its first frames were read
// at most grain nanoseconds before, or grain is 0.
func (s *Strand) PostFrames(b []byte, late bool, at, grain int64, bud *budget.Budget) (schedule, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Done {
		return false, false
	}
	if t := s.tail; t != nil && t.Tag == Data && t.Flag == late && t.Spare() >= len(b) && (grain == 0 || at-t.At <= grain) {
		t.B = append(t.B, b...)
		return false, true
	}
	it := bufpool.Get(max(len(b), min(int(s.held.Load())/2, blockMost)))
	it.B = append(it.B, b...)
	return s.postBlock(it, late, at, bud), true
}

// PostBlock is PostFrames for a block that the strand then owns, unless ok is false.
func (s *Strand) PostBlock(it *bufpool.Buf, late bool, at int64, bud *budget.Budget) (schedule, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Done {
		return false, false
	}
	return s.postBlock(it, late, at, bud), true
}

func (s *Strand) postBlock(it *bufpool.Buf, late bool, at int64, bud *budget.Budget) (schedule bool) {
	it.Tag, it.Flag, it.At = Data, late, at
	s.held.Add(int64(it.Held()))
	bud.Add(it.Held())
	return s.put(it)
}

// Verdict is what becomes of a submitted function.
type Verdict uint8

const (
	Taken    Verdict = iota
	Schedule         // taken, and the caller must schedule the strand
	Full             // most functions wait
	Gone             // the strand is closed, or its pool has stopped
)

// TaskCost is how many bytes a submitted function counts in the budget while it waits.
const TaskCost = bufpool.Header + taskCost

// Submit appends a function, if fewer than most wait and closed returns false. closed is called under
// the strand's lock.
func (s *Strand) Submit(fn func(), most int, closed func() bool, bud *budget.Budget) Verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.refusal(most, closed); v != Taken {
		return v
	}
	if s.putFunc(fn, nil, bud) {
		return Schedule
	}
	return Taken
}

// SubmitTo is Submit for a strand whose pool may stop at any time. It schedules an idle strand itself,
// by calling push under the lock before the function is accepted; if push returns false the verdict
// is Gone. It never returns Schedule. arg is kept in the item with fn, which may be nil.
func (s *Strand) SubmitTo(push func() bool, fn func(), arg any, most int, closed func() bool, bud *budget.Budget) Verdict {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.refusal(most, closed); v != Taken {
		return v
	}
	if s.state == Idle && !push() {
		return Gone
	}
	s.putFunc(fn, arg, bud) // Begin waits for the lock, so push may come first
	return Taken
}

// refusal returns why a function is refused, or Taken. mu is held.
func (s *Strand) refusal(most int, closed func() bool) Verdict {
	switch {
	case s.state == Done || closed():
		return Gone
	case int(s.tasks) >= most:
		return Full
	}
	return Taken
}

// putFunc appends a function. mu is held.
func (s *Strand) putFunc(fn func(), arg any, bud *budget.Budget) (schedule bool) {
	it := bufpool.Empty(Func)
	it.Fn, it.Arg = fn, arg
	s.tasks++
	bud.Add(it.Held() + taskCost)
	return s.put(it)
}

// End closes the strand by calling set under the lock, unless closed returns true, or alone is set and
// something waits; then it returns false. Submit, which calls closed under the same lock, accepts no
// function afterwards. If the strand is idle, push is called first to schedule its last turn; push
// may return false, and then the strand stays idle.
func (s *Strand) End(alone bool, push, closed func() bool, set func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if closed() || alone && s.head != nil {
		return false
	}
	if s.state == Idle && push() {
		s.state = Queued
	}
	set()
	return true
}

// Begin begins a turn. It is called by the worker that has taken the strand off the run queue.
func (s *Strand) Begin() {
	s.mu.Lock()
	s.state = Running
	s.mu.Unlock()
}

// Enter begins a turn on the loop, if the strand is idle and nothing waits; else it returns false.
func (s *Strand) Enter() bool {
	s.mu.Lock()
	free := s.state == Idle && s.head == nil
	if free {
		s.state = Running
	}
	s.mu.Unlock()
	return free
}

// Next removes the first item; nil when there is none. A function no longer counts for the limits when
// Next returns it; its Off is how many functions waited, itself included.
func (s *Strand) Next(bud *budget.Budget) *bufpool.Buf {
	s.mu.Lock()
	defer s.mu.Unlock()
	it := s.head
	if it == nil {
		return nil
	}
	s.head = it.Next
	if s.head == nil {
		s.tail = nil
	}
	it.Next = nil
	if it.Tag == Func {
		it.Off = int(s.tasks)
		s.tasks--
		bud.Add(-it.Held() - taskCost)
	}
	return it
}

// Return puts a block with frames that are still to be run back at the head.
func (s *Strand) Return(it *bufpool.Buf) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it.Next = s.head
	s.head = it
	if s.tail == nil {
		s.tail = it
	}
}

// Free frees a block whose frames have been run or dropped. resume: Held has asked for it, and at most
// resumeAt bytes are held now, so the loop may read again.
func (s *Strand) Free(it *bufpool.Buf, resumeAt int, bud *budget.Budget) (resume bool) {
	n := it.Held()
	it.Free()
	s.mu.Lock()
	left := s.held.Add(-int64(n))
	resume = s.paused && int(left) <= resumeAt
	if resume {
		s.paused = false
	}
	s.mu.Unlock()
	bud.Add(-n)
	return resume
}

// Held returns the memory of the frames that wait or run, in bytes. If it is pauseAt or more, a later
// Free reports when it has fallen.
func (s *Strand) Held(pauseAt int) int {
	if n := int(s.held.Load()); n < pauseAt {
		return n
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := int(s.held.Load())
	s.paused = s.paused || n >= pauseAt
	return n
}

// Leave ends a turn. The strand becomes Queued, and must be scheduled, if something waits or force is
// set; else it becomes Idle.
func (s *Strand) Leave(force bool) (schedule bool) {
	s.mu.Lock()
	schedule = s.head != nil || force
	if schedule {
		s.state = Queued
	} else {
		s.state = Idle
	}
	s.mu.Unlock()
	return schedule
}

// Rest ends a turn, and returns true, if nothing waits and closed returns false. Else the turn goes on.
func (s *Strand) Rest(closed func() bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.head != nil || closed() {
		return false
	}
	s.state = Idle
	return true
}

// Park ends a turn until Wake, Unpark or Unhold.
func (s *Strand) Park() {
	s.mu.Lock()
	s.state = Parked
	s.mu.Unlock()
}

// Unpark begins a turn of a parked strand; false if it has been woken already.
func (s *Strand) Unpark() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != Parked {
		return false
	}
	s.state = Running
	return true
}

// Wake returns whether the strand must be scheduled: it was parked, or idle while closed returns true.
func (s *Strand) Wake(closed func() bool) (schedule bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Parked || s.state == Idle && closed() {
		s.state = Queued
		return true
	}
	return false
}

// Unhold ends the parking of a strand, and returns whether it must be scheduled, because something
// waits or closed returns true; else it becomes Idle.
func (s *Strand) Unhold(closed func() bool) (schedule bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != Parked {
		return false
	}
	s.state = Idle
	if s.head != nil || closed() {
		s.state = Queued
		return true
	}
	return false
}

// Tasks returns how many functions wait.
func (s *Strand) Tasks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.tasks)
}

// Finish ends the strand for good, and returns the items that still wait, linked by Next.
func (s *Strand) Finish() (left *bufpool.Buf) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left = s.head
	s.head, s.tail, s.state = nil, nil, Done
	return left
}

// Quiet reports whether nothing waits and nothing runs.
func (s *Strand) Quiet() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head == nil && (s.state == Idle || s.state == Done)
}

// State returns the present state.
func (s *Strand) State() State {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state
}

// Each calls fn for the items that wait, under the strand's lock, until it returns false.
func (s *Strand) Each(fn func(it *bufpool.Buf) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for it := s.head; it != nil && fn(it); it = it.Next {
	}
}
