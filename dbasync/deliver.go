package dbasync

import (
	"errors"
	"net"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"millrace/internal/seldom"
)

// groupSize is the maximum number of completions in one task of the DB's pool: enough to make
// submitting cheap, few enough to keep several workers busy.
const groupSize = 16

// group is a run of completions for the DB's pool.
type group struct {
	db   *DB
	rs   [groupSize]*request
	n, i int
	run  func()
}

func (db *DB) newGroup() *group {
	g, _ := db.groups.Get().(*group)
	if g == nil {
		g = &group{db: db}
		g.run = g.deliver
	}
	return g
}

// deliver runs on the pool. If a callback panics, the rest is submitted to the pool again and the
// panic continues to the pool's recover.
func (g *group) deliver() {
	defer func() {
		if g.i == g.n {
			clear(g.rs[:])
			g.n, g.i = 0, 0
			g.db.groups.Put(g)
			return
		}
		g.db.handGroup(g)
	}()
	for g.i < g.n {
		r := g.rs[g.i]
		g.i++
		r.deliver()
	}
}

// deliver calls r's callback and the observer, and ends r. It runs on r's submitter, or on the DB's
// pool. The caller must not keep a reference to r.
func (r *request) deliver() {
	p := r.db.quota.part()
	r.db.rows.begin(r, p)
	db, res, done, qctx := r.db, r.res, r.done, r.qctx
	db.settled(r, p)
	if r.watched {
		db.watches.remove(r)
	}
	r.release()
	if qctx != nil {
		db.traceEnd(qctx, res)
	}
	if done != nil {
		done(res)
	}
	if obs := db.observer.Load(); obs != nil {
		(*obs).OnQueryEnd(res)
	}
}

// deliver submits one claimed request to its submitter.
func (db *DB) deliver(r *request) {
	r.res.SQL, r.res.Key = r.stmt.SQL, r.stmt.Key
	r.res.Elapsed = db.now() - r.start
	r.settleOutcome()
	db.stats.ended[r.res.Outcome].Add(1)
	db.rows.add(r)
	db.hand(r)
}

// deliverAll is deliver for everything that one read of a lane finished, in order. What is for the
// DB's pool is submitted in groups.
func (db *DB) deliverAll(rs []*request, now time.Duration) {
	var ended [4]uint64
	for _, r := range rs {
		r.res.SQL, r.res.Key = r.stmt.SQL, r.stmt.Key
		r.res.Elapsed = now - r.start
		r.settleOutcome()
		ended[r.res.Outcome]++
	}
	for o, n := range ended {
		if n > 0 {
			db.stats.ended[o].Add(n)
		}
	}
	db.rows.add(rs...)
	var g *group
	for _, r := range rs {
		if !db.isPool(r.on) || db.late.waiting.Load() > 0 {
			db.hand(r)
			continue
		}
		if g == nil {
			g = db.newGroup()
		}
		g.rs[g.n] = r
		if g.n++; g.n == groupSize {
			db.handGroup(g)
			g = nil
		}
	}
	if g != nil {
		db.handGroup(g)
	}
}

// isPool reports whether on is the DB's pool. Only pointers are compared: other types may not be
// comparable.
func (db *DB) isPool(on Submitter) bool {
	return on == nil || db.poolPtr && reflect.TypeOf(on).Kind() == reflect.Pointer && on == db.pool
}

func (db *DB) handGroup(g *group) {
	if db.pool.Submit(g.run) == nil {
		return
	}
	for ; g.i < g.n; g.i++ {
		db.late.add(g.rs[g.i])
	}
	clear(g.rs[:])
	g.n, g.i = 0, 0
	db.groups.Put(g)
}

// hand submits r to its submitter, or adds it to the late list if that is full.
func (db *DB) hand(r *request) {
	if db.late.waiting.Load() > 0 && db.late.mustQueue(r) {
		db.late.add(r)
		return
	}
	if !db.tryHand(r) {
		db.late.add(r)
	}
}

// tryHand submits r to its submitter; if that is closed, to the pool, marked stale. It returns
// false if the target is full.
func (db *DB) tryHand(r *request) bool {
	on := r.on
	if on == nil {
		on = db.pool
	}
	err := on.Submit(r.run)
	if err == nil {
		return true
	}
	if !errors.Is(err, net.ErrClosed) {
		db.stats.submitterFull.Add(1)
		return false
	}
	if !r.res.Stale && r.on != nil {
		r.res.Stale = true
		db.stats.stale.Add(1)
	}
	r.on = nil
	if db.isPool(on) {
		// The pool is closed too: the sweeper's own goroutine runs it.
		db.late.last.Store(true)
		return false
	}
	return db.pool.Submit(r.run) == nil
}

// late holds completions whose submitter was full. MaxQueue limits them, as it limits all accepted
// queries.
type late struct {
	db      *DB
	waiting atomic.Int64
	last    atomic.Bool // the pool is closed: run them here
	kick    chan struct{}
	panics  seldom.Line

	mu sync.Mutex
	rs []*request // guarded by mu
}

// add appends r, and drops its rows if too many bytes wait.
func (l *late) add(r *request) {
	l.db.rows.full(r)
	l.mu.Lock()
	l.rs = append(l.rs, r)
	l.waiting.Store(int64(len(l.rs)))
	l.mu.Unlock()
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// mustQueue reports whether r may not overtake a waiting one: it has a key.
func (l *late) mustQueue(r *request) bool { return r.stmt.Key != 0 }

// retry tries each once, in order; after a key's first refusal the rest of that key stays. It runs
// on the DB's sweeper, and finally in Stop.
func (l *late) retry() {
	l.mu.Lock()
	rs := l.rs
	l.rs = nil
	l.mu.Unlock()
	var keep []*request
	blocked := make(map[uint64]bool)
	for _, r := range rs {
		if blocked[r.stmt.Key] || !l.db.tryHand(r) {
			if l.last.Load() {
				l.runHere(r)
				continue
			}
			if r.stmt.Key != 0 {
				blocked[r.stmt.Key] = true
			}
			keep = append(keep, r)
		}
	}
	l.mu.Lock()
	l.rs = append(keep, l.rs...)
	l.waiting.Store(int64(len(l.rs)))
	l.mu.Unlock()
}

// runHere runs a completion on the calling goroutine, which is the DB's own.
func (l *late) runHere(r *request) {
	defer func() {
		if p := recover(); p != nil {
			if held, ok := l.panics.Due(); ok {
				l.db.cfg.Logger.Error("dbasync: panic in a callback", "panic", p, "omitted", held)
			}
		}
	}()
	r.run()
}

// flush is called by Stop: everything is delivered when it returns. Submitters that are full after
// the deadline are replaced by this goroutine.
func (l *late) flush(deadline time.Time) {
	for l.waiting.Load() > 0 {
		if !time.Now().Before(deadline) {
			l.mu.Lock()
			rs := l.rs
			l.rs = nil
			l.waiting.Store(0)
			l.mu.Unlock()
			for _, r := range rs {
				l.runHere(r)
			}
			return
		}
		l.retry()
		time.Sleep(time.Millisecond)
	}
}
