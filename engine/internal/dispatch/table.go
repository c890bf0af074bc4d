// Package dispatch decides where a handle's packets run: on the loop that has read them,
// or on a worker. It knows handles and how long they took, and nothing else.
package dispatch

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Mode says where packets run.
type Mode uint8

const (
	Adaptive Mode = iota // on the loop once the handle has shown itself quick
	Ordered              // on the workers
	Inline               // on the loop
)

// Table remembers how each handle is dispatched: what was fixed, and what was learned.
// Any goroutine may use it; only Fix takes a lock. Learned handles give way to others
// when it is full, fixed ones make it grow.
type Table struct {
	slots atomic.Pointer[slots]
	epoch time.Time

	mu    sync.Mutex
	fixed map[uint32]Mode // guarded by mu; Ordered and Inline ones
}

// New makes a table with these handles fixed, as Fix does.
func New(fixed map[uint32]Mode) *Table {
	t := &Table{epoch: time.Now(), fixed: maps.Clone(fixed)}
	if t.fixed == nil {
		t.fixed = map[uint32]Mode{}
	}
	maps.DeleteFunc(t.fixed, func(_ uint32, m Mode) bool { return m == Adaptive })
	t.rebuild()
	return t
}

// Fix sets where a handle's packets run from now on; Adaptive takes that back, and the
// handle has to be learned. What was learned of others stays.
func (t *Table) Fix(handle uint32, m Mode) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m == Adaptive {
		delete(t.fixed, handle)
	} else {
		t.fixed[handle] = m
	}
	t.rebuild()
}

// rebuild makes the smallest table that holds what is fixed, and takes over what was
// learned. mu is held, or the table is new.
func (t *Table) rebuild() {
	bits := uint(8)
	s := makeSlots(bits, t.fixed)
	for s == nil {
		bits++
		s = makeSlots(bits, t.fixed)
	}
	if old := t.slots.Load(); old != nil {
		for i := range old.at {
			e := entry(old.at[i].Load())
			if _, fixed := t.fixed[e.handle()]; !fixed && e.learned() {
				s.place(e)
			}
		}
	}
	t.slots.Store(s)
}

// Inline tells whether a handle's packets run on the loop, where mode holds for those
// that are not fixed.
func (t *Table) Inline(handle uint32, mode Mode) bool {
	e, _ := t.slots.Load().get(handle)
	switch e.kind() {
	case kindOrdered:
		return false
	case kindInline:
		return true
	}
	return mode == Inline || mode == Adaptive && e.kind() == kindQuick
}

// Ordered tells whether a handle is fixed on the workers.
func (t *Table) Ordered(handle uint32) bool {
	e, _ := t.slots.Load().get(handle)
	return e.kind() == kindOrdered
}

// AnyInline tells whether any packet may run on a loop.
func (t *Table) AnyInline(mode Mode) bool { return mode != Ordered || t.slots.Load().inline }

// second is the time for strikes, modulo 1<<16.
func (t *Table) second() uint16 { return uint16(time.Since(t.epoch) / time.Second) }

// slots is an open-addressed table of packed entries, read without a lock.
type slots struct {
	at     []atomic.Uint64
	shift  uint
	inline bool // a handle is fixed on the loop
}

// An entry: handle in the upper half, then kind, backoff, strikes, slow turns and a
// count of runs; of a quick one instead of that the second of the last strike.
type entry uint64

const (
	kindNone    = iota
	kindLearn   // counts quick runs
	kindQuick   // goes inline
	kindOrdered // fixed on the workers
	kindInline  // fixed on the loop
)

func makeEntry(handle uint32, kind, backoff, strikes, slow uint8, runs uint16) entry {
	return entry(handle)<<32 | entry(kind&15)<<28 | entry(backoff&15)<<24 | entry(strikes&7)<<21 | entry(slow&31)<<16 | entry(runs)
}

func (e entry) handle() uint32 { return uint32(e >> 32) }
func (e entry) kind() uint8    { return uint8(e>>28) & 15 }
func (e entry) backoff() uint8 { return uint8(e>>24) & 15 }
func (e entry) strikes() uint8 { return uint8(e>>21) & 7 }
func (e entry) slow() uint8    { return uint8(e>>16) & 31 }
func (e entry) runs() uint16   { return uint16(e) }
func (e entry) learned() bool  { return e.kind() == kindLearn || e.kind() == kindQuick }

const probes = 8 // how many neighbouring slots an entry may stand in

// makeSlots makes a table of 1<<bits; nil when there is no room for what is fixed.
func makeSlots(bits uint, fixed map[uint32]Mode) *slots {
	s := &slots{at: make([]atomic.Uint64, 1<<bits+probes), shift: 32 - bits}
	for h, m := range fixed {
		kind := uint8(kindOrdered)
		if m == Inline {
			kind, s.inline = kindInline, true
		}
		if !s.place(makeEntry(h, kind, 0, 0, 0, 0)) {
			return nil
		}
	}
	return s
}

func (s *slots) home(handle uint32) int { return int(handle * 0x9E3779B1 >> s.shift) }

// get finds a handle's entry and its slot; 0 and -1 when there is none.
func (s *slots) get(handle uint32) (entry, int) {
	h := s.home(handle)
	for i := h; i < h+probes; i++ {
		e := entry(s.at[i].Load())
		if e == 0 {
			break
		}
		if e.handle() == handle {
			return e, i
		}
	}
	return 0, -1
}

// place stores an entry. Without room another is thrown out and has to be learned
// again: one that is being learned, else one that was; so handles that nobody serves
// can't keep the table from those that are.
func (s *slots) place(e entry) bool {
	h := s.home(e.handle())
	for i := h; i < h+probes; i++ {
		old := entry(s.at[i].Load())
		if old == 0 || old.handle() == e.handle() {
			return s.at[i].CompareAndSwap(uint64(old), uint64(e))
		}
	}
	for _, weak := range []uint8{kindLearn, kindQuick} {
		for i := range probes {
			at := h + (i+int(e.handle()%probes))%probes // not always the same one's turn
			if old := entry(s.at[at].Load()); old.kind() == weak {
				return s.at[at].CompareAndSwap(uint64(old), uint64(e))
			}
		}
	}
	return false
}

// replace changes an entry that get has found; false when it has changed meanwhile.
func (s *slots) replace(at int, old, e entry) bool {
	return old == e || s.at[at].CompareAndSwap(uint64(old), uint64(e))
}
