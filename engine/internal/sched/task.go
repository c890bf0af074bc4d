package sched

import (
	"time"
	"unsafe"
)

// Owner is what a Task runs. Run is called by a worker. The other methods may be called at any time
// by the monitor, and by Stop for its error; they must return soon. If an Owner is also a
// fmt.Stringer, the error of Stop names it so.
type Owner interface {
	// Run is one turn of the task. The owner must not push the task while it is queued, or before
	// the turn has reached the point where it may run again.
	Run()
	// Step returns the progress of the turn: 0 at its beginning, and another number after each
	// callback, or group of callbacks, has ended. The pool's lock is held.
	Step() uint32
	// Long is called every 1 to 4 ms while a turn lasts longer than BlockedAfter, and maybe once
	// shortly after it has ended. From then on until the turn's end Step should change after each
	// single callback.
	Long()
	// Running returns the session and handle that the turn is at, for log lines.
	Running() (session string, main, sub uint16)
}

// Staller is an Owner that is notified of its callbacks that exceed Config.StallAfter.
type Staller interface {
	// Stalls is called by the monitor when it has found such a callback, which has lasted d so far.
	// It must not block.
	Stalls(d time.Duration)
	// Stalled is called with the report, on the Watch's goroutine.
	Stalled(Stall)
}

// Blocker is an Owner with callbacks that are known to block. Those are reported as stalls only after
// BlocksFor times as long.
type Blocker interface {
	// Blocks reports whether the callback that runs now is one of those. The pool's lock is held.
	Blocks() bool
}

// BlocksFor times Watch.After is how long a callback may take that is known to block.
const BlocksFor = 50

// Task is embedded in its owner, and links it into the run queue. It is on the queue at most once.
type Task struct {
	owner Owner // set once
	next  *Task // guarded by the mu of the shard it is on
}

// Init sets the owner. It must be called before the first Push.
func (t *Task) Init(o Owner) { t.owner = o }

// Home returns a value for Push's home that is always the same for this task, for tasks that many
// goroutines push.
func (t *Task) Home() uint { return uint(uintptr(unsafe.Pointer(t)) >> 6 * 0x9E3779B1 >> 8) }

// blocks reports whether the callback that t runs, nil for a function, is known to block.
func (t *Task) blocks() bool {
	if t == nil {
		return false
	}
	b, ok := t.owner.(Blocker)
	return ok && b.Blocks()
}

// queue is a list of tasks, linked by Task.next.
type queue struct {
	head, tail *Task
	n          int
}

func (q *queue) push(t *Task) {
	t.next = nil
	if q.tail == nil {
		q.head = t
	} else {
		q.tail.next = t
	}
	q.tail = t
	q.n++
}

func (q *queue) pop() *Task {
	t := q.head
	q.head = t.next
	if q.head == nil {
		q.tail = nil
	}
	t.next = nil
	q.n--
	return t
}
