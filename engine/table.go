package engine

import (
	"fmt"

	"millrace/engine/internal/registry"
)

// ID names one session for good: its slot's index and the round of that slot. The
// zero ID names none, as rounds start at 1.
type ID uint64

func makeID(index, round uint32) ID { return ID(round)<<32 | ID(index) }

// Index is the slot. It is used again by a later session.
func (id ID) Index() uint32 { return uint32(id) }

// Round counts the sessions that the slot has had. It only grows, and is never 0.
func (id ID) Round() uint32 { return uint32(id >> 32) }

func (id ID) String() string { return fmt.Sprintf("%d.%d", id.Index(), id.Round()) }

func (id ID) key() registry.Key { return registry.Key{Index: id.Index(), Round: id.Round()} }

// table maps IDs to the sessions that have a slot.
type table struct{ sessions registry.Table[Session] }

func newTable(n int) *table {
	t := &table{}
	t.open(n)
	return t
}

// open gives the table its n slots, once.
func (t *table) open(n int) { t.sessions.Open(n) }

// acquire gives s a slot and its ID; false when none is free.
func (t *table) acquire(s *Session) bool {
	return t.sessions.Acquire(s, func(k registry.Key) { s.id = makeID(k.Index, k.Round) })
}

// release takes the slot back once the session has ended altogether.
func (t *table) release(s *Session) { t.sessions.Release(s.id.key()) }

// lookup returns the session with this ID, or nil if it has gone.
func (t *table) lookup(id ID) *Session { return t.sessions.Lookup(id.key()) }

func (t *table) count() int { return t.sessions.Count() }

// each calls fn for the sessions that are there, until it returns false.
func (t *table) each(fn func(*Session) bool) { t.sessions.Each(fn) }
