package timerwheel

import "sync/atomic"

// An entry is one timer. Entries live in the slabs of their shard, are linked
// by index (0 means none) and are used again when their timer has ended.
//
// All fields but word are guarded by the shard's mutex.
type entry struct {
	// word is generation<<2 | state. The generation grows whenever what was
	// set before must not run any more: on a kill, a new setting, the end.
	// A worker calls fn only if it could turn its own generation from queued
	// to running, so a firing of an older generation never runs.
	word atomic.Uint64

	id    TimerID
	fn    func(Firing)
	set   *Set
	due   int64  // monotonic deadline of the next firing, ns since the service's base
	every int64  // period, ns
	n     uint64 // firings handed out so far
	left  int64  // firings still to hand out; forever when endless

	next, prev   uint32 // the slot's ring; next is also the free list
	hnext        uint32 // the chain of the hash table
	snext, sprev uint32 // the set's list
	slot         uint32 // slot index + 1; 0 when it hangs in none
}

// The states of an entry's latest firing.
const (
	idle    = 0 // none is out
	queued  = 1 // handed to a submitter, or waiting to be
	running = 2 // a worker is in fn
	states  = 3

	generation = 4 // one generation in word
)

// forever in entry.left means endless.
const forever = -1

// renew ends the entry's generation: what is queued will not run.
func (e *entry) renew() {
	e.word.Store(e.word.Load()&^states + generation)
}

// ended reports whether the last firing has begun: nothing is left to kill.
func (e *entry) ended() bool {
	return e.left == 0 && e.slot == 0 && e.word.Load()&states == running
}

const (
	blockLen = 64   // entries addressed by one pointer of slab.blocks
	slabLen  = 1024 // entries of one allocation once a shard has that many
)

// A slab holds a shard's entries. Blocks never move, so a pointer to an entry
// stays good; index 0 is not used. Guarded by the shard's mutex.
type slab struct {
	blocks []*[blockLen]entry
	free   uint32 // head of the list of free entries
	fresh  uint32 // entries from here up have never been used
}

func (s *slab) at(i uint32) *entry {
	return &s.blocks[i/blockLen][i%blockLen]
}

func (s *slab) alloc() (uint32, *entry) {
	if i := s.free; i != 0 {
		e := s.at(i)
		s.free = e.next
		e.next = 0
		return i, e
	}
	if s.fresh == 0 {
		s.fresh = 1
	}
	i := s.fresh
	if int(i/blockLen) >= len(s.blocks) {
		s.grow()
	}
	s.fresh++
	return i, s.at(i)
}

// grow adds a small block while the shard is small and a slab of slabLen
// entries (no waste in the allocator's size classes) afterwards.
func (s *slab) grow() {
	if len(s.blocks) < slabLen/blockLen {
		s.blocks = append(s.blocks, new([blockLen]entry))
		return
	}
	m := new([slabLen]entry)
	for i := 0; i < slabLen; i += blockLen {
		s.blocks = append(s.blocks, (*[blockLen]entry)(m[i:i+blockLen]))
	}
}

// release ends e's generation and makes it free.
func (s *slab) release(i uint32, e *entry) {
	e.renew()
	e.fn, e.set = nil, nil
	e.hnext, e.snext, e.sprev, e.slot, e.prev = 0, 0, 0, 0, 0
	e.next = s.free
	s.free = i
}
