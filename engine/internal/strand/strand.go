// Package strand is one session's queue of what is to happen to it, and the state that
// says who runs it: at most one goroutine at a time. It knows nothing of sockets, frames
// or the pool; its caller runs the items and schedules the strand when it is told to.
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
	Parked // waits for an outbox; on no queue and no goroutine
	Done   // over for good
)

// Tags of items.
const (
	Data   uint8 = iota // whole frames; Flag: they came late, when a draining server refused them
	Func                // Fn, which was submitted
	Accept              // the session begins
	Fin                 // the peer's FIN
	Bad                 // a bad frame: B is the ERROR's text
	Tell                // Fn, which tells the handler of something
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
	paused     bool         // guarded by mu; the loop waits for held to fall
}

// put appends an item. mu is held. It tells whether the strand must be scheduled.
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

// Post appends an item that is no frame. ok is false when the strand is done.
func (s *Strand) Post(it *bufpool.Buf) (schedule, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Done {
		return false, false
	}
	return s.put(it), true
}

// Open appends the first item of a strand, or has the caller run it instead.
func (s *Strand) Open(it *bufpool.Buf) {
	if it == nil {
		s.state = Running
		return
	}
	s.put(it)
}

// PostFrames appends a copy of whole frames, which were read at that time: behind those of the
// last block, if they are of its kind, it has room, and its first were read no longer than
// grain before; 0: that does not matter.
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

// PostBlock is PostFrames for a block that becomes the strand's own.
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
	Taken Verdict = iota
	Schedule
	Full
	Gone
)

// TaskCost is what a submitted function counts in a budget while it waits, in bytes.
const TaskCost = bufpool.Header + taskCost

// Submit appends a function. closed is asked under the lock.
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

// SubmitTo is Submit to a strand whose pool may end at any time. push has an idle strand
// scheduled, under the lock, before the function counts as taken; where it can't, the
// verdict is Gone. It is never Schedule. arg is kept beside fn, which may be nil.
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

// refusal is why a function is not taken; Taken: it is. mu is held.
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

// End has set close the strand, once and under the lock: no function is taken behind it that
// closed is asked for. An idle strand has its last turn scheduled before, with push. False:
// it was closed, or alone was asked for and something waits.
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

// Begin is called by a worker that has taken the strand off the run queue.
func (s *Strand) Begin() {
	s.mu.Lock()
	s.state = Running
	s.mu.Unlock()
}

// Enter takes an idle strand for the loop to run.
func (s *Strand) Enter() bool {
	s.mu.Lock()
	free := s.state == Idle && s.head == nil
	if free {
		s.state = Running
	}
	s.mu.Unlock()
	return free
}

// Next takes the item at the head; nil when there is none. A function has been run, for
// the limits, when Next returns it; its Off is how many waited, it included.
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

// Return puts a block back at the head, with frames that are still to be run.
func (s *Strand) Return(it *bufpool.Buf) {
	s.mu.Lock()
	defer s.mu.Unlock()
	it.Next = s.head
	s.head = it
	if s.tail == nil {
		s.tail = it
	}
}

// Free gives a block back whose frames have been run or dropped. It tells whether what
// waits has fallen to resumeAt, after Paused: then the loop may read again.
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

// Held is the memory of the frames that wait or run, in bytes. pauseAt: from there on
// Free is asked to tell when it has fallen.
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

// Leave ends what Begin or Enter began: the strand is queued again if it must be, or is
// idle. force: also if nothing waits.
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

// Rest goes idle if nothing waits; else the strand goes on running.
func (s *Strand) Rest(closed func() bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.head != nil || closed() {
		return false
	}
	s.state = Idle
	return true
}

// Park leaves the strand to whoever calls Wake.
func (s *Strand) Park() {
	s.mu.Lock()
	s.state = Parked
	s.mu.Unlock()
}

// Unpark takes a parked strand back; false when somebody has woken it already.
func (s *Strand) Unpark() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != Parked {
		return false
	}
	s.state = Running
	return true
}

// Wake has a strand run that is parked, or idle while its session has closed.
func (s *Strand) Wake(closed func() bool) (schedule bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == Parked || s.state == Idle && closed() {
		s.state = Queued
		return true
	}
	return false
}

// Unhold lets a parked strand go: it is to be scheduled if something waits or it has closed,
// and is idle otherwise.
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

// Tasks is how many functions wait.
func (s *Strand) Tasks() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return int(s.tasks)
}

// Finish ends the strand for good and returns what had come since the last Next.
func (s *Strand) Finish() (left *bufpool.Buf) {
	s.mu.Lock()
	defer s.mu.Unlock()
	left = s.head
	s.head, s.tail, s.state = nil, nil, Done
	return left
}

// Quiet tells whether nothing waits and nothing runs.
func (s *Strand) Quiet() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.head == nil && (s.state == Idle || s.state == Done)
}

// State is who runs the strand now.
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
