package outbox

import (
	"math/bits"
	"math/rand/v2"
	"unsafe"

	"millrace/engine/internal/bufpool"
)

// Key names pushes to one session of which only the newest is of use. Pushes with the same
// ID and another Scope have nothing to do with each other.
type Key struct {
	ID    uint64
	Scope uint32 // 0 for the session's own
}

// keys finds the unsent pushes of a box by their keys. The box's lock guards it.
//
// The segs of a box are numbered as they are staged. A slot has the number of the newest
// push with its key, and that push may have been written long ago: then the slot is stale,
// and has the same to say as an empty one.
//
// The loop looks at the frame of a seg that it has taken only under the lock, until fix has
// said that it stays.
//
// Invariant: no slot is further from its home than the nearest empty one behind that, and
// at least a quarter of them is empty.
type keys struct {
	slots    []slot // a power of two
	used     int    // slots that are not empty
	seed     uint64
	origin   uint64 // what numbers in slots count from
	first    uint64 // the number of the first seg that the loop has not taken
	live     uint64 // below it segs are written, or being written; the others' frames may change
	done     uint64 // below it segs are written
	replaced uint64 // pushes whose place a newer one took

	few [leastSlots]slot
}

// slot is 16 bytes, as a session that is far behind has one or two for each key.
type slot struct {
	id     uint64
	scope  uint32
	number uint32 // from origin, and 1; 0: the slot is empty
}

const (
	leastSlots = 8
	slotSize   = int(unsafe.Sizeof(slot{}))
	keysSize   = int(unsafe.Sizeof(keys{}))

	// KeyCost is about what a keyed push costs beside ReferCost, in bytes.
	KeyCost = 2 * slotSize

	firstNumber = 1 << 40 // the loop may have taken segs before the first key
	maxNumber   = 1 << 30 // from the origin, before there is a new one
)

// PushKeyed stages a frame in the place of the unsent one with the same key, and adds it at
// the end if there is none. It takes a reference. cost is what a new one counts in
// Shared.Queued; skip, which Atomically may set, leaves the session out after all. limited:
// it is refused as Send refuses a Push.
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

// unsent is the seg of the newest push with that key, if not a byte of it has been written
// or is about to be; nil: there is none. taken: the loop has it. mu is held.
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

// replace puts a frame in the place of g's, which is more bytes shorter. mu is held.
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
		o.full.Store(true)
	}
}

// keys is the box's, made when it first needs one. mu is held.
func (o *Box) keys(sh *Shared) *keys {
	if o.mixed.keys == nil {
		k := &keys{seed: rand.Uint64(), origin: firstNumber, first: firstNumber, live: firstNumber, done: firstNumber}
		k.slots = k.few[:]
		o.mixed.keys = k
		sh.Budget.Add(keysSize)
	}
	return o.mixed.keys
}

// Keyed tells whether the box has ever been given a keyed push.
func (o *Box) Keyed() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.mixed != nil && o.mixed.keys != nil
}

// Replaced is how many pushes were replaced by newer ones.
func (o *Box) Replaced() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.mixed == nil || o.mixed.keys == nil {
		return 0
	}
	return o.mixed.keys.replaced
}

// collectKeyed is collect where pushes that are taken may be replaced until they are in what
// it returns.
func (o *Box) collectKeyed(sh *Shared) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	b := o.collect(sh, keyedGather)
	o.fix(len(b) + 1) // to go past what b ends with is to look at what follows
	return b
}

// Loosen says, when a write has ended early, with how many bytes the next one has to begin
// that the last would have gone on with: what stands behind them may be replaced again. Loop
// goroutine.
func (o *Box) Loosen(shown int) {
	if o.taken == nil || !o.taken.keyed {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fix(shown)
}

// fix has what is taken and begins within the next n bytes not be replaced. mu is held.
func (o *Box) fix(n int) {
	k, t := o.mixed.keys, o.taken
	k.live = k.first - uint64(len(t.segs)-o.begun(n))
	k.done = k.first - uint64(len(t.segs)-max(t.k, 0))
}

// begun is how many of the segs that are taken have frames of which something has been
// written, or is within the next n bytes. Loop goroutine.
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

// took notes that the loop takes n segs; those that it took before are written.
func (k *keys) took(n int) {
	k.live, k.done = k.first, k.first
	k.first += uint64(n)
}

// home is where a key's slot is looked for first.
func (k *keys) home(id uint64, scope uint32) int {
	hi, lo := bits.Mul64(id^k.seed, uint64(scope)<<1^0x9E3779B97F4A7C15)
	return int((hi ^ lo) & uint64(len(k.slots)-1))
}

// find is the number of the newest push with that key.
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

// put notes the number of a push that is the newest with its key.
func (k *keys) put(sh *Shared, key Key, number uint64) {
	if number-k.origin >= maxNumber {
		k.rebuild(sh)
	}
	if !k.set(key, number) {
		k.rebuild(sh)
		k.set(key, number)
	}
}

// set is put where there is room for the key.
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

// rebuild drops what is stale, with twice the room for what is not.
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

// resized counts the memory of the slots, of which there were so many before.
func (k *keys) resized(sh *Shared, before int) {
	sh.Budget.Add(slotSize * (len(k.slots) - before))
}

// clear forgets every key, and gives back the memory that many took.
func (k *keys) clear(sh *Shared) {
	if k.used == 0 && len(k.slots) == leastSlots {
		return
	}
	before := len(k.slots)
	k.few = [leastSlots]slot{}
	k.slots, k.used = k.few[:], 0
	k.resized(sh, before)
}

// memory is what the keys take, in bytes.
func (k *keys) memory() int { return keysSize + slotSize*(len(k.slots)-leastSlots) }
