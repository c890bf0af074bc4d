package timerwheel

const segLen = 256

// A table finds a shard's entries by set and id. It is a linear hash table
// (Litwin, VLDB 1980): it grows and shrinks by one chain at a time, so no call
// ever pays for moving all entries, and has up to two chains a timer, of four
// bytes each.
// Chains run through entry.hnext. Guarded by the shard's mutex.
type table struct {
	salt  uint64 // random, so that a peer that chooses ids can't aim at one chain
	segs  []*[segLen]uint32
	mask  uint32 // 2^level - 1
	split uint32 // the next chain to be split; chains = mask + 1 + split
	count uint32
}

// chain returns where the chain of hash h begins.
func (t *table) chain(h uint32) *uint32 {
	c := h & t.mask
	if c < t.split {
		c = h & (t.mask<<1 | 1)
	}
	return &t.segs[c/segLen][c%segLen]
}

func (t *table) find(s *slab, set uint32, id TimerID, h uint32) (uint32, *entry) {
	if t.count == 0 {
		return 0, nil
	}
	for i := *t.chain(h); i != 0; {
		e := s.at(i)
		if e.id == id && e.set() == set {
			return i, e
		}
		i = e.hnext
	}
	return 0, nil
}

func (t *table) add(s *slab, i uint32, e *entry, h uint32) {
	if t.segs == nil {
		t.segs = append(t.segs, new([segLen]uint32))
		t.mask, t.split = segLen-1, 0
	}
	c := t.chain(h)
	e.hnext = *c
	*c = i
	t.count++
	for range 2 { // two chains for each entry added, up to twice as many
		if 2*t.count > t.mask+1+t.split {
			t.grow(s)
		}
	}
}

func (t *table) remove(s *slab, i uint32, e *entry, h uint32) {
	for p := t.chain(h); *p != 0; p = &s.at(*p).hnext {
		if *p == i {
			*p = e.hnext
			e.hnext = 0
			t.count--
			if n := t.mask + 1 + t.split; n > segLen && t.count < n/8 {
				t.shrink(s)
			}
			return
		}
	}
	panic("timerwheel: bug: entry is not in its chain")
}

// grow splits chain t.split in two.
func (t *table) grow(s *slab) {
	from := t.split
	to := t.mask + 1 + from
	if int(to/segLen) >= len(t.segs) {
		t.segs = append(t.segs, new([segLen]uint32))
	}
	lo, hi := &t.segs[from/segLen][from%segLen], &t.segs[to/segLen][to%segLen]
	i := *lo
	*lo, *hi = 0, 0
	for i != 0 {
		e := s.at(i)
		next := e.hnext
		to := lo
		if t.hash(e.set(), e.id)&(t.mask+1) != 0 {
			to = hi
		}
		e.hnext = *to
		*to = i
		i = next
	}
	if t.split++; t.split > t.mask {
		t.mask = t.mask<<1 | 1
		t.split = 0
	}
}

// shrink undoes the latest grow.
func (t *table) shrink(s *slab) {
	if t.split == 0 {
		t.mask >>= 1
		t.split = t.mask + 1
	}
	t.split--
	from := t.mask + 1 + t.split
	hi := &t.segs[from/segLen][from%segLen]
	p := &t.segs[t.split/segLen][t.split%segLen]
	for *p != 0 {
		p = &s.at(*p).hnext
	}
	*p = *hi
	*hi = 0
	if from%segLen == 0 {
		t.segs[from/segLen] = nil
		t.segs = t.segs[:from/segLen]
	}
}

// hash mixes a Set's index and an id.
func (t *table) hash(set uint32, id TimerID) uint32 {
	x := (uint64(id) ^ t.salt) * 0x9e3779b97f4a7c15
	x = (x ^ x>>29 ^ uint64(set)<<7 ^ t.salt>>5) * 0xbf58476d1ce4e5b9
	return uint32(x >> 32)
}
