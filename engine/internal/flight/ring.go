package flight

import (
	"millrace/internal/tally"
)

// Events is how many events a ring holds.
const Events = 28

// Event is one entry of a ring, unpacked.
type Event struct {
	At    int64 // in nanoseconds, rounded down to microseconds; if Count > 1, of the first
	Kind  Kind
	Count int // how many events it stands for
	A, B  uint32
}

// slot is an event as a ring holds it: 46 bits of microseconds, 13 of count, 5 of kind.
type slot struct {
	head uint64
	a, b uint32
}

const (
	kindBits  = 5
	countBits = 13
	atBits    = 64 - kindBits - countBits // microseconds: enough for two years
	mostCount = 1<<countBits - 1
)

func pack(now int64, k Kind, count int, a, b uint32) slot {
	return slot{uint64(now/1000)<<(kindBits+countBits) | uint64(count)<<kindBits | uint64(k), a, b}
}

func (s slot) kind() Kind { return Kind(s.head & (1<<kindBits - 1)) }
func (s slot) count() int { return int(s.head >> kindBits & mostCount) }
func (s slot) at() int64  { return int64(s.head>>(kindBits+countBits)) * 1000 }
func (s slot) event() Event {
	return Event{At: s.at(), Kind: s.kind(), Count: s.count(), A: s.a, B: s.b}
}

// Saved is a copy of what a ring held.
type Saved struct {
	n  uint64 // events ever
	at [Events]slot
}

// Ring holds the last events of one session. The zero Ring is empty and ready; any
// goroutine may use it. It is 480 bytes, which is a size of the allocator's.
type Ring struct {
	mu     tally.Mutex
	queued int64 // guarded by mu; since when the session waits for a worker; 0: it does not

	// Cut is for the owner's use; it is here because the struct has room for it.
	Cut uint32

	Saved // guarded by mu
}

// add appends an event. mu is held.
func (r *Ring) add(s slot) {
	r.at[r.n%Events] = s
	r.n++
}

// last is the newest event; nil when there is none. mu is held.
func (r *Ring) last() *slot {
	if r.n == 0 {
		return nil
	}
	return &r.at[(r.n-1)%Events]
}

// Add adds an event. If the newest event is the same, only that one's count grows.
func (r *Ring) Add(now int64, k Kind, a, b uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.last(); l != nil && l.kind() == k && l.a == a && l.b == b && l.count() < mostCount {
		l.head += 1 << kindBits
		return
	}
	r.add(pack(now, k, 1, a, b))
}

// Sum adds count events whose b together is b: to the newest event if that has the same kind and a, else
// as a new one.
func (r *Ring) Sum(now int64, k Kind, a, b uint32, count int) {
	count = min(count, mostCount)
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.last(); l != nil && l.kind() == k && l.a == a && l.count()+count <= mostCount && l.b+b >= b {
		l.head += uint64(count) << kindBits
		l.b += b
		return
	}
	r.add(pack(now, k, count, a, b))
}

// Queue notes that the session waits for a worker.
func (r *Ring) Queue(now int64) {
	r.mu.Lock()
	r.queued = now
	r.mu.Unlock()
}

// Begin adds the beginning of a worker's turn. It returns the argument for End.
func (r *Ring) Begin(now int64) (turn uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wait := uint32(0)
	if r.queued != 0 {
		wait = micros(now - r.queued)
		r.queued = 0
	}
	r.add(pack(now, Work, 1, wait, Running))
	return r.n - 1
}

// End sets the length of a turn, if the ring still holds it.
func (r *Ring) End(turn uint64, now int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if s := &r.at[turn%Events]; turn < r.n && r.n-turn <= Events {
		s.b = micros(now - s.at())
	}
}

// micros converts nanoseconds to an event's microseconds.
func micros(d int64) uint32 { return uint32(min(max(d/1000, 0), int64(Running)-1)) }

// Save copies the ring to to.
func (r *Ring) Save(to *Saved) {
	r.mu.Lock()
	*to = r.Saved
	r.mu.Unlock()
}

// Events appends the events to dst, oldest first. lost is how many older ones were overwritten.
func (s *Saved) Events(dst []Event) (events []Event, lost uint64) {
	if s.n > Events {
		lost = s.n - Events
	}
	for i := lost; i < s.n; i++ {
		dst = append(dst, s.at[i%Events].event())
	}
	return dst, lost
}
