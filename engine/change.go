package engine

import (
	"slices"
	"sync"
)

// changes are the framings of what a session has unwritten: from one division of its outbox
// to the next it is in one of them.
type changes struct {
	mu     sync.Mutex // while the framing may change, frames are written and staged under it
	list   []*framing // guarded by mu; in the order of what is unwritten; nil: there was no change
	passed uint64     // guarded by mu; divisions in front of the first
}

// addLocked notes a change, behind a fresh division or the last one.
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

// holdFraming is the session's framing, which stays until release.
func (s *Session) holdFraming() (*framing, *changes) {
	f := s.framing.Load()
	if !f.switches {
		return f, nil
	}
	c := &s.contexts().changes
	c.mu.Lock()
	return s.framing.Load(), c
}

func (c *changes) release() {
	if c != nil {
		c.mu.Unlock()
	}
}

// written is the framing of what is written next. Loop goroutine.
func (s *Session) written() *framing {
	x := s.ctx.Load()
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
