package timerwheel

// Slots come in three granularities: a level-0 slot holds the timers of one
// tick, level 1 of 256 ticks, level 2 of 65,536. A slot's key is its tick
// shifted right by 8 x level. Level 0 takes the timers due in this block of
// 256 ticks or the next, level 1 those of this or the next 65,536, level 2 the
// rest; so a ring of 512 slots a level is enough. A coarse slot comes up one
// of its own periods early and re-hangs its entries finer, which leaves a whole
// period for doing that in small steps.
const (
	levels   = 3
	ringBits = 9
	ringLen  = 1 << ringBits
	ringMask = ringLen - 1
	fanBits  = 8
)

// where says which level and key a timer due at dueTick hangs on.
func where(dueTick, nowTick int64) (level int, key int64) {
	switch {
	case dueTick>>fanBits <= nowTick>>fanBits+1:
		return 0, dueTick
	case dueTick>>(2*fanBits) <= nowTick>>(2*fanBits)+1:
		return 1, dueTick >> fanBits
	}
	// Beyond the ring (nine hours of 1 ms ticks): the last slot re-hangs it.
	return 2, min(dueTick>>(2*fanBits), nowTick>>(2*fanBits)+ringLen-1)
}

// upAt is the tick at which the slot comes up.
func upAt(level int, key int64) int64 {
	if level == 0 {
		return key
	}
	return (key - 1) << (level * fanBits)
}

// lastUp is the highest key of the level that has come up at nowTick.
func lastUp(level int, nowTick int64) int64 {
	if level == 0 {
		return nowTick
	}
	return nowTick>>(level*fanBits) + 1
}

func slotOf(level int, key int64) uint32 {
	return uint32(level)<<ringBits | uint32(key&ringMask)
}

// A ring is one slot's circular list of entries in one shard. Guarded by the
// shard's mutex.
type ring struct {
	head uint32
	n    uint32
}

// push appends e at the tail, so that a slot keeps the order of setting.
func (r *ring) push(s *slab, i uint32, e *entry) {
	if r.head == 0 {
		e.next, e.prev = i, i
		r.head = i
	} else {
		h := s.at(r.head)
		e.next, e.prev = r.head, h.prev
		s.at(h.prev).next = i
		h.prev = i
	}
	r.n++
}

func (r *ring) remove(s *slab, i uint32, e *entry) {
	if e.next == i {
		r.head = 0
	} else {
		s.at(e.prev).next = e.next
		s.at(e.next).prev = e.prev
		if r.head == i {
			r.head = e.next
		}
	}
	e.next, e.prev = 0, 0
	r.n--
}
