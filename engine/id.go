package engine

import (
	"fmt"

	"millrace/engine/internal/registry"
)

// ID identifies one session for all time: by its slot's index and the round of that slot. The zero
// ID identifies none, as rounds start at 1.
type ID uint64

func makeID(index, round uint32) ID { return ID(round)<<32 | ID(index) }

// Index returns the slot. Later sessions reuse it.
func (id ID) Index() uint32 { return uint32(id) }

// Round returns the number of the session among those of the slot. It only increases, and is never
// 0.
func (id ID) Round() uint32 { return uint32(id >> 32) }

func (id ID) String() string { return fmt.Sprintf("%d.%d", id.Index(), id.Round()) }

func (id ID) key() registry.Key { return registry.Key{Index: id.Index(), Round: id.Round()} }
