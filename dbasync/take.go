package dbasync

// take waits until the lane may send and there is something to send, and fills b. It returns false
// if the connection is broken or the DB stops. Runs on the writer goroutine.
func (l *lane) take(b *burst) bool {
	q := &l.db.q
	q.lock()
	defer q.unlock()
	b.reset()
	for {
		if !l.open && !l.lent { // a caller that borrowed it must have returned it
			return false
		}
		if l.gateOpen() && !q.dead {
			q.collect()
			q.unserved = false // fill wakes who takes the rest
			q.fill(l, b)
			q.takeDescribes(b)
			if b.queries()+len(b.describes) > 0 || b.rollback {
				l.woken = false
				return true
			}
		}
		l.waiting, l.woken = true, false
		if !q.publish() {
			l.cond.Wait()
		}
		l.waiting = false
	}
}

// workFor reports whether l would find something to send. Caller holds mu.
func (q *queue) workFor(l *lane) bool {
	if q.shared.n > 0 || len(q.describes) > 0 {
		return true
	}
	for i := range q.parts {
		if p := &q.parts[i]; p.owner == l.index && p.n > 0 && p.inflight == 0 {
			return true
		}
	}
	return false
}

// filling is the state of filling a burst: the room left in it.
type filling struct {
	q     *queue
	l     *lane
	b     *burst
	room  int
	bytes int
	full  bool
}

// fill takes from the queue what l sends next. Caller holds mu.
func (q *queue) fill(l *lane, b *burst) {
	b.rollback, l.rollback = l.rollback, false
	l.undoing = l.undoing || b.rollback
	b.bare, l.bare = b.bare || l.bare, false
	f := filling{q: q, l: l, b: b,
		room:  min(q.db.cfg.Window-l.inflight, l.maxBurst),
		bytes: q.db.cfg.LaneBytes - l.bytes}
	for i := range q.parts {
		if p := &q.parts[i]; p.owner == l.index && p.inflight == 0 {
			f.takeKeyed(p)
		}
	}
	f.room = min(f.room, q.fairShare()-b.queries())
	f.takeShared()
	n := b.queries()
	l.inflight += n
	if n > 0 {
		l.lastBurst = n
	}
	q.shapeBurst(l, b)
	if q.shared.n > 0 {
		q.wakeOne() // for the next share
	}
}

// minShare: what a burst costs by itself, on both sides, is about what five to ten
// queries cost.
const minShare = 8

// fairShare is how many of the queries without a key one burst takes. All in one leave the
// server idle while their answers are dealt with, and this process while they are worked on;
// a burst for each is a system call on either side for each, and a server process that is
// woken. So the lanes that are up share what there is. Caller holds mu.
func (q *queue) fairShare() int {
	n, up := q.shared.n, 0
	for _, l := range q.lanes {
		n += l.inflight
		if l.open {
			up++
		}
	}
	return min(q.db.cfg.MaxBurst, max(minShare, n/max(1, up)))
}

// shapeBurst chooses between a Sync for each query and a chain: below three queries Syncs cost
// less. Keyed queries need the chain from two on: in it the second does not run if the first is put
// back.
func (q *queue) shapeBurst(l *lane, b *burst) {
	if len(b.group) == 1 {
		b.chain = append(b.chain, b.group[0])
		b.group = b.group[:0]
	}
	if len(b.group) == 0 && len(b.chain) < 3 && b.keyed < 2 || !l.chain {
		b.chain = append(append(b.chain, b.group...), b.strict...)
		b.strict, b.chain, b.group = b.chain, b.strict[:0], b.group[:0]
	}
}

// takeDescribes also takes those that fill has requested: a lane that finds nothing else to send
// may be the only one awake. Caller holds mu.
func (q *queue) takeDescribes(b *burst) {
	n := min(len(q.describes), maxDescribes)
	if n == 0 {
		return
	}
	b.describes = append(b.describes, q.describes[:n]...)
	for _, s := range b.describes {
		b.hints = append(b.hints, s.last)
		s.sent = q.seq
		q.noteFirst(s)
	}
	q.describes = append(q.describes[:0], q.describes[n:]...)
}

