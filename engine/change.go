package engine

import (
	"slices"
	"sync"
)

// changes are the framings of a session's unwritten output: between two divisions of its outbox the
// framing is constant.
type changes struct {
	mu     sync.Mutex // held while frames are encoded and staged, if the framing may change
	list   []*framing // guarded by mu; in the order of the output; nil if there was no change
	passed uint64     // guarded by mu; number of divisions before the first
}

// addLocked records a change, after a new division or the last one.
func (c *changes) addLocked(old, next *framing, fresh bool) {
	if c.list == nil {
		c.list = []*framing{old}
	}
	if fresh {
		c.list = append(c.list, next)
	} else {
		c.list[len(c.list)-1] = next
	}
}

// holdFraming returns the session's framing, which does not change until release.
func (s *Session) holdFraming() (*framing, *changes) {
	f := s.framing.Load()
	if !f.switches {
		return f, nil
	}
	c := &s.more().changes
	c.mu.Lock()
	return s.framing.Load(), c
}

func (c *changes) release() {
	if c != nil {
		c.mu.Unlock()
	}
}

// written returns the framing of the next bytes to be written. Loop goroutine.
func (s *Session) written() *framing {
	x := s.extra.Load()
	if x == nil || !s.flags.has(flagOther) {
		return s.framing.Load()
	}
	c := &x.changes
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.list == nil {
		return s.framing.Load()
	}
	if n := min(int(s.out.Divisions()-c.passed), len(c.list)-1); n > 0 {
		c.list = slices.Delete(c.list, 0, n)
		c.passed += uint64(n)
	}
	return c.list[0]
}
