package timerwheel

import "slices"

const (
	blockLen = 512 // entries of a block: 32 KiB, the least that the allocator gives out without a header
	stepLen  = 64  // the first blockLen entries come in blocks of this size
	steps    = blockLen / stepLen

	indexBits = 24 // bound a shard's entries
	maxIndex  = 1<<indexBits - 1
)

// A link links an entry into its group's list.
type link struct{ next, prev uint32 }

// A slab holds a shard's entries. Blocks never move, so a pointer to an entry stays valid, and a
// block without timers can be released. Index 0 is not used. Guarded by the shard's mutex.
type slab struct {
	small  [steps]*[stepLen]entry
	large  []*[blockLen]entry // the first is nil: those are in small
	links  []*[stepLen]link   // only for steps with timers of Sets that For made
	blocks []block            // those of small, then those of large from the second up
	avail  []uint32           // blocks with a free entry, the one to use next last
	absent []uint32           // blocks that were given back
}

// A block counts the entries of one block.
type block struct {
	free  uint32 // head of the list of free entries
	fresh uint32 // entries from here up have never been used
	used  uint32
	size  uint32 // entries in it
}

func (s *slab) at(i uint32) *entry {
	if i < blockLen {
		return &s.small[i/stepLen][i%stepLen]
	}
	return &s.large[i/blockLen][i%blockLen]
}

// blockOf returns the number of i's block.
func blockOf(i uint32) uint32 {
	if i < blockLen {
		return i / stepLen
	}
	return i/blockLen + steps - 1
}

// span returns the indexes of block k.
func span(k uint32) (from, to uint32) {
	switch {
	case k == 0:
		return 1, stepLen
	case k < steps:
		return k * stepLen, (k + 1) * stepLen
	}
	k -= steps - 1
	return k * blockLen, (k + 1) * blockLen
}

// end is above every index in use.
func (s *slab) end() uint32 {
	if len(s.blocks) == 0 {
		return 1
	}
	_, to := span(uint32(len(s.blocks) - 1))
	return to
}

// full reports whether no index is left.
func (s *slab) full() bool {
	return len(s.avail) == 0 && len(s.absent) == 0 && s.end() > maxIndex
}

func (s *slab) alloc() (uint32, *entry) {
	if len(s.avail) == 0 {
		s.grow()
	}
	k := s.avail[len(s.avail)-1]
	b := &s.blocks[k]
	i := b.free
	if i == 0 {
		from, _ := span(k)
		i = from + b.fresh
		b.fresh++
	}
	e := s.at(i)
	if b.free != 0 {
		b.free, e.next = e.next, 0
	}
	if b.used++; b.used == b.size {
		s.avail = s.avail[:len(s.avail)-1]
	}
	return i, e
}

// release makes e free, which has been renewed.
func (s *slab) release(i uint32, e *entry) {
	k := blockOf(i)
	b := &s.blocks[k]
	e.fn = nil
	e.tag = 0
	e.next, b.free = b.free, i
	if b.used == b.size {
		s.avail = append(s.avail, k)
	}
	b.used--
}

// grow allocates the lowest missing block.
func (s *slab) grow() {
	k := uint32(len(s.blocks))
	if n := len(s.absent); n > 0 {
		k = s.absent[n-1]
		s.absent = s.absent[:n-1]
	} else {
		s.blocks = append(s.blocks, block{})
	}
	from, to := span(k)
	s.blocks[k] = block{size: to - from}
	s.avail = append(s.avail, k)
	if k < steps {
		s.small[k] = new([stepLen]entry)
		return
	}
	for int(from/blockLen) >= len(s.large) {
		s.large = append(s.large, nil)
	}
	s.large[from/blockLen] = new([blockLen]entry)
}

// present reports whether entry i exists, used or free.
func (s *slab) present(i uint32) bool {
	if i < blockLen {
		return s.small[i/stepLen] != nil
	}
	return int(i/blockLen) < len(s.large) && s.large[i/blockLen] != nil
}

// trim releases the blocks without timers to the garbage collector, and makes the others be used
// from the lowest up, so that the highest become empty first.
func (s *slab) trim() {
	for k := range uint32(len(s.blocks)) {
		if from, to := span(k); s.blocks[k].used == 0 && s.present(from) {
			s.giveBack(k, from, to)
		}
	}
	s.avail = slices.DeleteFunc(s.avail, func(k uint32) bool { from, _ := span(k); return !s.present(from) })
	slices.SortFunc(s.avail, func(a, b uint32) int { return int(b) - int(a) })
	slices.SortFunc(s.absent, func(a, b uint32) int { return int(b) - int(a) })
}

// giveBack releases block k and its links.
func (s *slab) giveBack(k, from, to uint32) {
	if k < steps {
		s.small[k] = nil
	} else {
		s.large[from/blockLen] = nil
	}
	for j := from / stepLen; j < to/stepLen && int(j) < len(s.links); j++ {
		s.links[j] = nil
	}
	s.absent = append(s.absent, k)
}

func (s *slab) link(i uint32) *link {
	return &s.links[i/stepLen][i%stepLen]
}

// needLink makes sure that link(i) exists.
func (s *slab) needLink(i uint32) {
	b := int(i / stepLen)
	for b >= len(s.links) {
		s.links = append(s.links, nil)
	}
	if s.links[b] == nil {
		s.links[b] = new([stepLen]link)
	}
}

// A slotList is the circular list of one slot's entries in one shard. Guarded
// by the shard's mutex.
type slotList struct {
	head uint32
	n    uint32
}

// push appends e, so that a slot keeps the order of setting.
func (l *slotList) push(s *slab, i uint32, e *entry) {
	if l.head == 0 {
		e.next, e.prev = i, i
		l.head = i
	} else {
		h := s.at(l.head)
		e.next, e.prev = l.head, h.prev
		s.at(h.prev).next = i
		h.prev = i
	}
	l.n++
}

func (l *slotList) remove(s *slab, i uint32, e *entry) {
	if e.next == i {
		l.head = 0
	} else {
		s.at(e.prev).next = e.next
		s.at(e.next).prev = e.prev
		if l.head == i {
			l.head = e.next
		}
	}
	e.next, e.prev = 0, 0
	l.n--
}
