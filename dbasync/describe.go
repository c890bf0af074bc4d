package dbasync

// described starts the encoding of the requests that waited for sh's description, on a new
// goroutine: encoding may call a value's own methods. Caller holds queue.mu.
func (db *DB) described(sh *shape) {
	db.tasks.Go(func() { db.encodeWaiting(sh) })
}

// waiting returns the requests that wait for sh: those of parked are removed from it, those with a
// key stay in place and get a reference. Caller holds mu.
func (q *queue) waiting(sh *shape) (parked, keyed []*request) {
	for r := q.parked.head; r != nil; {
		next := r.next
		if r.shape == sh {
			q.parked.unlink(r)
			parked = append(parked, r)
		}
		r = next
	}
	q.eachKeyed(func(r *request) {
		if r.shape == sh && r.desc == nil && !r.busy && !r.behind {
			r.busy = true
			r.refs.Add(1)
			keyed = append(keyed, r)
		}
	})
	return parked, keyed
}

func (db *DB) encodeWaiting(sh *shape) {
	q := &db.q
	q.lock()
	d := sh.desc.Load()
	if d == nil { // changed again: whoever asked anew will come back here
		q.unlock()
		return
	}
	parked, keyed := q.waiting(sh)
	q.unlock()
	for _, r := range parked {
		db.encodeParked(r, d)
	}
	for _, r := range keyed {
		db.encodeKeyed(r, d)
	}
}

// encodeParked owns r's only reference until place takes it.
func (db *DB) encodeParked(r *request, d *description) {
	err := r.encode(d, r.args)
	q := &db.q
	q.lock()
	if err == nil && q.dead {
		err = ErrClosed
	}
	if err == nil {
		r.desc, r.args = d, nil
		q.place(r, r.shape, true)
	}
	q.unlock()
	if err != nil {
		r.end(NotRun, err)
		r.release()
	}
}

// encodeKeyed leaves r in its place in the order of its key.
func (db *DB) encodeKeyed(r *request, d *description) {
	err := r.encode(d, r.args)
	q := &db.q
	q.lock()
	r.busy = false
	if err == nil {
		r.desc, r.args = d, nil
		if r.part != nil {
			q.lanes[r.part.owner].wake()
		}
	}
	q.unlock()
	if err != nil {
		r.end(NotRun, err)
		if q.remove(r) {
			r.release()
		}
	}
	r.release()
}

// undescribable ends the requests that waited for a text the server refuses to describe, as far as
// they would have failed at that time. For the others it is described again, because what ran
// before them may have created what it names: those with a key when their turn comes, those without
// one at once.
func (db *DB) undescribable(sh *shape, err error) {
	q := &db.q
	q.lock()
	sh.asked = false
	parked, keyed, kept := q.refused(sh)
	q.unlock()
	if !kept {
		db.shapes.forget(sh)
	}
	for _, r := range parked {
		r.end(SQLError, err)
		r.release()
	}
	for _, r := range keyed {
		r.end(SQLError, err)
		if q.remove(r) {
			r.release()
		}
		r.release()
	}
}

// refused sorts the requests that wait for sh's failed description like waiting does: it returns
// those that are refused, and whether others are kept. Caller holds mu.
func (q *queue) refused(sh *shape) (parked, keyed []*request, kept bool) {
	again := false
	for r := q.parked.head; r != nil; {
		next := r.next
		switch {
		case r.shape != sh:
		case r.seq > sh.sent: // a query whose completion it has seen may have run in between
			again = true
		default:
			q.parked.unlink(r)
			parked = append(parked, r)
		}
		r = next
	}
	q.eachKeyed(func(r *request) {
		switch {
		case r.shape != sh || r.desc != nil || r.busy:
		case r.first:
			r.refs.Add(1)
			keyed = append(keyed, r)
		default:
			kept = true
			q.lanes[r.part.owner].wake()
		}
	})
	if again {
		q.want(sh)
	}
	return parked, keyed, kept || again
}

// noteFirst marks the requests with a key that have nothing before them while sh is being
// described: no other statement could create what it lacks. Caller holds mu.
func (q *queue) noteFirst(sh *shape) {
	for i := range q.parts {
		p := &q.parts[i]
		if p.inflight > 0 {
			continue
		}
		for r := p.head; r != nil && r.shape == sh && r.desc == nil; r = r.next {
			r.first = true
		}
	}
}

// changing reports whether a statement that waits or runs before those of key may alter what they
// use. It may return true for one of another key, or a cancelled one.
func (q *queue) changing(key uint64) bool {
	if key == 0 {
		return false
	}
	q.lock()
	defer q.unlock()
	q.collect()
	p := q.partOf(key)
	return p.inflight > 0 && p.ddl || p.head != nil && p.lastDDL >= p.head.seq
}
