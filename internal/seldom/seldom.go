// Package seldom limits the rate of log lines: lines that a peer can cause repeatedly must not fill
// a disk.
package seldom

import (
	"sync"
	"time"
)

// Every is the shortest time between two lines.
const Every = time.Second

// Line is one place in the code that logs. The zero value is ready. Its methods may be called from
// any goroutine.
type Line struct {
	mu   sync.Mutex
	next time.Time // guarded by mu; when a line may be written again
	held uint64    // guarded by mu; lines held back since the last one
}

// Due reports whether a line may be written now; held is how many were held back since the last
// one.
func (l *Line) Due() (held uint64, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if now.Before(l.next) {
		l.held++
		return 0, false
	}
	held, l.held = l.held, 0
	l.next = now.Add(Every)
	return held, true
}
