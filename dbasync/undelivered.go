package dbasync

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// undelivered counts the rows of finished results whose completion has not begun. Above
// Config.MaxQueueBytes of them the lanes are neither read nor sent to, and no slow query is begun,
// until enough has been delivered; TCP flow control then slows the server. But a submitter that
// doesn't take its results may be waiting for another query of the DB. So when nothing has been
// delivered for Config.DeliveryTimeout, the rows of the oldest results are dropped, and so are
// those of later results for the same submitters, until these have taken the former.
type undelivered struct {
	db    *DB
	limit int64
	bytes atomic.Int64 // with what parts of the quota keep back
	slack int64        // what each part may keep back

	// least: results of fewer bytes can't reach the limit even all together. They are counted, but
	// not on the list, and keep their rows.
	least int

	mu         sync.Mutex
	head, tail *request      // the list, oldest first; guarded by mu
	stuck      map[any]int   // per submitter: completions without their rows that have not begun; guarded by mu
	room       chan struct{} // closed when there is room again; nil: nobody waits; guarded by mu

	seen  int64         // bytes at the last sweep; used by the sweeper only
	since time.Duration // since when seen has had its value; used by the sweeper only
}

// rowsSlack: of the limit, the parts of the quota together keep back a 64th at most, while it
// is not reached.
const rowsSlack = 64

func (u *undelivered) init(db *DB) {
	u.db, u.limit, u.stuck = db, int64(db.cfg.MaxQueueBytes), make(map[any]int)
	u.slack = u.limit / rowsSlack / int64(len(db.quota.parts))
	u.least = max(1, db.cfg.MaxQueueBytes/db.cfg.MaxQueue)
}

// over reports whether no more rows should be read.
func (u *undelivered) over() bool { return u.bytes.Load() > u.limit }

// held returns how many bytes of memory r's result keeps.
func (r *request) held() int {
	n := cap(r.res.data)
	if r.unit != nil && r.res.Outcome == OK {
		n += r.unit.held()
	}
	return n
}

// add counts rs, which are finished and about to be submitted.
func (u *undelivered) add(rs ...*request) {
	sum := 0
	for _, r := range rs {
		r.rowBytes = r.held()
		sum += r.rowBytes
	}
	if sum == 0 {
		return
	}
	u.bytes.Add(int64(sum))
	for _, r := range rs {
		if r.rowBytes > 0 && r.rowBytes >= u.least {
			u.list(r)
		}
	}
}

// list adds r to the list of results whose rows can be dropped.
func (u *undelivered) list(r *request) {
	r.listed, r.owner = true, u.db.ownerOf(r.on)
	u.mu.Lock()
	if u.stuck[r.owner] > 0 && u.over() {
		freed := u.strip(r)
		u.mu.Unlock()
		u.free(freed) // others may wait since add has counted r
		return
	}
	defer u.mu.Unlock()
	r.older, r.newer = u.tail, nil
	if u.tail != nil {
		u.tail.newer = r
	} else {
		u.head = r
	}
	u.tail = r
}

// unlink removes r from the list. Caller holds mu; r is on it.
func (u *undelivered) unlink(r *request) {
	if r.older != nil {
		r.older.newer = r.newer
	} else {
		u.head = r.newer
	}
	if r.newer != nil {
		r.newer.older = r.older
	} else {
		u.tail = r.older
	}
	r.older, r.newer = nil, nil
}

// strip drops r's rows and returns how many bytes that frees. Caller holds mu; r was listed, its
// completion has not begun, and it has been unlinked.
func (u *undelivered) strip(r *request) (freed int) {
	freed, r.rowBytes = r.rowBytes, 0
	r.res.data, r.res.rows, r.res.Err = nil, 0, ErrResultDropped
	if r.unit != nil {
		r.unit.strip()
	}
	r.stripped = true
	u.stuck[r.owner]++
	u.db.stats.dropped.Add(1)
	return freed
}

// full: r's submitter is full. If too much waits, r's rows are dropped.
func (u *undelivered) full(r *request) {
	if !r.listed || !u.over() {
		return
	}
	u.mu.Lock()
	freed := 0
	if !r.stripped && u.over() {
		u.unlink(r)
		freed = u.strip(r)
	}
	u.mu.Unlock()
	u.free(freed)
}

// begin removes r: its rows now belong to its completion. It is called immediately before the
// completion, on the same goroutine. p is its part of the quota.
func (u *undelivered) begin(r *request, p *quotaPart) {
	if r.listed {
		u.mu.Lock()
		if !r.stripped {
			u.unlink(r)
		} else if u.stuck[r.owner]--; u.stuck[r.owner] == 0 {
			delete(u.stuck, r.owner)
		}
		u.mu.Unlock()
	}
	if n := r.rowBytes; n > 0 {
		u.leave(p, n)
	}
}

// leave is free for a completion. p keeps back small amounts, so that completions on different
// processors don't write to the same memory for each query; while nothing more is read, it
// does not.
func (u *undelivered) leave(p *quotaPart, n int) {
	if p.rows.Add(int64(n)) > u.slack || u.over() {
		u.free(int(p.rows.Swap(0)))
	}
}

// count is how many bytes wait, without what parts keep back.
func (u *undelivered) count() int64 {
	n := u.bytes.Load()
	for i := range u.db.quota.parts {
		n -= u.db.quota.parts[i].rows.Load()
	}
	return max(n, 0)
}

// free subtracts n bytes, and wakes those that wait for room.
func (u *undelivered) free(n int) {
	now := u.bytes.Add(-int64(n))
	if now > u.limit || now+int64(n) <= u.limit {
		return
	}
	u.mu.Lock()
	if u.room != nil {
		close(u.room)
		u.room = nil
	}
	u.mu.Unlock()
	u.db.q.goOn()
}

// goOn wakes the goroutines that found no room for results.
func (q *queue) goOn() {
	q.lock()
	defer q.unlock()
	q.collect()
	for _, l := range q.lanes {
		if l.rollback || q.workFor(l) {
			l.wake()
		}
	}
	q.slow.cond.Broadcast()
	q.jobs.cond.Broadcast()
}

// wait returns when there is room, or ctx has ended.
func (u *undelivered) wait(ctx context.Context) {
	for u.over() && ctx.Err() == nil {
		u.mu.Lock()
		if u.room == nil {
			u.room = make(chan struct{})
		}
		room := u.room
		u.mu.Unlock()
		if !u.over() { // room may have been made before the channel was
			return
		}
		select {
		case <-room:
		case <-ctx.Done():
		}
	}
}

// relieve resolves a standstill, see undelivered. It runs on the sweeper.
func (u *undelivered) relieve(now time.Duration) {
	n := u.bytes.Load()
	if n <= u.limit || n != u.seen {
		u.seen, u.since = n, now
		return
	}
	if now-u.since < u.db.cfg.DeliveryTimeout {
		return
	}
	u.mu.Lock()
	freed := 0
	for u.head != nil && n-int64(freed) > u.limit/2 {
		r := u.head
		u.unlink(r)
		freed += u.strip(r)
	}
	u.mu.Unlock()
	if u.since = now; freed == 0 {
		return
	}
	u.db.cfg.Logger.Warn("dbasync: nothing is delivered: the oldest results lose their rows", "bytes", freed, "after", u.db.cfg.DeliveryTimeout)
	u.free(freed)
}
