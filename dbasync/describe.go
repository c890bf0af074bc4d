package dbasync

// described starts the encoding of those that waited for sh's description, on a
// goroutine of its own: encoding may call a value's own methods. Caller holds
// queue.mu.
func (db *DB) described(sh *shape) {
	db.tasks.Go(func() { db.encodeWaiting(sh) })
}

// waiting returns the requests that wait for sh: those of parked are taken off it,
// those with a key stay where they are and get a reference. Caller holds mu.
func (q *queue) waiting(sh *shape) (parked, keyed []*request) {
	for r := q.parked.head; r != nil; {
		next := r.next
		if r.shape == sh {
			q.parked.unlink(r)
			parked = append(parked, r)
		}
		r = next
	}
	for i := range q.parts {
		for r := q.parts[i].head; r != nil; r = r.next {
			if r.shape == sh && r.desc == nil && !r.busy {
				r.busy = true
				r.refs.Add(1)
				keyed = append(keyed, r)
			}
		}
	}
	return parked, keyed
}

func (db *DB) encodeWaiting(sh *shape) {
	q := &db.q
	q.mu.Lock()
	d := sh.desc.Load()
	if d == nil { // changed again: whoever asked anew will come back here
		q.mu.Unlock()
		return
	}
	parked, keyed := q.waiting(sh)
	q.mu.Unlock()
	for _, r := range parked {
		db.encodeParked(r, d)
	}
	for _, r := range keyed {
		db.encodeKeyed(r, d)
	}
}

// encodeParked owns r's one reference until place takes it.
func (db *DB) encodeParked(r *request, d *description) {
	err := r.encode(d, r.args)
	q := &db.q
	q.mu.Lock()
	if err == nil && q.dead {
		err = ErrClosed
	}
	if err == nil {
		r.desc, r.args = d, nil
		q.place(r, r.shape, true)
	}
	q.mu.Unlock()
	if err != nil {
		r.end(NotRun, err)
		r.release()
	}
}

// encodeKeyed leaves r in its place among those of its key.
func (db *DB) encodeKeyed(r *request, d *description) {
	err := r.encode(d, r.args)
	q := &db.q
	q.mu.Lock()
	r.busy = false
	if err == nil {
		r.desc, r.args = d, nil
		if r.part != nil {
			q.lanes[r.part.owner].wake()
		}
	}
	q.mu.Unlock()
	if err != nil {
		r.end(NotRun, err)
		if q.remove(r) {
			r.release()
		}
	}
	r.release()
}

// undescribable ends those that waited for a text the server can't make sense of.
func (db *DB) undescribable(sh *shape, err error) {
	db.shapes.forget(sh)
	q := &db.q
	q.mu.Lock()
	sh.asked = false
	parked, keyed := q.waiting(sh)
	q.mu.Unlock()
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
