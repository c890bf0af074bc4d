package engine

import (
	"millrace/engine/internal/registry"
)

// table maps IDs to the sessions that have a slot.
type table struct{ sessions registry.Table[Session] }

func newTable(n int) *table {
	t := &table{}
	t.open(n)
	return t
}

// open allocates the table's n slots, once.
func (t *table) open(n int) { t.sessions.Open(n) }

// acquire gives s a slot and its ID; false if none is free.
func (t *table) acquire(s *Session) bool {
	return t.sessions.Acquire(s, func(k registry.Key) { s.id = makeID(k.Index, k.Round) })
}

// release frees the slot when the session has ended.
func (t *table) release(s *Session) { t.sessions.Release(s.id.key()) }

// lookup returns the session with this ID, or nil if it has closed.
func (t *table) lookup(id ID) *Session { return t.sessions.Lookup(id.key()) }

func (t *table) count() int { return t.sessions.Count() }

// each calls fn for the present sessions, until it returns false.
func (t *table) each(fn func(*Session) bool) { t.sessions.Each(fn) }
