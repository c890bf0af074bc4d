package timerwheel

import "sync/atomic"

// An entry is one timer: one cache line. Entries live in the slabs of their
// shard, are linked by index (0 means none) and are used again when their
// timer has ended. All fields but word are guarded by the shard's mutex.
type entry struct {
	// word is generation<<3 | odd | state. The generation grows whenever a firing
	// that is out must not run any more: on a kill, a new setting; and at the end.
	// A worker calls fn only if it could turn its own firing's word from idle
	// to running, so one of an older generation never runs. The driver only
	// reads it: a locked store for each firing would wait for all the cache
	// misses before it.
	word atomic.Uint64

	id    TimerID
	fn    func(Firing) // nil while the entry is free
	due   int64        // monotonic deadline of the next firing, ns since the service's base
	every int64        // period, ns
	n     uint32       // firings handed out so far, low half when endless
	left  uint32       // firings still to hand out; n's high half when endless

	next, prev uint32 // the slot's ring; next is also the free list
	hnext      uint32 // the chain of the hash table
	tag        uint32 // set<<setShift | endless | slot + 1, which is 0 in no slot
}

const (
	slotMask = 1<<11 - 1
	endless  = 1 << 11
	setShift = 12
	maxSets  = 1 << (32 - setShift) // Sets with timers in one shard
)

// slot returns the slot that e hangs in, plus 1; 0 when in none.
func (e *entry) slot() uint32 { return e.tag & slotMask }

func (e *entry) setSlot(slot1 uint32) { e.tag = e.tag&^slotMask | slot1 }

// set returns the index of e's Set in its shard.
func (e *entry) set() uint32 { return e.tag >> setShift }

// start makes repeat firings the ones to come; 0 is endless.
func (e *entry) start(repeat uint32) {
	e.n, e.left = 0, repeat
	e.tag &^= endless
	if repeat == 0 {
		e.tag |= endless
	}
}

// restart makes them as many as they were at the start.
func (e *entry) restart() {
	if e.tag&endless != 0 {
		e.start(0)
	} else {
		e.start(e.left + e.n)
	}
}

// count counts one firing, and returns its number and how many are left.
func (e *entry) count() (n uint64, left int64) {
	e.n++
	if e.tag&endless == 0 {
		e.left--
		return uint64(e.n), int64(e.left)
	}
	if e.n == 0 {
		e.left++
	}
	return uint64(e.left)<<32 | uint64(e.n), -1
}

// more reports whether a firing is still to be handed out.
func (e *entry) more() bool { return e.left != 0 || e.tag&endless != 0 }

// The states of an entry's latest firing.
const (
	idle    = 0 // none is out, or one that no worker has claimed yet
	running = 1 // a worker has claimed it and not yet returned from fn
	ran     = 2 // the last one has returned; the entry is to be taken away
	queued  = 3 // what state says of idle when one is out; in no word
	states  = 3

	odd        = 4 // set while the generation's runs that have returned are odd in number
	generation = 8 // one generation in word
)

// out reports whether a firing has been handed out that has not returned: as
// many are handed out as have returned, or one more.
func (e *entry) out(word uint64) bool { return uint64(e.n)*odd&odd != word&odd }

func (e *entry) state(word uint64) uint64 {
	if word&states == idle && e.out(word) {
		return queued
	}
	return word & states
}

// renew ends the entry's generation and returns the word until then. A firing
// that was not claimed by then never will be: a worker that turns the word to
// running at the same time was either first, or finds it changed. The generation
// goes on if none of its firings is out, for then no worker has its word; not if
// that is odd, for n starts from 0. The shard is locked.
func (e *entry) renew() (word uint64) {
	for {
		w := e.word.Load()
		if w&(states|odd) == 0 && !e.out(w) || e.word.CompareAndSwap(w, renewed(w)) {
			return w
		}
	}
}

func renewed(word uint64) uint64 { return word&^(states|odd) + generation }

const (
	blockLen = 512 // entries of one allocation: 32 KiB, the least that the allocator gives out without a header
	smallLen = 64  // the first blockLen entries come in such steps
)

// A link is what ties an entry into its Set's list.
type link struct{ next, prev uint32 }

// A slab holds a shard's entries. Blocks never move, so a pointer to an entry
// stays good; index 0 is not used. Guarded by the shard's mutex.
type slab struct {
	small  [blockLen / smallLen]*[smallLen]entry
	blocks []*[blockLen]entry // the first is nil: those are in small
	links  []*[smallLen]link  // only for steps with timers of Sets that For made
	free   uint32             // head of the list of free entries
	fresh  uint32             // entries from here up have never been used
}

func (s *slab) at(i uint32) *entry {
	if i < blockLen {
		return &s.small[i/smallLen][i%smallLen]
	}
	return &s.blocks[i/blockLen][i%blockLen]
}

func (s *slab) link(i uint32) *link {
	return &s.links[i/smallLen][i%smallLen]
}

// needLink makes sure that link(i) exists.
func (s *slab) needLink(i uint32) {
	b := int(i / smallLen)
	for b >= len(s.links) {
		s.links = append(s.links, nil)
	}
	if s.links[b] == nil {
		s.links[b] = new([smallLen]link)
	}
}

// full reports whether no index is left.
func (s *slab) full() bool { return s.free == 0 && s.fresh > maxIndex }

func (s *slab) alloc() (uint32, *entry) {
	if i := s.free; i != 0 {
		e := s.at(i)
		s.free = e.next
		e.next = 0
		return i, e
	}
	s.fresh = max(s.fresh, 1)
	i := s.fresh
	s.need(i)
	s.fresh++
	return i, s.at(i)
}

// need makes sure that entry i exists.
func (s *slab) need(i uint32) {
	if i < blockLen {
		if p := &s.small[i/smallLen]; *p == nil {
			*p = new([smallLen]entry)
		}
		return
	}
	for int(i/blockLen) >= len(s.blocks) {
		s.blocks = append(s.blocks, nil)
	}
	if p := &s.blocks[i/blockLen]; *p == nil {
		*p = new([blockLen]entry)
	}
}

// release makes e free, which has been renewed.
func (s *slab) release(i uint32, e *entry) {
	e.fn = nil
	e.tag = 0
	e.next = s.free
	s.free = i
}
