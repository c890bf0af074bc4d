// Package registry is a table of numbered slots that are used again, with keys that never find a later
// owner of the same slot.
package registry

import (
	"sync/atomic"

	"millrace/internal/tally"
)

// Key identifies one owner of a slot, forever. Index is the slot; Round counts the owners that the slot
// has had, from 1. No owner has the zero Key.
type Key struct{ Index, Round uint32 }

// Table maps slots to the T that has each now. Its methods may be called from any
// goroutine; Lookup and Each take no lock.
//
// Invariant: a slot's round grows before its value is set, so a Key taken from an
// earlier owner never finds a later one. A slot whose round has reached the last value
// is not used again.
type Table[T any] struct {
	slots atomic.Pointer[[]slot[T]] // none until Open
	_     [64]byte                  // so that Acquire and Release don't invalidate the cache line that Lookup reads

	mu   tally.Mutex
	free []uint32 // guarded by mu; a stack, so that few slots are used and stay in the caches
	live int      // guarded by mu
}

type slot[T any] struct {
	value atomic.Pointer[T]
	round atomic.Uint32 // written under mu
}

// Open makes the table's n slots, once. Before that nothing can be found or acquired.
func (t *Table[T]) Open(n int) {
	slots := make([]slot[T], n)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.slots.Load() != nil {
		panic("registry: a table opened twice")
	}
	t.free = make([]uint32, n)
	for i := range t.free {
		t.free[i] = uint32(n - 1 - i)
	}
	t.slots.Store(&slots)
}

// all is the slots.
func (t *Table[T]) all() []slot[T] {
	if p := t.slots.Load(); p != nil {
		return *p
	}
	return nil
}

// Acquire gives v a slot; false when none is free. It calls name with v's Key before Lookup can find v.
// name must not call the table.
func (t *Table[T]) Acquire(v *T, name func(Key)) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.free) == 0 {
		return false
	}
	i := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	t.live++
	s := &t.all()[i]
	name(Key{i, s.round.Add(1)})
	s.value.Store(v)
	return true
}

// Release frees the slot of k. It panics if k does not have it: a Key is released once.
func (t *Table[T]) Release(k Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := &t.all()[k.Index]
	if s.value.Load() == nil || s.round.Load() != k.Round {
		panic("registry: a slot released twice")
	}
	s.value.Store(nil)
	t.live--
	if k.Round != ^uint32(0) {
		t.free = append(t.free, k.Index)
	}
}

// Lookup returns the owner with the Key k, or nil if it has been released.
func (t *Table[T]) Lookup(k Key) *T {
	slots := t.all()
	if int64(k.Index) >= int64(len(slots)) {
		return nil
	}
	s := &slots[k.Index]
	v := s.value.Load()
	if s.round.Load() != k.Round { // after value: a later owner's comes with a later round
		return nil
	}
	return v
}

// Count returns how many slots are taken.
func (t *Table[T]) Count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.live
}

// Each calls fn for each owner, in the order of the slots, until fn returns false.
func (t *Table[T]) Each(fn func(*T) bool) {
	slots := t.all()
	for i := range slots {
		if v := slots[i].value.Load(); v != nil && !fn(v) {
			return
		}
	}
}
