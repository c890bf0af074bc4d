package sched

import (
	"time"
	"unsafe"
)

// Owner is what a Task runs. Run is called by a worker; the monitor calls the others,
// which must return soon and are safe at any time. One that is a fmt.Stringer too is called
// that where a Stop says what it waits for.
type Owner interface {
	// Run is one turn. Its owner sees to it that the task is not pushed again before
	// its turn has given the task up.
	Run()
	// Step tells how far the turn is: 0 when it begins, then any other number each time
	// one callback has ended. The pool's lock is held.
	Step() uint32
	// Long is called every millisecond or so while a turn lasts longer than BlockedAfter,
	// at the latest a moment after it has ended. Until the turn ends Step should then
	// change with each single callback.
	Long()
	// Running names what the turn runs, for people: the session and the handle.
	Running() (session string, main, sub uint16)
}

// Staller is an Owner that wants to know of its callbacks that stand still.
type Staller interface {
	// Stalls is called by the monitor when it has found one, that has lasted d; it must not
	// block.
	Stalls(d time.Duration)
	// Stalled is called when that is reported, on the reporter's goroutine.
	Stalled(Stall)
}

// Task is the run queue's part of its owner. It is on the queue once at most.
type Task struct {
	owner Owner // set once
	next  *Task // guarded by the mu of the shard it is on
}

// Init names the owner, before the first Push.
func (t *Task) Init(o Owner) { t.owner = o }

// Home is a home for a task that comes from many goroutines: always the same.
func (t *Task) Home() uint { return uint(uintptr(unsafe.Pointer(t)) >> 6 * 0x9E3779B1 >> 8) }

// queue is a list of tasks that are linked by themselves.
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
