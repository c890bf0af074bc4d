package dbasync

import (
	"context"
	"sync/atomic"
	"time"
)

// States of a request. queued <-> sent -> done; whoever moves it to done owes its
// one completion.
const (
	stQueued uint32 = iota
	stSent
	stDone
)

// request is one accepted query. It is pooled: refs counts who may still look at
// it (the queue or a lane, the context's callback, the delivery).
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
	desc   *description // what msg was encoded for; nil: args wait for it
	args   []any
	msg    []byte // Bind and Execute; owned, reused
	params int    // length of msg without the description's tail
	rows   bool   // the caller wants rows
	bytes  int    // of its arguments, counted against MaxQueueBytes
	seq    uint64
	part   *part       // of its Key; nil without one
	detour *detour     // of its key, which it is made for; nil: none; guarded by queue.mu
	unit   *unit       // whose rows come beside the result's; nil: none
	share  *share      // of slow work; nil for what no ordinary connection has to do
	tries  int8        // times it was put back for a reason of its own (plan, Retry)
	unsure atomic.Bool // an earlier run of it was lost, and may have done all (Retry)

	start    time.Duration // on the DB's clock
	deadline time.Duration
	job      job             // Tx, Do, CopyFrom; nil: msg
	qctx     context.Context // for the tracer and OnNotice; nil without them
	busy     bool            // its arguments are being encoded; guarded by queue.mu
	first    bool            // nothing was before it when its shape was described; guarded by queue.mu
	behind   bool            // described anew when its turn comes; guarded by queue.mu

	watched                  bool     // it has a context that may end
	watch                    *watch   // of its context; guarded by watches.mu
	nextWatched, prevWatched *request // of the same context; guarded by watches.mu

	abort atomic.Pointer[context.CancelFunc] // ends its run on a slow connection

	rowBytes     int      // counted in undelivered; guarded by undelivered.mu while it is listed
	listed       bool     // it was put on undelivered's list
	stripped     bool     // it lost its rows there; guarded by undelivered.mu
	owner        any      // whose it is, when listed
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

// release gives back one reference; the last one recycles r.
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

// claim moves r to done; true for the one caller that does. That one fills res
// and hands r to the DB's delivery, for which a reference is taken here.
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

// settleOutcome: whatever the last run came to, an earlier one may have done its work.
// It is called once r is claimed.
func (r *request) settleOutcome() {
	if r.unsure.Load() && (r.res.Outcome == NotRun || r.res.Outcome == SQLError) {
		r.res.Outcome = MayHaveRun
	}
}

// cancel ends r for its context or its timeout: not run when it had not been
// sent, else may have run; its answer is dropped when it comes. Caller holds a reference.
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

// encode makes r.msg for d: from args, or from the parameters that are in it from
// before a change of plan. Setting r.desc is the caller's.
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
