package dbasync

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// part is the queue of a share of the ordering keys. One lane at a time serves it, and only while
// none of its queries from an earlier burst is in flight, so that a burst that the server skips can
// be put back without being overtaken.
type part struct {
	list
	home     int // the lane that serves it while it is up
	owner    int // the lane that serves it now
	inflight int
	ddl      bool // one of those in flight alters tables, or may
	lastDDL  uint64
}

// add queues r, by its sequence number if it is put back.
func (p *part) add(r *request, back bool) {
	r.part = p
	if r.shape.ddl {
		p.lastDDL = max(p.lastDDL, r.seq)
	}
	if back {
		p.putBack(r)
	} else {
		p.pushBack(r)
	}
}

// queue holds every accepted query that is not in flight. All lanes take from the same list, so
// that no query waits for a lane that is busy or down.
//
// New requests come to it through inboxes.
//
// Invariant: a request on a list is queued or done, and holds one reference.
type queue struct {
	db *DB

	mu        sync.Mutex
	seq       uint64
	shared    list
	slow      turns    // statements
	jobs      turns    // transactions and other work that holds a connection
	parked    list     // without a key, and their shape is not described yet
	describes []*shape // to be described by a lane; each once (asked)
	parts     []part
	detours   map[uint64]*detour // by key
	lanes     []*lane
	inboxes   []inbox
	near      sync.Pool // of *inbox: one per processor, more or less
	locked    uint64    // how often mu was, for the tests
	unserved  bool      // collect has put queries on shared that no lane was woken for
	probing   bool      // a suspect shape is being measured on some lane
	closed    bool      // no new queries
	dead      bool      // Stop has given up: nothing is taken any more

	_      [64]byte
	wanted atomic.Int32 // with how many queries an inbox has to wake a lane; 0: not at all
	_      [64]byte
}

func (q *queue) init(db *DB, lanes []*lane) {
	q.db, q.lanes = db, lanes
	for t, conns := range map[*turns]int{&q.slow: db.cfg.SlowConns, &q.jobs: db.cfg.TxConns} {
		limit := db.cfg.MaxSlowRunning
		if limit == 0 {
			limit = max(1, conns-1)
		}
		t.init(limit, db.cfg.MaxSlowQueue)
		t.cond.L = &q.mu
	}
	q.parts, q.detours = make([]part, len(lanes)), make(map[uint64]*detour)
	for i := range q.parts {
		q.parts[i].home, q.parts[i].owner = i, i
	}
	for _, l := range lanes {
		l.cond.L = &q.mu
	}
	q.inboxes = make([]inbox, max(len(lanes), min(64, runtime.GOMAXPROCS(0))))
	var next atomic.Uint32
	q.near.New = func() any { return &q.inboxes[int(next.Add(1))%len(q.inboxes)] }
}

// push queues a new request and takes over the caller's reference, unless it returns an error:
// ErrClosed, or ErrQueueFull if its submitter has too much slow work. A query that is the only one
// may be sent by its caller, which saves a wake-up: in that case lend is the lane, its burst
// filled, and the caller must call lend.sendLent.
func (q *queue) push(r *request, sh *shape) (lend *lane, err error) {
	// Where no lane sleeps, or one is on its way, nothing is lent: it need not be counted.
	alone := q.wanted.Load() == 1 && q.db.quota.alone()
	if r.desc != nil && !alone && !sh.runsSlow(r) {
		return nil, q.post(r)
	}
	defer func() {
		if err == nil {
			q.db.stats.accepted.Add(1)
		}
	}()
	q.lock()
	defer q.unlock()
	q.collect() // of the same key, they go before r
	if q.closed {
		return nil, ErrClosed
	}
	slow := r.job != nil || r.stmt.Key == 0 && sh.runsSlow(r)
	if slow && r.state.Load() != stDone && !q.turnsOf(r).enrol(r, true) {
		q.db.stats.slowRefused.Add(1)
		return nil, ErrQueueFull
	}
	q.seq++
	r.seq = q.seq
	if r.desc != nil && alone && !slow && !sh.runsSlow(r) {
		lend = q.idleLane(r)
	}
	if lend == nil || r.state.Load() == stDone {
		q.place(r, sh, false)
		return nil, nil
	}
	if r.stmt.Key != 0 {
		q.partOf(r.stmt.Key).add(r, false)
	} else {
		q.shared.pushBack(r)
	}
	q.fill(lend, &lend.burst)
	if lend.burst.queries() == 0 { // its part is being returned to its home
		q.wakeFor(r)
		return nil, nil
	}
	lend.lent = true
	return lend, nil
}

