package outbox

import (
	"sync/atomic"

	"millrace/internal/tally"
)

// Log holds the broadcasts of one loop, as consecutive frames. Any goroutine appends; the loop reads
// and cuts. A session only keeps its position, so a broadcast is held once however many sessions
// have yet to be written it. Offsets are bytes since the log was made, and only grow.
type Log struct {
	mu   tally.Mutex
	b    []byte // guarded by mu; bytes in it are not changed before they are cut
	base uint64 // guarded by mu; the offset of b[0]

	end atomic.Uint64 // the offset behind the last byte; stored under mu
}

// logKeep is how much memory an empty log keeps, in bytes.
const logKeep = 64 << 10

// Append copies an encoded frame to the end and returns by how many bytes the log's memory has
// grown. Any goroutine.
func (l *Log) Append(frame []byte) (grown int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := cap(l.b)
	l.b = append(l.b, frame...)
	l.end.Store(l.base + uint64(len(l.b)))
	return cap(l.b) - before
}

// End returns the offset after the last byte. Any goroutine.
func (l *Log) End() uint64 { return l.end.Load() }

// slice returns the log from one offset to another, valid until Cut. Loop goroutine.
func (l *Log) slice(from, to uint64) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b[from-l.base : to-l.base]
}

// Cut drops the bytes before the offset to, when they are at least half of the log, and returns how
// many bytes of memory that freed. Loop goroutine.
func (l *Log) Cut(to uint64) (freed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	gone := int(to - l.base)
	if gone == 0 || gone < len(l.b)/2 {
		return 0
	}
	before := cap(l.b)
	left := l.b[gone:]
	switch {
	case len(left) == 0 && before > logKeep:
		l.b = nil
	case before > logKeep && len(left) < before/4:
		l.b = append(make([]byte, 0, 2*len(left)), left...)
	default:
		l.b = l.b[:copy(l.b, left)]
	}
	l.base = to
	return before - cap(l.b)
}

// Close drops everything, and returns how many bytes of memory that freed.
func (l *Log) Close() (freed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	freed = cap(l.b)
	l.b, l.base = nil, l.end.Load()
	return freed
}

// Len returns how many bytes the log holds.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.b)
}
