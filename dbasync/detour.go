package dbasync

// detour is a key whose next statement is known to be slow. That runs on an ordinary connection;
// later queries of the key wait here until it has ended, so that neither a lane nor other keys of
// the same part wait for it. Guarded by queue.mu.
type detour struct {
	list
	key uint64
}

// detour removes the head of p, and what follows of its key, from the lanes' queue. Nothing of p is
// in flight, so nothing of the key is. Caller holds mu.
func (q *queue) detour(p *part) {
	r := p.head
	d := &detour{key: r.stmt.Key}
	q.detours[d.key] = d
	p.unlink(r)
	for o := p.head; o != nil; {
		next := o.next
		if o.stmt.Key == d.key {
			p.unlink(o)
			d.pushBack(o)
		}
		o = next
	}
	r.detour = d
	q.putSlow(r, true)
}

// onward: the slow statement of d has ended, or will not run. Caller holds mu.
func (q *queue) onward(d *detour) {
	if r := d.head; r != nil && r.desc != nil && r.desc == r.shape.desc.Load() && r.shape.slow.Load() && !q.dead {
		d.unlink(r)
		r.detour = d
		q.putSlow(r, true)
		return
	}
	delete(q.detours, d.key)
	for r := d.head; r != nil; r = d.head {
		d.unlink(r)
		r.part.add(r, true)
		q.lanes[r.part.owner].wake()
	}
}

// eachKeyed calls fn for all requests that wait in the order of their keys; fn may remove its
// argument from its list.
func (q *queue) eachKeyed(fn func(*request)) {
	for _, l := range q.keyedLists() {
		for r := l.head; r != nil; {
			next := r.next
			fn(r)
			r = next
		}
	}
}

func (q *queue) keyedLists() []*list {
	lists := make([]*list, 0, len(q.parts)+len(q.detours))
	for i := range q.parts {
		lists = append(lists, &q.parts[i].list)
	}
	for _, d := range q.detours {
		lists = append(lists, &d.list)
	}
	return lists
}
