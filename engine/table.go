package engine

import (
	"fmt"
	"sync"
	"sync/atomic"
)

// ID names one session for good: its slot's index and the round of that slot. The
// zero ID names none, as rounds start at 1.
type ID uint64

func makeID(index, round uint32) ID { return ID(round)<<32 | ID(index) }

// Index is the slot. It is used again by a later session.
func (id ID) Index() uint32 { return uint32(id) }

// Round counts the sessions that the slot has had. It only grows, and is never 0.
func (id ID) Round() uint32 { return uint32(id >> 32) }

func (id ID) String() string { return fmt.Sprintf("%d.%d", id.Index(), id.Round()) }

// table maps a slot to the session that now has it.
//
// Invariant: a slot's round grows before its session is set, so an ID taken from an
// earlier session never finds a later one. A slot whose round has reached the last
// value is not used again.
type table struct {
	slots atomic.Pointer[[]atomic.Pointer[Session]] // read by anyone; none until open

	mu     sync.Mutex
	rounds []uint32 // guarded by mu
	free   []uint32 // guarded by mu; a stack, so that few slots stay warm
	live   int      // guarded by mu
}

func newTable(n int) *table {
	t := &table{}
	t.open(n)
	return t
}

// open gives the table its n slots, once.
func (t *table) open(n int) {
	slots := make([]atomic.Pointer[Session], n)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rounds, t.free = make([]uint32, n), make([]uint32, n)
	for i := range t.free {
		t.free[i] = uint32(n - 1 - i)
	}
	t.slots.Store(&slots)
}

// all is the slots.
func (t *table) all() []atomic.Pointer[Session] {
	if p := t.slots.Load(); p != nil {
		return *p
	}
	return nil
}

// acquire gives s a slot and its ID; false when none is free.
func (t *table) acquire(s *Session) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.free) == 0 {
		return false
	}
	i := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	t.rounds[i]++
	t.live++
	s.id = makeID(i, t.rounds[i])
	t.all()[i].Store(s)
	return true
}

// release takes the slot back once the session has ended altogether.
func (t *table) release(s *Session) {
	i := s.id.Index()
	t.mu.Lock()
	defer t.mu.Unlock()
	slot := &t.all()[i]
	if slot.Load() != s {
		panic("engine: a slot released twice")
	}
	slot.Store(nil)
	t.live--
	if t.rounds[i] != ^uint32(0) {
		t.free = append(t.free, i)
	}
}

// lookup returns the session with this ID, or nil if it has gone.
func (t *table) lookup(id ID) *Session {
	i, slots := id.Index(), t.all()
	if int64(i) >= int64(len(slots)) {
		return nil
	}
	s := slots[i].Load()
	if s == nil || s.id != id {
		return nil
	}
	return s
}

func (t *table) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live
}

// each calls fn for the sessions that are there, until it returns false.
func (t *table) each(fn func(*Session) bool) {
	slots := t.all()
	for i := range slots {
		if s := slots[i].Load(); s != nil && !fn(s) {
			return
		}
	}
}
