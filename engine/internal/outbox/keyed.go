package outbox

import (
	"math/bits"
	"math/rand/v2"
	"unsafe"

	"millrace/engine/internal/bufpool"
)

// Key identifies pushes to one session of which only the newest is needed. Pushes with the same ID
// and different Scopes are independent.
type Key struct {
	ID    uint64
	Scope uint32 // 0 for the session's own
}

// keys finds the unsent pushes of a box by their keys. The box's lock guards it.
//
// It is a hash table with linear probing. The segs of a box are numbered as they are staged. A
// slot has the number of the newest push with its key. If that push has been written, the slot
// is stale and means the same as an empty one.
//
// The loop may read the frame of a seg that it has taken only under the lock, until fix has
// marked it as not to be replaced any more.
//
// Invariant: between a slot and its home there is no empty slot, and at least a quarter of the
// slots is empty.
type keys struct {
	slots    []slot // a power of two
	used     int    // slots that are not empty
	seed     uint64
	origin   uint64 // numbers in slots are relative to it
	first    uint64 // the number of the first seg that the loop has not taken
	live     uint64 // segs with lower numbers are written, or being written: their frames can't be replaced
	done     uint64 // segs with lower numbers are written
	replaced uint64 // pushes whose place a newer one took

	few [leastSlots]slot
}

// slot is 16 bytes, as a session that is far behind has one or two for each key.
type slot struct {
	id     uint64
	scope  uint32
	number uint32 // relative to origin, plus 1; 0: the slot is empty
}

const (
	leastSlots = 8
	slotSize   = int(unsafe.Sizeof(slot{}))
	keysSize   = int(unsafe.Sizeof(keys{}))

	// KeyCost is about what a keyed push costs beside ReferCost, in bytes.
	KeyCost = 2 * slotSize

	firstNumber = 1 << 40 // so that segs taken before the first key have numbers too
	maxNumber   = 1 << 30 // the largest number relative to origin; then rebuild moves origin
)

// PushKeyed replaces the unsent push with the same key by frame, in its place in the order, or stages
// frame at the end if there is none. It takes a reference of its own. cost is what a new one counts
// in Shared.Queued, in bytes. skip may be nil, and is as in Refer. limited: the limits of a Push
// apply.
func (o *Box) PushKeyed(sh *Shared, frame *bufpool.Buf, cost int, skip *bool, limited bool, key Key) Result {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || skip != nil && *skip {
		return Closed
	}
	old, taken := o.unsent(key)
	more := len(frame.B)
	if old != nil {
		more -= len(old.ref.B)
	}
	if limited && more > 0 {
		if r := o.admit(sh, more, Push); r != Staged {
			return r
		}
	}
	if old != nil {
		o.replace(sh, old, frame, more, taken)
		return Replaced
	}
	frame.Retain()
	o.refer(sh, frame)
	o.count(sh, len(frame.B), cost)
	k := o.keys(sh)
	k.put(sh, key, k.first+uint64(len(o.mixed.segs))-1)
	return o.staged(sh)
}

// unsent returns the seg of the newest push with that key if its frame can be replaced: no byte of it
// has been written or is being written. Else it returns nil. taken: the loop has taken the seg. mu is
// held.
func (o *Box) unsent(key Key) (g *seg, taken bool) {
	if o.mixed == nil || o.mixed.keys == nil {
		return nil, false
	}
	k := o.mixed.keys
	n, ok := k.find(key)
	switch {
	case !ok || n < k.live:
		return nil, false
	case n >= k.first:
		return &o.mixed.segs[n-k.first], false
	}
	segs := o.taken.segs
	return &segs[n-(k.first-uint64(len(segs)))], true
}

// replace replaces g's frame by one that is more bytes longer. mu is held.
func (o *Box) replace(sh *Shared, g *seg, frame *bufpool.Buf, more int, taken bool) {
	old := g.ref
	frame.Retain()
	g.ref = frame
	if taken {
		o.rest = uint32(int(o.rest) + more)
		o.taken.pushed += more
	} else {
		o.refs = uint32(int(o.refs) + more)
		o.pushed = uint32(int(o.pushed) + more)
	}
	o.mixed.keys.replaced++
	if held, last := old.Release(); last {
		sh.Budget.Add(-held)
	}
	if int64(o.size()) >= sh.Share.Load() {
		o.set(full)
	}
}

// keys returns the box's keys, which it makes if necessary. mu is held.
func (o *Box) keys(sh *Shared) *keys {
	if o.mixed.keys == nil {
		k := &keys{seed: rand.Uint64(), origin: firstNumber, first: firstNumber, live: firstNumber, done: firstNumber}
		k.slots = k.few[:]
		o.mixed.keys = k
		sh.Budget.Add(keysSize)
	}
	return o.mixed.keys
}

// Keyed reports whether the box has ever been given a keyed push.
func (o *Box) Keyed() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mixed != nil && o.mixed.keys != nil
}

// Replaced returns how many pushes were replaced by newer ones.
func (o *Box) Replaced() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mixed == nil || o.mixed.keys == nil {
		return 0
	}
	return o.mixed.keys.replaced
}