// takeKeyed takes from the head of p, in order, as far as it can. If it drops a request that has
// ended, there is no answer in flight that would bring the lane back here; then the next one is the
// first of its part.
func (f *filling) takeKeyed(p *part) {
	if home := f.q.lanes[p.home]; p.owner != p.home && home.open {
		p.owner = p.home
		home.wake()
		return
	}
	for p.head != nil && !f.full {
		r := p.head
		for p.inflight == 0 && f.detours(r) {
			f.q.detour(p)
			if r = p.head; r == nil {
				return
			}
		}
		if r.desc == nil && r.state.Load() == stQueued {
			if p.inflight == 0 && !r.busy {
				f.itsTurn(p)
			}
			return // its shape is being described
		}
		if !f.fresh(r) {
			f.q.want(r.shape)
			return
		}
		if f.detours(r) {
			return // when nothing of its part is before it
		}
		strict := r.shape.class == classStrict || !f.l.chain
		if strict && p.inflight > 0 || !f.take(r) || strict && p.inflight > 0 {
			return // with a Sync of its own, no other of the same part may be in the burst
		}
		f.b.keyed++
	}
}

// detours reports whether r is known to be slow and ready to leave the lanes once it is the first of
// its part.
func (f *filling) detours(r *request) bool {
	return r.desc != nil && r.shape.slow.Load() && r.state.Load() == stQueued && f.fresh(r)
}

// itsTurn handles the head of p when everything before it has ended, and its shape is not
// described, or was refused before, or may mean something else by now: it is described again, and
// so are those after it, as far as nothing else alters tables.
func (f *filling) itsTurn(p *part) {
	sh := p.head.shape
	if p.head.behind {
		sh = f.q.db.shapes.renew(f.q.db.shapes.get(sh.sql))
		for r := p.head; r != nil && !r.shape.ddl; r = r.next {
			if r.behind && r.shape.sql == sh.sql {
				r.shape, r.behind = sh, false
			}
		}
		p.head.shape, p.head.behind = sh, false // also if it alters tables itself
	}
	f.q.want(sh)
}

// maxSkip limits how many suspects one fill skips.
const maxSkip = 256

func (f *filling) takeShared() {
	steps := 0
	for r := f.q.shared.head; r != nil && !f.full && steps < maxSkip; {
		next := r.next
		switch {
		case !f.fresh(r):
			f.q.shared.unlink(r)
			f.q.parked.putBack(r)
			f.q.want(r.shape)
		case r.shape.runsSlow(r) && r.state.Load() == stQueued:
			f.q.shared.unlink(r)
			f.q.putSlow(r, true)
		case r.shape.suspect.Load():
			if f.takeSuspect(r) {
				return
			}
			steps++
		case !f.take(r):
			return
		}
		r = next
	}
}

// takeSuspect sends a query whose shape was in a slow burst on its own, one in the whole DB at a
// time, so that it is measured and no other waits for it. It returns true if it was taken and the
// burst is closed.
func (f *filling) takeSuspect(r *request) bool {
	if f.q.probing || f.l.inflight > 0 || f.b.queries() > 0 {
		return false
	}
	if !f.take(r) || f.b.queries() == 0 {
		return false
	}
	f.q.probing, f.l.probe = true, true
	return true
}

// fresh encodes a request again whose shape was described again since; it returns false if that
// description has not arrived yet, and the request has to wait for it.
func (f *filling) fresh(r *request) bool {
	d := r.shape.desc.Load()
	switch {
	case d == r.desc || r.state.Load() != stQueued:
		return true
	case d != nil && r.encode(d, nil) == nil:
		r.desc = d
		return true
	}
	r.desc = nil
	return false
}

// take moves r from its list into the burst; it returns false if there is no room. A request that
// is done already is dropped.
func (f *filling) take(r *request) bool {
	size := len(r.msg)
	if f.room < 1 || size > f.bytes && f.l.inflight+f.b.queries() > 0 {
		f.full = true
		return false
	}
	r.in.unlink(r)
	if !r.state.CompareAndSwap(stQueued, stSent) {
		r.release()
		return true
	}
	f.room--
	f.bytes -= size
	f.l.bytes += size
	if p := r.part; p != nil {
		p.ddl = r.shape.ddl || p.ddl && p.inflight > 0
		p.inflight++
	}
	switch {
	case r.shape.class == classStrict:
		f.b.strict = append(f.b.strict, r)
	case r.stmt.ReadOnly && r.stmt.Key == 0 && f.q.db.cfg.GroupReads:
		f.b.group = append(f.b.group, r)
	default:
		f.b.chain = append(f.b.chain, r)
	}
	return true
}
