package dbasync

import (
	"sync"
	"sync/atomic"
)

// quota limits what is outstanding: MaxQueue queries, and MaxQueueBytes of their arguments.
// What is left of either is divided: each processor has a part, on a cache line of its own,
// that its callers take from and its completions give to; free is what no part has. So
// memory that all share is written only when a part has run out, or has too much.
//
// Invariant: what is free, what parts have left, and what is outstanding add up to the
// limits. A part is negative only while callers are in cover, which may refuse them. So the
// limits are exact: a query is refused when all parts together have no room for it, and none
// is accepted beyond.
type quota struct {
	parts []quotaPart
	near  sync.Pool // of *quotaPart: one per processor, more or less
	limit [quotaKinds]int64
	batch [quotaKinds]int64 // what moves between free and a part at a time

	_     [64]byte
	mu    sync.Mutex
	free  [quotaKinds]int64 // guarded by mu
	moves uint64            // how often mu was locked, for the tests; guarded by mu
}

// What a quota counts.
const (
	quotaQueries = iota
	quotaBytes
	quotaKinds
)

type quotaPart struct {
	left [quotaKinds]atomic.Int64
	rows atomic.Int64   // delivered, and still counted as undelivered; see undelivered.leave
	_    [128 - 24]byte // the next one's line is its own
}

func (q *quota) init(parts, queries, bytes int) {
	q.parts = make([]quotaPart, parts)
	var next atomic.Uint32
	q.near.New = func() any { return &q.parts[int(next.Add(1))%len(q.parts)] }
	q.limit = [quotaKinds]int64{int64(queries), int64(bytes)}
	for kind, limit := range q.limit {
		q.free[kind], q.batch[kind] = limit, max(1, limit/int64(8*parts))
	}
}

// part returns the part of the processor that the caller runs on.
func (q *quota) part() *quotaPart {
	p, _ := q.near.Get().(*quotaPart)
	q.near.Put(p)
	return p
}

// take counts a query with so many bytes; false: there is no room.
func (q *quota) take(bytes int) bool {
	p := q.part()
	n, b := p.left[quotaQueries].Add(-1), p.left[quotaBytes].Add(-int64(bytes))
	return n >= 0 && b >= 0 || q.cover(p, bytes)
}

// cover gives p what it needs for the query that was taken from it, or undoes that.
func (q *quota) cover(p *quotaPart, bytes int) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.moves++
	if q.fill(p, quotaQueries) && q.fill(p, quotaBytes) {
		return true
	}
	p.left[quotaQueries].Add(1)
	p.left[quotaBytes].Add(int64(bytes))
	return false
}

// fill makes p's part of one kind 0 at least, from what is free, or else from other parts.
// Caller holds mu.
func (q *quota) fill(p *quotaPart, kind int) bool {
	need := -p.left[kind].Load()
	if need <= 0 {
		return true
	}
	if q.free[kind] < need {
		for i := range q.parts {
			q.reclaim(&q.parts[i], kind, 0)
		}
	}
	if q.free[kind] < need {
		return false
	}
	n := min(need+q.batch[kind], q.free[kind])
	q.free[kind] -= n
	p.left[kind].Add(n)
	return true
}

// reclaim leaves p no more than so much. Caller holds mu.
func (q *quota) reclaim(p *quotaPart, kind int, leave int64) {
	for {
		n := p.left[kind].Load()
		if n <= leave {
			return
		}
		if p.left[kind].CompareAndSwap(n, leave) {
			q.free[kind] += n - leave
			return
		}
	}
}

// give undoes a take, by any part.
func (q *quota) give(p *quotaPart, bytes int) {
	n, b := p.left[quotaQueries].Add(1), p.left[quotaBytes].Add(int64(bytes))
	if n <= 2*q.batch[quotaQueries] && b <= 2*q.batch[quotaBytes] {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.moves++
	for kind, batch := range q.batch {
		q.reclaim(p, kind, batch)
	}
}

// used is how many queries are outstanding, and their bytes. It looks at all parts: what is
// taken from one and given to another meanwhile may count as settled before it was accepted.
func (q *quota) used() (queries, bytes int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.moves++
	used := q.limit
	for kind := range used {
		used[kind] -= q.free[kind]
		for i := range q.parts {
			used[kind] -= q.parts[i].left[kind].Load()
		}
	}
	return used[quotaQueries], used[quotaBytes]
}

// alone reports whether a single query is outstanding, about.
func (q *quota) alone() bool {
	n, _ := q.used()
	return n == 1
}
