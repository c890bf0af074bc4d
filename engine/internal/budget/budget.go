// Package budget counts the memory that sessions hold against a limit, and says how
// much each may hold while the limit is exceeded.
package budget

import "sync/atomic"

// Level is how much of a budget is used.
type Level int32

const (
	Free  Level = iota
	Tight       // the limit has been exceeded, and not yet half of it is free again
	Spent       // it has been exceeded by a quarter, and not yet is all of that free again
)

// Budget is one server's count. It never refuses: who holds memory asks for the level,
// and stops taking more.
type Budget struct {
	limit atomic.Int64
	moved func(Level)
	level atomic.Int32
	_     [64]byte // what all write apart from what all read
	used  atomic.Int64
	peak  atomic.Int64 // the most since TakePeak, about: it is not kept exactly among many
}

// New makes a budget of limit bytes. moved, if not nil, is called with each new level, on
// the goroutine whose Add brought it about, which may hold locks: it must not block.
func New(limit int, moved func(Level)) *Budget {
	b := &Budget{moved: moved}
	b.limit.Store(int64(limit))
	return b
}

// SetLimit changes the limit. The level follows what it says of what is used now.
func (b *Budget) SetLimit(limit int) {
	b.limit.Store(int64(limit))
	b.Add(0)
}

// Add counts n more bytes, or fewer.
func (b *Budget) Add(n int) {
	used := b.used.Add(int64(n))
	if used > b.peak.Load() {
		b.peak.Store(used)
	}
	for {
		now := Level(b.level.Load())
		next := b.next(now, used)
		if next == now {
			return
		}
		if b.level.CompareAndSwap(int32(now), int32(next)) && b.moved != nil {
			b.moved(next)
		}
		used = b.used.Load() // another Add may have passed by
	}
}

func (b *Budget) next(now Level, used int64) Level {
	switch limit := b.limit.Load(); {
	case used > limit+limit/4:
		return Spent
	case used > limit:
		return max(now, Tight)
	case now > Free && used > limit/2:
		return Tight
	}
	return Free
}

// Used is what is held now, in bytes.
func (b *Budget) Used() int { return int(b.used.Load()) }

// TakePeak is about the most that was held since it was called last.
func (b *Budget) TakePeak() int { return int(b.peak.Swap(b.used.Load())) }

// Limit is the limit in bytes.
func (b *Budget) Limit() int { return int(b.limit.Load()) }

// Level is how much is used.
func (b *Budget) Level() Level { return Level(b.level.Load()) }

// Share is what one of n sessions may hold at a level: the largest are stopped first, and
// when the budget is spent whoever holds anything is. most is for when there is room.
func (b *Budget) Share(at Level, n, most int) int {
	switch at {
	case Free:
		return most
	case Tight:
		return int(min(max(b.limit.Load()/int64(max(n, 1)), 1), int64(most)))
	}
	return 1
}