// collectKeyed is collect for a box with keys: pushes that are taken can be replaced until they are
// in the bytes returned here.
func (o *Box) collectKeyed(sh *Shared) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.collect(sh, keyedGather)
	o.fix(len(b) + 1) // + 1: a push that begins exactly where b ends too, as advance looks at it without the lock
	return b
}

// Loosen is called after a write that did not take all bytes. shown is how many of the bytes that it
// did not take the next write must begin with (netio.Door's Shown); pushes that begin after those
// can be replaced again. Loop goroutine.
func (o *Box) Loosen(shown int) {
	if o.taken == nil || !o.taken.keyed {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fix(shown)
}

// fix marks the taken segs that begin within the next n bytes as not to be replaced. mu is held.
func (o *Box) fix(n int) {
	k, t := o.mixed.keys, o.taken
	k.live = k.first - uint64(len(t.segs)-o.begun(n))
	k.done = k.first - uint64(len(t.segs)-max(t.k, 0))
}

// begun returns how many of the taken segs have frames of which a byte has been written, or is within
// the next n bytes. Loop goroutine.
func (o *Box) begun(n int) int {
	t, pos := o.taken, o.pos
	refOff, off := t.refOff, 0
	if t.own != nil {
		off = t.own.Off
	}
	for i := t.k; i < len(t.segs); i++ {
		at, to := t.bounds(i)
		if at > pos {
			n -= int(at - pos)
			pos = at
		}
		if i >= 0 && t.segs[i].ref != nil {
			if refOff == 0 && n <= 0 {
				return i
			}
			n -= len(t.segs[i].ref.B) - refOff
		}
		refOff = 0
		if to > off {
			n -= to - off
			off = to
		}
	}
	return len(t.segs)
}

// took is called when the loop takes n segs. Those that it took before are written.
func (k *keys) took(n int) {
	k.live, k.done = k.first, k.first
	k.first += uint64(n)
}

// home returns the index at which the search for a key's slot begins.
func (k *keys) home(id uint64, scope uint32) int {
	hi, lo := bits.Mul64(id^k.seed, uint64(scope)<<1^0x9E3779B97F4A7C15)
	return int((hi ^ lo) & uint64(len(k.slots)-1))
}

// find returns the number of the newest push with that key.
func (k *keys) find(key Key) (number uint64, ok bool) {
	for i := k.home(key.ID, key.Scope); ; i = (i + 1) & (len(k.slots) - 1) {
		switch s := &k.slots[i]; {
		case s.number == 0:
			return 0, false
		case s.id == key.ID && s.scope == key.Scope:
			return k.origin + uint64(s.number) - 1, true
		}
	}
}

// put stores the number of the newest push with that key.
func (k *keys) put(sh *Shared, key Key, number uint64) {
	if number-k.origin >= maxNumber {
		k.rebuild(sh)
	}
	if !k.set(key, number) {
		k.rebuild(sh)
		k.set(key, number)
	}
}

// set is put if the table has room for the key; else it returns false.
func (k *keys) set(key Key, number uint64) bool {
	for i := k.home(key.ID, key.Scope); ; i = (i + 1) & (len(k.slots) - 1) {
		s := &k.slots[i]
		fresh := s.number == 0
		if fresh && 4*(k.used+1) > 3*len(k.slots) {
			return false
		}
		if fresh || s.id == key.ID && s.scope == key.Scope {
			if fresh {
				k.used++
			}
			*s = slot{key.ID, key.Scope, uint32(number-k.origin) + 1}
			return true
		}
	}
}

// rebuild drops the stale slots, and makes a table of at least twice the size of the others.
func (k *keys) rebuild(sh *Shared) {
	live := 0
	for _, s := range k.slots {
		if s.number != 0 && k.origin+uint64(s.number) > k.done {
			live++
		}
	}
	size := leastSlots
	for size < 2*(live+1) {
		size *= 2
	}
	old, origin := k.slots, k.origin
	if few := k.few; len(old) == leastSlots {
		old = few[:]
	}
	if size == leastSlots {
		k.few = [leastSlots]slot{}
		k.slots = k.few[:]
	} else {
		k.slots = make([]slot, size)
	}
	k.used, k.origin = 0, k.done
	for _, s := range old {
		if n := origin + uint64(s.number); s.number != 0 && n > k.done {
			k.set(Key{s.id, s.scope}, n-1)
		}
	}
	k.resized(sh, len(old))
}

// resized adds the change of the slots' memory to the budget; before is their former number.
func (k *keys) resized(sh *Shared, before int) {
	sh.Budget.Add(slotSize * (len(k.slots) - before))
}

// clear drops every key, and the memory of a large table.
func (k *keys) clear(sh *Shared) {
	if k.used == 0 && len(k.slots) == leastSlots {
		return
	}
	before := len(k.slots)
	k.few = [leastSlots]slot{}
	k.slots, k.used = k.few[:], 0
	k.resized(sh, before)
}

// memory returns the bytes that the keys use.
func (k *keys) memory() int { return keysSize + slotSize*(len(k.slots)-leastSlots) }