// turnsOf returns the turns in which r waits if it is slow.
func (q *queue) turnsOf(r *request) *turns {
	if r.job != nil {
		return &q.jobs
	}
	return &q.slow
}

// maxLent is the maximum that a caller writes itself, in bytes: it fits into the buffer of a socket
// whose peer has answered everything, so the write can't block.
const maxLent = 4 << 10

// canLend reports whether everything r's burst would write is short, and the server has answered
// everything written before, descriptions too. Caller holds queue.mu.
func (l *lane) canLend(r *request) bool {
	size := len(r.msg)
	if r.shape.lanes.Load()&(1<<l.index) == 0 {
		size += len(r.shape.sql)
	}
	if size > maxLent || l.bare || l.db.shapes.dirty[l.index].Load() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.fifo.head == l.fifo.tail
}

// idleLane returns a lane with nothing unanswered whose writer sleeps. Caller holds mu.
func (q *queue) idleLane(r *request) *lane {
	for _, l := range q.lanes {
		if r.stmt.Key != 0 && (q.partOf(r.stmt.Key).owner != l.index || q.detours[r.stmt.Key] != nil) {
			continue
		}
		if l.waiting && !l.woken && l.inflight == 0 && !l.rollback && l.gateOpen() && len(q.describes) == 0 && l.canLend(r) {
			return l
		}
	}
	return nil
}

// place puts r into the right list and wakes the goroutine that serves it. A request that was
// cancelled while it was on no list is released. Caller holds mu.
func (q *queue) place(r *request, sh *shape, back bool) {
	if r.state.Load() == stDone {
		r.release()
		return
	}
	to := &q.shared
	switch {
	case r.job != nil || r.stmt.Key == 0 && r.desc != nil && sh.runsSlow(r):
		q.putSlow(r, back)
		return
	case r.desc == nil:
		to = &q.parked
	}
	if r.stmt.Key != 0 {
		r.part = q.partOf(r.stmt.Key)
		if d := q.detours[r.stmt.Key]; d != nil {
			to = &d.list
		}
	}
	switch {
	case r.stmt.Key != 0 && q.detours[r.stmt.Key] == nil:
		r.part.add(r, back)
	case back:
		to.putBack(r)
	default:
		to.pushBack(r)
	}
	switch {
	case r.behind:
		q.wakeFor(r) // it may be able to run already
	case r.desc == nil:
		q.want(sh)
	default:
		q.wakeFor(r)
	}
}

// putSlow queues r for an ordinary connection. Caller holds mu; r is not done.
func (q *queue) putSlow(r *request, back bool) {
	t := q.turnsOf(r)
	if r.share == nil {
		t.enrol(r, false)
	}
	t.put(r, back)
	t.cond.Signal()
}

// wakeFor wakes a lane that may send r. Caller holds mu.
func (q *queue) wakeFor(r *request) {
	if r.part != nil {
		q.lanes[r.part.owner].wake()
		return
	}
	q.wakeOne()
}

func (q *queue) partOf(key uint64) *part { return &q.parts[q.partIndex(key)] }

func (q *queue) partIndex(key uint64) uint64 {
	return (key * 0x9E3779B97F4A7C15) >> 32 % uint64(len(q.parts))
}

