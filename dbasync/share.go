package dbasync

import (
	"reflect"
	"slices"
	"sync"
)

// turns queues work for ordinary connections as a round robin over the submitters that have work:
// each submitter's work in its order, and at most limit of it at a time, so that one with hundreds
// of slow queries takes no more than its share. Guarded by queue.mu.
type turns struct {
	limit  int // how much of one submitter's runs at a time
	most   int // how much of one submitter's may be outstanding
	shares map[any]*share
	cond   sync.Cond
	ring   []*share // those with waiting work; the first is next
	n      int      // waiting, in all
}

// share is the work of one submitter. That of nil is the work without a submitter of its own, which
// has no limit.
type share struct {
	list  // waiting
	of    *turns
	owner any

	running     int // on a connection
	outstanding int // accepted, completion not begun
}

func (t *turns) init(limit, most int) {
	t.limit, t.most, t.shares = limit, most, make(map[any]*share)
}

// ownerOf returns the submitter for whom work is done, as a map key, or nil for the pool.
func (db *DB) ownerOf(on Submitter) any {
	if db.isPool(on) || !reflect.ValueOf(on).Comparable() {
		return nil
	}
	return on
}

// enrol counts r for its submitter, at the latest before it is put. With limited, for a request
// that is not accepted yet, it returns false if the submitter is at its limit.
func (t *turns) enrol(r *request, limited bool) bool {
	owner := r.db.ownerOf(r.on)
	s := t.shares[owner]
	if s == nil {
		s = &share{of: t, owner: owner}
		t.shares[owner] = s
	}
	if limited && owner != nil && s.outstanding >= t.most {
		return false
	}
	s.outstanding++
	r.share = s
	return true
}

// settled undoes enrol: the completion has begun.
func (s *share) settled() {
	s.outstanding--
	s.forget()
}

func (s *share) forget() {
	if s.outstanding == 0 && s.running == 0 && s.n == 0 {
		delete(s.of.shares, s.owner)
	}
}

// put queues r, which is enrolled; by its sequence number if it is put back.
func (t *turns) put(r *request, back bool) {
	s := r.share
	if back {
		s.putBack(r)
	} else {
		s.pushBack(r)
	}
	t.n++
	if s.n == 1 {
		t.ring = append(t.ring, s)
	}
}

// drop removes r before its turn.
func (t *turns) drop(r *request) {
	s := r.share
	s.unlink(r)
	t.n--
	if s.n == 0 {
		i := slices.Index(t.ring, s)
		t.ring = slices.Delete(t.ring, i, i+1)
	}
}

// take returns the next request that may run, or nil. noRows skips requests that will have rows.
func (t *turns) take(noRows bool) *request {
	for i, s := range t.ring {
		if s.owner != nil && s.running >= t.limit || noRows && s.head.rows {
			continue
		}
		r := s.head
		t.ring = slices.Delete(t.ring, i, i+1)
		s.unlink(r)
		t.n--
		if s.n > 0 {
			t.ring = append(t.ring, s)
		}
		s.running++
		return r
	}
	return nil
}

// ran undoes take: the connection is free again.
func (s *share) ran() {
	s.running--
	s.forget()
}

// each calls fn for all waiting requests.
func (t *turns) each(fn func(*request)) {
	for _, s := range t.ring {
		for r := s.head; r != nil; r = r.next {
			fn(r)
		}
	}
}
