package dbasync

import (
	"context"
	"sync/atomic"
	"time"
)

// States of a request: queued <-> sent -> done. The goroutine that moves it to done must deliver
// its one completion.
const (
	stQueued uint32 = iota
	stSent
	stDone
)

// request is one accepted query. It is pooled: refs counts its users (the queue or a lane, the
// context's callback, the delivery).
type request struct {
	next, prev *request // guarded by queue.mu
	in         *list    // the list it is on; guarded by queue.mu

	state atomic.Uint32
	refs  atomic.Int32

	db     *DB
	on     Submitter // nil: the DB's pool
	done   func(QueryResult)
	stmt   Stmt
	shape  *shape
	desc   *description // what msg was encoded for; nil: args are kept until it is described
	args   []any
	msg    []byte // Bind and Execute; owned by the request, reused
	params int    // length of msg without the description's tail
	rows   bool   // the caller wants rows
	bytes  int    // size of its arguments, counted against MaxQueueBytes
	seq    uint64
	part   *part       // of its Key; nil without one
	detour *detour     // the detour of its key that it started; nil: none; guarded by queue.mu
	unit   *unit       // whose rows are in addition to the result's; nil: none
	share  *share      // of slow work; nil if it needs no ordinary connection
	tries  int8        // times it was put back for a reason of its own (plan, Retry)
	unsure atomic.Bool // an earlier run of it was lost, and may have run completely (Retry)

	start    time.Duration // on the DB's clock
	deadline time.Duration
	job      job             // Tx, Do, CopyFrom; nil: msg
	qctx     context.Context // for the tracer and OnNotice; nil without them
	busy     bool            // its arguments are being encoded; guarded by queue.mu
	first    bool            // nothing was before it when its shape was described; guarded by queue.mu
	behind   bool            // to be described again when its turn comes; guarded by queue.mu

	watched                  bool     // it has a context that may end
	watch                    *watch   // of its context; guarded by watches.mu
	nextWatched, prevWatched *request // of the same context; guarded by watches.mu

	abort atomic.Pointer[context.CancelFunc] // ends its run on a slow connection

	rowBytes     int      // counted in undelivered; guarded by undelivered.mu while it is listed
	listed       bool     // it was put on undelivered's list
	stripped     bool     // its rows were dropped there; guarded by undelivered.mu
	owner        any      // its submitter, if listed
	older, newer *request // guarded by undelivered.mu

	res QueryResult
	run func() // r.deliver, made once
}

func (db *DB) newRequest() *request {
	r, _ := db.requests.Get().(*request)
	if r == nil {
		r = &request{db: db}
		r.run = r.deliver
	}
	r.state.Store(stQueued)
	r.refs.Store(1)
	return r
}

// release releases one reference; the last one recycles r.
func (r *request) release() {
	switch n := r.refs.Add(-1); {
	case n > 0:
		return
	case n < 0:
		panic("dbasync: bug: request released twice")
	}
	msg := r.msg[:0]
	if cap(msg) > 4096 {
		msg = nil
	}
	r.on, r.done, r.stmt, r.shape, r.desc, r.args = nil, nil, Stmt{}, nil, nil, nil
	r.msg, r.params, r.rows, r.bytes, r.part, r.tries = msg, 0, false, 0, nil, 0
	r.first, r.behind, r.detour = false, false, nil
	r.unit, r.rowBytes, r.listed, r.stripped, r.owner = nil, 0, false, false, nil
	r.job, r.qctx, r.busy, r.res, r.share = nil, nil, false, QueryResult{}, nil
	r.watched = false
	r.unsure.Store(false)
	r.abort.Store(nil)
	r.db.requests.Put(r)
}

// claim moves r to done; it returns true for exactly one caller. That one fills res and passes r to
// the DB's delivery, for which a reference is taken here.
func (r *request) claim() (was uint32, ok bool) {
	for {
		was = r.state.Load()
		if was == stDone {
			return was, false
		}
		if r.state.CompareAndSwap(was, stDone) {
			r.refs.Add(1)
			return was, true
		}
	}
}

// end completes r with an outcome that carries no rows. Caller holds a reference.
func (r *request) end(o Outcome, err error) {
	if _, ok := r.claim(); ok {
		r.res.Outcome, r.res.Err = o, err
		r.db.deliver(r)
	}
}

// settleOutcome adjusts the outcome if an earlier run may have done the work, whatever the last run
// returned. It is called after r is claimed.
func (r *request) settleOutcome() {
	if r.unsure.Load() && (r.res.Outcome == NotRun || r.res.Outcome == SQLError) {
		r.res.Outcome = MayHaveRun
	}
}

// cancel ends r for its context or its timeout: NotRun if it had not been sent, otherwise
// MayHaveRun, and its answer is dropped. Caller holds a reference.
func (r *request) cancel(err error) {
	was, ok := r.claim()
	if !ok {
		return
	}
	r.res.Outcome, r.res.Err = NotRun, err
	if was == stSent {
		r.res.Outcome = MayHaveRun
		if cancel := r.abort.Load(); cancel != nil {
			(*cancel)()
		}
	}
	if r.db.q.remove(r) {
		r.release() // the queue's reference
	}
	r.db.deliver(r)
}

// encode makes r.msg for d: from args, or from the parameters in r.msg from before a change of
// plan. The caller sets r.desc.
func (r *request) encode(d *description, args []any) error {
	if r.params == 0 {
		msg, err := appendBind(r.msg[:0], r.shape.name, d.oids, args, &r.db.encs)
		r.msg = msg
		if err != nil {
			return err
		}
		if len(msg) > r.db.cfg.MaxQueryBytes {
			return ErrTooLong
		}
		r.params = len(msg)
	}
	r.msg = finishBind(r.msg[:r.params], 0, d, r.rows && r.stmt.ReadOnly)
	return nil
}
