// Package budget counts the memory that sessions hold against a limit, and says how
// much each may hold while the limit is exceeded.
package budget

import (
	"slices"
	"sync"
	"sync/atomic"

	"millrace/internal/tally"
)

// Level is how much of a budget is used.
type Level int32

const (
	Free  Level = iota
	Tight       // the limit has been exceeded, and not yet half of it is free again
	Spent       // it has been exceeded by a quarter, and not yet is all of that free again
)

// Budget is one server's count. It never refuses: who holds memory asks for the level,
// and stops taking more.
//
// A Budget that Part has made counts into the same: it is for those who add often, as a loop
// and the workers that run its sessions, so that they write to memory of their own. It keeps
// back what it was told of last, so that the level goes by a figure that is off by a 64th of
// the limit at most, all parts together. Used is exact.
type Budget struct {
	*count
	part bool
	_    [64]byte // what one part writes apart from what others do
	held atomic.Int64
	_    [64]byte
}

// count is what the parts of a budget share.
type count struct {
	limit atomic.Int64
	slack atomic.Int64 // what each part may keep back
	moved func(Level)
	level atomic.Int32
	parts atomic.Pointer[[]*Budget] // copied on write
	mu    sync.Mutex                // Part and SetLimit
	_     [64]byte                  // what all write apart from what all read
	used  atomic.Int64              // without what parts keep back
	peak  atomic.Int64              // the most since TakePeak, about: it is not kept exactly among many
}

// slackShare is what part of the limit all parts together may keep back.
const slackShare = 64

// New makes a budget of limit bytes. moved, if not nil, is called with each new level, on
// the goroutine whose Add brought it about, which may hold locks: it must not block.
func New(limit int, moved func(Level)) *Budget {
	b := &Budget{count: &count{moved: moved}}
	b.limit.Store(int64(limit))
	b.parts.Store(&[]*Budget{})
	return b
}

// Part makes one more part, for good.
func (b *Budget) Part() *Budget {
	b.mu.Lock()
	p := &Budget{count: b.count, part: true}
	parts := append(slices.Clone(*b.parts.Load()), p)
	b.parts.Store(&parts)
	b.count.divide()
	b.mu.Unlock()
	b.count.settle()
	return p
}

// divide says what each part may keep back. mu is held.
func (c *count) divide() {
	c.slack.Store(c.limit.Load() / slackShare / int64(max(len(*c.parts.Load()), 1)))
}

// SetLimit changes the limit. The level follows what it says of what is used now.
func (b *Budget) SetLimit(limit int) {
	b.mu.Lock()
	b.limit.Store(int64(limit))
	b.count.divide()
	b.mu.Unlock()
	b.count.settle()
}

// settle counts what parts keep back, which may be more than they now may.
func (c *count) settle() {
	for _, p := range *c.parts.Load() {
		c.add(p.held.Swap(0))
	}
	c.add(0)
}

// Add counts n more bytes, or fewer.
func (b *Budget) Add(n int) {
	if !b.part {
		b.count.add(int64(n))
		return
	}
	held, slack := b.held.Add(int64(n)), b.slack.Load()
	if held > slack || held < -slack {
		b.count.add(b.held.Swap(0))
	}
}

func (b *count) add(n int64) {
	tally.Note("budget")
	used := b.used.Add(n)
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

func (b *count) next(now Level, used int64) Level {
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

// Used is what is held now, in bytes. It looks at all parts: what goes from one to another
// meanwhile may be counted twice, or not at all.
func (b *Budget) Used() int {
	n := b.used.Load()
	for _, p := range *b.parts.Load() {
		n += p.held.Load()
	}
	return int(n)
}

// About is Used by what the level goes by: one look, and off by a 64th of the limit at most
// where there are parts.
func (b *Budget) About() int { return int(b.used.Load()) }

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
