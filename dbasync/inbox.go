package dbasync

import (
	"sync"
	"sync/atomic"
)

// inbox is where new queries come in. Callers on different processors use different ones,
// those of one key the same one, so that no caller waits for another, nor for the queue: a
// lane that looks for work empties all of them, once a burst.
//
// Invariant: a request in an inbox is queued or done, holds one reference, and is on no
// list; those of one key are there in the order of their calls.
type inbox struct {
	mu         sync.Mutex
	head, tail *request // linked by next; guarded by mu
	closed     bool     // guarded by mu
	accepted   uint64   // all that have come; guarded by mu
	n          atomic.Int32
	_          [128 - 48]byte // the next one's line is its own
}

// add takes over the caller's reference and returns how many there are now; 0 when Stop has
// closed it.
func (b *inbox) add(r *request) int32 {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return 0
	}
	if b.tail != nil {
		b.tail.next = r
	} else {
		b.head = r
	}
	b.tail = r
	b.accepted++
	return b.n.Add(1)
}

// empty returns what was in b, linked by next.
func (b *inbox) empty() *request {
	b.mu.Lock()
	defer b.mu.Unlock()
	r := b.head
	b.head, b.tail = nil, nil
	b.n.Store(0)
	return r
}

// came is how many have come since New.
func (b *inbox) came() uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.accepted
}

func (b *inbox) close() {
	b.mu.Lock()
	b.closed = true
	b.mu.Unlock()
}

// post puts r, which a lane can send as it is, into an inbox. The queue is locked only when
// nobody would look into that soon.
func (q *queue) post(r *request) error {
	var b *inbox
	if r.stmt.Key != 0 {
		b = &q.inboxes[q.partIndex(r.stmt.Key)]
	} else {
		at, _ := q.near.Get().(*inbox)
		b = at
		q.near.Put(at)
	}
	n := b.add(r)
	if n == 0 {
		return ErrClosed
	}
	if at := q.wanted.Load(); at > 0 && n >= at {
		q.lock()
		q.collect()
		q.unlock()
	}
	return nil
}

// collect empties the inboxes into the queue, and wakes lanes for what has a key; for the
// rest unlock does, if need be. False when there was nothing. Caller holds mu.
func (q *queue) collect() (some bool) {
	for i := range q.inboxes {
		b := &q.inboxes[i]
		if b.n.Load() == 0 {
			continue
		}
		for r := b.empty(); r != nil; {
			next := r.next
			r.next = nil
			q.seq++
			r.seq = q.seq
			if r.stmt.Key == 0 && r.state.Load() != stDone && !r.shape.runsSlow(r) {
				q.shared.pushBack(r)
				q.unserved = true
			} else {
				q.place(r, r.shape, false)
			}
			some, r = true, next
		}
	}
	return some
}

// lock locks q. Callers that look at all that waits collect next.
func (q *queue) lock() {
	q.mu.Lock()
	q.locked++
}

// unlock is lock's counterpart.
func (q *queue) unlock() {
	q.publish()
	q.mu.Unlock()
}

// publish tells callers when a lane has to be woken for new queries: at the first when one
// sleeps that could send and none is on its way to the inboxes; when there is more than a
// share where one is on its way and another sleeps. First ones that came before they could
// know it are collected here, and then it returns true. Caller holds mu.
func (q *queue) publish() (some bool) {
	for {
		if q.unserved {
			q.unserved = false
			q.wakeOne()
		}
		wanted := q.wantedNow()
		if q.wanted.Load() != wanted {
			q.wanted.Store(wanted)
		}
		if wanted != 1 || !q.collect() {
			return some
		}
		some = true
	}
}

// wantedNow is what wanted should be. Caller holds mu.
func (q *queue) wantedNow() int32 {
	idle, woken := false, false
	for _, l := range q.lanes {
		switch {
		case !l.open || !l.waiting:
		case l.woken:
			woken = true
		case l.gateOpen():
			idle = true
		}
	}
	switch {
	case !idle:
		return 0
	case woken:
		return minShare + 1
	}
	return 1
}
