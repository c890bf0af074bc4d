package timerwheel

import "sync/atomic"

// Slots come at three levels: a slot of level 0 holds the timers of one tick,
// of level 1 those of 256 ticks, of level 2 those of 65,536. A slot's key is
// its tick shifted right by 8 x level. Level 0 takes the timers due in this
// block of 256 ticks or the next, level 1 those of this block of 65,536 or the
// next, level 2 the rest, so a ring of 512 slots a level is enough. A coarse
// slot expires one of its own periods early, and its timers cascade to finer
// ones: that leaves a whole period for doing so in small steps.
const (
	levels   = 3
	ringBits = 9
	ringLen  = 1 << ringBits
	ringMask = ringLen - 1
	fanBits  = 8
)

// place returns the level and key of a timer that is due at dueTick.
func place(dueTick, nowTick int64) (level int, key int64) {
	switch {
	case dueTick>>fanBits <= nowTick>>fanBits+1:
		return 0, dueTick
	case dueTick>>(2*fanBits) <= nowTick>>(2*fanBits)+1:
		return 1, dueTick >> fanBits
	}
	// Beyond the ring (nine hours of 1 ms ticks): it cascades from the last slot.
	return 2, min(dueTick>>(2*fanBits), nowTick>>(2*fanBits)+ringLen-1)
}

// expiry is the tick at which the slot expires.
func expiry(level int, key int64) int64 {
	if level == 0 {
		return key
	}
	return (key - 1) << (level * fanBits)
}

// lastExpired is the highest key of the level that has expired at nowTick.
func lastExpired(level int, nowTick int64) int64 {
	if level == 0 {
		return nowTick
	}
	return nowTick>>(level*fanBits) + 1
}

func slotOf(level int, key int64) uint32 {
	return uint32(level)<<ringBits | uint32(key&ringMask)
}

func levelOf(slot uint32) int { return int(slot >> ringBits) }

// slots records for each slot when it is to expire. A goroutine that puts a timer on a slot arms
// it, under its shard's lock; the driver disarms the slot before it locks the first shard to empty
// it.
type slots struct {
	tick    int64                      // ns
	request func(level int, key int64) // has the slot brought up
	_       [64]byte
	keys    [levels * ringLen]atomic.Int64 // the key plus 1; 0 is not armed
}

// arm makes sure that the slot expires for key, or sooner.
func (s *slots) arm(level int, key int64) {
	a := &s.keys[slotOf(level, key)]
	for {
		v := a.Load()
		if v != 0 && v <= key+1 {
			return
		}
		if a.CompareAndSwap(v, key+1) {
			s.request(level, key)
			return
		}
	}
}

// armed reports whether the slot is armed, and for which key.
func (s *slots) armed(slot uint32) (key int64, ok bool) {
	v := s.keys[slot].Load()
	return v - 1, v != 0
}

// disarm undoes what armed found. It returns false if that has changed meanwhile.
func (s *slots) disarm(slot uint32, key int64) bool {
	return s.keys[slot].CompareAndSwap(key+1, 0)
}

func (s *slots) disarmAll() {
	for i := range s.keys {
		s.keys[i].Store(0)
	}
}

// requestAll requests the armed slots of the first n again.
func (s *slots) requestAll(n int) {
	for slot := range uint32(n) {
		if key, ok := s.armed(slot); ok {
			s.request(levelOf(slot), key)
		}
	}
}

// expiresBefore reports whether the slot expires no later than due. A slot with
// timers that is not armed is being emptied, or about to be: of level 0, at once.
func (s *slots) expiresBefore(slot uint32, due int64) bool {
	key, ok := s.armed(slot)
	if !ok {
		return slot < ringLen
	}
	return expiry(levelOf(slot), key)*s.tick < due+s.tick
}

// overdue reports whether one of the slots from the given one up should have
// expired before tick and has not.
func (s *slots) overdue(from uint32, tick int64) bool {
	for slot := from; slot < levels*ringLen; slot++ {
		if key, ok := s.armed(slot); ok && expiry(levelOf(slot), key) < tick {
			return true
		}
	}
	return false
}
