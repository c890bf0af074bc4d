package dbasync

// list is a doubly linked list through the requests; guarded by queue.mu.
type list struct {
	head, tail *request
	n          int
}

func (l *list) pushBack(r *request) {
	r.in, r.prev, r.next = l, l.tail, nil
	if l.tail != nil {
		l.tail.next = r
	} else {
		l.head = r
	}
	l.tail = r
	l.n++
}

// putBack inserts r by its sequence number. Requests that are put back are older than nearly all
// that wait, so the walk from the head is short.
func (l *list) putBack(r *request) {
	at := l.head
	for at != nil && at.seq < r.seq {
		at = at.next
	}
	if at == nil {
		l.pushBack(r)
		return
	}
	r.in, r.next, r.prev = l, at, at.prev
	if at.prev != nil {
		at.prev.next = r
	} else {
		l.head = r
	}
	at.prev = r
	l.n++
}

func (l *list) unlink(r *request) {
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		l.head = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		l.tail = r.prev
	}
	r.in, r.prev, r.next = nil, nil, nil
	l.n--
}

// expired examines the list from the head while requests have expired: all have the same timeout.
func (l *list) expired(now int64, out []*request) []*request {
	for r := l.head; r != nil && int64(r.deadline) <= now; r = r.next {
		r.refs.Add(1)
		out = append(out, r)
	}
	return out
}