// want requests the description of sh, once. Caller holds mu.
func (q *queue) want(sh *shape) {
	switch {
	case sh.desc.Load() != nil:
		q.db.described(sh) // it arrived before the caller took the lock
	case !sh.asked:
		sh.asked = true
		q.describes = append(q.describes, sh)
		q.wakeOne()
	}
}

// runsSlow reports whether r runs on the slow connections.
func (s *shape) runsSlow(r *request) bool {
	return r.stmt.Slow || s.class == classSlow || s.slow.Load()
}

// wakeOne wakes a lane that may send. A lane that has been woken and has not taken
// yet will take its share: no second one is woken for that. Caller holds mu.
func (q *queue) wakeOne() {
	var best *lane
	pending, share := 0, q.fairShare()
	for _, l := range q.lanes {
		if l.woken {
			pending += share
		} else if l.waiting && l.gateOpen() && (best == nil || l.inflight < best.inflight) {
			best = l
		}
	}
	if best != nil && q.shared.n+len(q.describes) > pending {
		best.wake()
	}
}

// back puts requests that did not run at the front again, in their order, and takes over their
// references. It returns those that can't run any more. Caller holds mu.
func (q *queue) back(rs []*request) (ended []*request) {
	for _, r := range rs {
		switch {
		case !r.state.CompareAndSwap(stSent, stQueued):
			r.release()
		case q.dead:
			ended = append(ended, r)
		default:
			q.place(r, r.shape, true)
		}
	}
	return ended
}

// remove removes r from its list; it returns false if r is on none.
func (q *queue) remove(r *request) bool {
	q.lock()
	defer q.unlock()
	if r.in == nil {
		return false
	}
	if r.share != nil && r.in == &r.share.list {
		r.share.of.drop(r)
		if r.detour != nil {
			q.onward(r.detour)
		}
		return true
	}
	r.in.unlink(r)
	if r.part != nil {
		q.lanes[r.part.owner].wake() // the next one may be able to run
	}
	return true
}

// takeSlow waits for work of t, and returns nil when the worker must end. before is the request
// that the worker ran last, nil at first; its reference is released.
func (q *queue) takeSlow(t *turns, before *request) *request {
	q.lock()
	defer q.unlock()
	if before != nil {
		before.share.ran()
		if before.detour != nil {
			q.onward(before.detour)
		}
		before.release()
	}
	for {
		if r := t.take(q.db.rows.over()); r != nil {
			return r
		}
		if q.dead {
			return nil
		}
		t.cond.Wait()
	}
}

// expired appends every queued request whose timeout has expired to out, with a reference.
func (q *queue) expired(now int64, out []*request) []*request {
	q.lock()
	defer q.unlock()
	q.collect()
	out = q.shared.expired(now, out)
	out = q.parked.expired(now, out)
	for _, t := range []*turns{&q.slow, &q.jobs} {
		t.each(func(r *request) { // of two timeouts
			if int64(r.deadline) <= now {
				r.refs.Add(1)
				out = append(out, r)
			}
		})
	}
	for _, l := range q.keyedLists() {
		out = l.expired(now, out)
	}
	return out
}

// close refuses new requests. Caller holds mu.
func (q *queue) close() {
	q.closed = true
	for i := range q.inboxes {
		q.inboxes[i].close()
	}
}

// drain empties the queue for Stop and returns what was on it.
func (q *queue) drain() []*request {
	q.lock()
	defer q.unlock()
	q.close()
	q.dead = true
	q.collect()
	var out []*request
	for _, t := range []*turns{&q.slow, &q.jobs} {
		for t.n > 0 {
			r := t.ring[0].head
			t.drop(r)
			out = append(out, r)
		}
		t.cond.Broadcast()
	}
	for _, l := range append(q.keyedLists(), &q.shared, &q.parked) {
		for r := l.head; r != nil; r = l.head {
			l.unlink(r)
			out = append(out, r)
		}
	}
	for _, l := range q.lanes {
		l.cond.Broadcast()
	}
	return out
}
