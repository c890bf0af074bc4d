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
	Tight       // the limit has been exceeded, and since then more than half of it was always used
	Spent       // the limit is exceeded by more than a quarter
)

// Budget counts one server's memory. It never refuses anything: those who hold memory check the level,
// and stop taking more.
//
// Part makes a Budget that adds to the same count. It is for those who add often, such as a loop and
// the workers that run its sessions, so that they don't all write to the same memory: a part keeps
// small sums to itself and adds them later. So the level is computed from a figure that may be off by
// a 64th of the limit, for all parts together. Used is exact. Any goroutine may use a Budget.
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
	slack atomic.Int64 // how many bytes each part may keep to itself
	moved func(Level)
	level atomic.Int32
	parts atomic.Pointer[[]*Budget] // copied on write
	mu    sync.Mutex                // Part and SetLimit
	_     [64]byte                  // what all write apart from what all read
	used  atomic.Int64              // without what parts keep back
	peak  atomic.Int64              // the most since TakePeak, about: it is not kept exactly among many
}

// slackShare: all parts together may keep the limit divided by this to themselves.
const slackShare = 64

// New makes a budget of limit bytes. moved, if not nil, is called with each new level, on
// the goroutine whose Add brought it about, which may hold locks: it must not block.
func New(limit int, moved func(Level)) *Budget {
	b := &Budget{count: &count{moved: moved}}
	b.limit.Store(int64(limit))
	b.parts.Store(&[]*Budget{})
	return b
}

// Part makes one more part, which can't be removed.
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

// divide computes slack. mu is held.
func (c *count) divide() {
	c.slack.Store(c.limit.Load() / slackShare / int64(max(len(*c.parts.Load()), 1)))
}

// SetLimit changes the limit, in bytes, and updates the level.
func (b *Budget) SetLimit(limit int) {
	b.mu.Lock()
	b.limit.Store(int64(limit))
	b.count.divide()
	b.mu.Unlock()
	b.count.settle()
}

// settle adds what the parts keep to themselves, which may exceed a new slack.
func (c *count) settle() {
	for _, p := range *c.parts.Load() {
		c.add(p.held.Swap(0))
	}
	c.add(0)
}

// Add adds n bytes, which may be negative.
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

// Used returns the bytes held now. It sums all parts, without a lock: bytes that move from one to
// another meanwhile may be counted twice, or not at all.
func (b *Budget) Used() int {
	n := b.used.Load()
	for _, p := range *b.parts.Load() {
		n += p.held.Load()
	}
	return int(n)
}

// About returns Used approximately, with one load: the figure from which the level is computed. With
// parts it may be off by a 64th of the limit.
func (b *Budget) About() int { return int(b.used.Load()) }

// TakePeak returns approximately the most that was held since the last call.
func (b *Budget) TakePeak() int { return int(b.peak.Swap(b.used.Load())) }

// Limit returns the limit in bytes.
func (b *Budget) Limit() int { return int(b.limit.Load()) }

// Level returns the present level.
func (b *Budget) Level() Level { return Level(b.level.Load()) }

// Share returns how many bytes one of n sessions may hold at a level: most when Free; an equal share of
// the limit when Tight, so that the largest sessions are stopped first; 1 when Spent, which stops
// each that holds anything.
func (b *Budget) Share(at Level, n, most int) int {
	switch at {
	case Free:
		return most
	case Tight:
		return int(min(max(b.limit.Load()/int64(max(n, 1)), 1), int64(most)))
	}
	return 1
}
