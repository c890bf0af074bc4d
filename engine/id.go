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
