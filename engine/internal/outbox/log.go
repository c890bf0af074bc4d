package outbox

import (
	"sync/atomic"

	"millrace/internal/tally"
)

// Log holds the broadcasts of one loop, one frame behind another: anyone appends, the
// loop reads and cuts. A session needs only to know how far it has had the log, so a
// broadcast that many are slow to read is held once. Offsets count from the beginning
// and never fall.
type Log struct {
	mu   tally.Mutex
	b    []byte // guarded by mu; bytes that stand do not change
	base uint64 // guarded by mu; the offset of b[0]

	end atomic.Uint64 // the offset behind the last byte; stored under mu
}

// logKeep is how much memory an empty log keeps, in bytes.
const logKeep = 64 << 10

// Append adds an encoded frame and returns by how much the log's memory has grown. It
// may be called from anywhere.
func (l *Log) Append(frame []byte) (grown int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := cap(l.b)
	l.b = append(l.b, frame...)
	l.end.Store(l.base + uint64(len(l.b)))
	return cap(l.b) - before
}

// End is the offset behind the last byte. It may be called from anywhere.
func (l *Log) End() uint64 { return l.end.Load() }

// slice is the log from one offset to another, until it is cut. Loop goroutine.
func (l *Log) slice(from, to uint64) []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b[from-l.base : to-l.base]
}

// Cut forgets what stands in front of the offset to, as soon as that is most of the log,
// and returns how much memory it gave back. Loop goroutine.
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

// Close forgets everything, and returns how much memory it gave back.
func (l *Log) Close() (freed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	freed = cap(l.b)
	l.b, l.base = nil, l.end.Load()
	return freed
}

// Len is how many bytes the log holds.
func (l *Log) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.b)
}
