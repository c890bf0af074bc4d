package timerwheel

// A table finds a shard's entries by group and id. It is a linear hash table
// (Litwin, VLDB 1980): it grows by one bucket at a time, so no call ever pays
// for moving all entries; the watchdog makes it smaller in the same steps. A
// bucket is one cache line whose slots carry eight bits of the hash: a lookup
// reads that line and the entry it looks for, and hardly ever another's. Guarded
// by the shard's mutex.
type table struct {
	seed  uint64 // random, so that a peer that chooses ids can't aim at one bucket
	segs  []*[segLen]bucket
	mask  uint32 // 2^level - 1
	split uint32 // the next bucket to be split; buckets = mask + 1 + split
	count uint32
}

const (
	segLen    = 32 // buckets of one allocation
	bucketLen = 15
	fill      = 10             // entries for each bucket: more, and the chains cost too much
	tagBits   = 32 - indexBits // of a slot: index<<tagBits | tag
	tagMask   = 1<<tagBits - 1
)

// A bucket holds its first entries in slots, each of which knows its slot by
// entry.hashNext, and the rest on a chain through hashNext: one or two in a hundred.
// A free slot is 0; while there is one the chain is empty.
type bucket struct {
	slots [bucketLen]uint32
	chain uint32
}

func slotFor(i, h uint32) uint32 { return i<<tagBits | h>>(32-tagBits) }

// bucket returns the one for hash h.
func (t *table) bucket(h uint32) *bucket {
	b := h & t.mask
	if b < t.split {
		b = h & (t.mask<<1 | 1)
	}
	return t.at(b)
}

func (t *table) at(b uint32) *bucket { return &t.segs[b/segLen][b%segLen] }

func (t *table) find(s *slab, group uint32, id TimerID, h uint32) (uint32, *entry) {
	if t.count == 0 {
		return 0, nil
	}
	b := t.bucket(h)
	for _, v := range &b.slots {
		if v&tagMask != h>>(32-tagBits) || v == 0 {
			continue
		}
		if e := s.at(v >> tagBits); e.id == id && e.group() == group {
			return v >> tagBits, e
		}
	}
	for i := b.chain; i != 0; {
		e := s.at(i)
		if e.id == id && e.group() == group {
			return i, e
		}
		i = e.hashNext
	}
	return 0, nil
}

// likely returns the entry that find will most likely return for h, and nil only if that finds
// none. The entry's line is asked for by a store of what it holds already: no instruction waits
// for a store, as it does for a load, so what the caller does before it looks into the entry,
// such as reading the clock, takes place while the line is on its way.
func (t *table) likely(s *slab, h uint32) (uint32, *entry) {
	if t.count == 0 {
		return 0, nil
	}
	b := t.bucket(h)
	for k, v := range &b.slots {
		if v&tagMask == h>>(32-tagBits) && v != 0 {
			e := s.at(v >> tagBits)
			e.hashNext = uint32(k)
			return v >> tagBits, e
		}
	}
	if b.chain == 0 {
		return 0, nil
	}
	return b.chain, s.at(b.chain)
}

func (t *table) add(s *slab, i uint32, e *entry, h uint32) {
	if t.segs == nil {
		t.segs = append(t.segs, new([segLen]bucket))
		t.mask, t.split = segLen-1, 0
	}
	t.bucket(h).add(i, e, h)
	if t.count++; t.count > fill*t.buckets() {
		t.grow(s)
	}
}

func (t *table) buckets() uint32 { return t.mask + 1 + t.split }

func (b *bucket) add(i uint32, e *entry, h uint32) {
	for k, v := range &b.slots {
		if v == 0 {
			b.slots[k], e.hashNext = slotFor(i, h), uint32(k)
			return
		}
	}
	e.hashNext, b.chain = b.chain, i
}

func (t *table) remove(s *slab, i uint32, e *entry, h uint32) {
	t.bucket(h).remove(t, s, i, e, h)
	t.count--
}

// remove frees the entry's slot, or gives it to the chain's first.
func (b *bucket) remove(t *table, s *slab, i uint32, e *entry, h uint32) {
	if k := e.hashNext; k < bucketLen && b.slots[k] == slotFor(i, h) {
		b.slots[k], e.hashNext = 0, 0
		if c := b.chain; c != 0 {
			ce := s.at(c)
			b.slots[k], b.chain, ce.hashNext = slotFor(c, t.hash(ce.group(), ce.id)), ce.hashNext, k
		}
		return
	}
	for p := &b.chain; *p != 0; p = &s.at(*p).hashNext {
		if *p == i {
			*p, e.hashNext = e.hashNext, 0
			return
		}
	}
	panic("timerwheel: bug: entry is not in its bucket")
}

// grow splits bucket t.split in two.
func (t *table) grow(s *slab) {
	to := t.buckets()
	if int(to/segLen) >= len(t.segs) {
		t.segs = append(t.segs, new([segLen]bucket))
	}
	bit := t.mask + 1
	lo, hi := t.at(t.split), t.at(to)
	t.refill(s, lo, func(h uint32) *bucket {
		if h&bit != 0 {
			return hi
		}
		return lo
	})
	if t.split++; t.split > t.mask {
		t.mask = t.mask<<1 | 1
		t.split = 0
	}
}

// refill empties b and puts each of its entries where to says.
func (t *table) refill(s *slab, b *bucket, to func(h uint32) *bucket) {
	was := *b
	*b = bucket{}
	for _, v := range was.slots {
		if v != 0 {
			t.put(s, v>>tagBits, to)
		}
	}
	for i := was.chain; i != 0; {
		next := s.at(i).hashNext
		t.put(s, i, to)
		i = next
	}
}

func (t *table) put(s *slab, i uint32, to func(h uint32) *bucket) {
	e := s.at(i)
	h := t.hash(e.group(), e.id)
	to(h).add(i, e, h)
}

// trim merges up to most buckets while the table is far too large, and reports
// whether it still is. It isn't called for each removal: a burst's timers end
// together, and the ones that are left would be moved over and over.
func (t *table) trim(s *slab, most int) (more bool) {
	for t.buckets() > segLen && t.count < fill/2*t.buckets() {
		if most == 0 {
			return true
		}
		most--
		t.shrink(s)
	}
	return false
}

// shrink undoes the latest grow.
func (t *table) shrink(s *slab) {
	if t.split == 0 {
		t.mask >>= 1
		t.split = t.mask + 1
	}
	t.split--
	from := t.buckets()
	lo := t.at(t.split)
	t.refill(s, t.at(from), func(uint32) *bucket { return lo })
	if from%segLen == 0 {
		t.segs[from/segLen] = nil
		t.segs = t.segs[:from/segLen]
	}
}

// hash mixes a group's index and an id.
func (t *table) hash(group uint32, id TimerID) uint32 {
	x := (uint64(id) ^ t.seed) * 0x9e3779b97f4a7c15
	x = (x ^ x>>29 ^ uint64(group)<<7 ^ t.seed>>5) * 0xbf58476d1ce4e5b9
	return uint32(x >> 32)
}
