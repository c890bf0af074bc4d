package dbasync

import (
	"context"
	"errors"
	"fmt"
)

// Query runs stmt with args and calls done with the result on the submitter on. on nil is the DB's
// pool; done nil leaves the result to the observer. It never blocks and may be called from any
// goroutine.
//
// nil means accepted: done is called exactly once. An error means refused, and done is never
// called: ErrQueueFull, ErrClosed, ErrTooLong, ErrNotOnLane, ErrKeySlow, ctx's error, or that of
// encoding args.
//
// ctx limits the query's time in the queue and in flight: when it ends, done gets NotRun or
// MayHaveRun at once. A context that can't end costs nothing; others cost a few allocations. args
// are encoded before Query returns, except for the first uses of a SQL text: then byte slices are
// copied, and other values must not change until done is called. The first of args may be
// pgx.NamedArgs, or another pgx.QueryRewriter, which is called without a connection.
func (db *DB) Query(ctx context.Context, on Submitter, done func(QueryResult), stmt Stmt, args ...any) error {
	return db.submit(ctx, on, done, stmt, true, args)
}

// Exec is Query without rows: they are dropped as they arrive.
func (db *DB) Exec(ctx context.Context, on Submitter, done func(QueryResult), stmt Stmt, args ...any) error {
	return db.submit(ctx, on, done, stmt, false, args)
}

func (db *DB) submit(ctx context.Context, on Submitter, done func(QueryResult), stmt Stmt, rows bool, args []any) error {
	if !db.hooked {
		return db.enter(ctx, nil, on, done, stmt, rows, args)
	}
	qctx := db.traceStart(ctx, stmt.SQL, args)
	err := db.enter(ctx, qctx, on, done, stmt, rows, args)
	if err != nil {
		db.traceRefused(qctx, stmt.SQL, err)
	}
	return err
}

// enter accepts a query. qctx is the context the tracer returned, nil without hooks.
func (db *DB) enter(ctx, qctx context.Context, on Submitter, done func(QueryResult), stmt Stmt, rows bool, args []any) error {
	if !db.running.Load() {
		return db.refused(ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return db.refused(fmt.Errorf("dbasync: %w", err))
	}
	sql, args, err := rewrite(ctx, stmt.SQL, args)
	if err != nil {
		return db.refused(err)
	}
	sh := db.shapes.get(sql)
	if err := sh.allows(stmt); err != nil {
		return db.refused(err)
	}
	if len(args) > maxParams {
		return db.refused(fmt.Errorf("%w: %d arguments", ErrTooLong, len(args)))
	}
	r := db.newRequest()
	r.on, r.done, r.stmt, r.shape, r.rows, r.qctx = on, done, stmt, sh, rows, qctx
	size, err := r.prepare(args)
	if err == nil {
		err = db.accept(r, size, ctx)
	}
	if err != nil {
		r.release()
		return db.refused(err)
	}
	return nil
}

func (db *DB) refused(err error) error {
	db.stats.refused.Add(1)
	return err
}

// allows returns why stmt can't run with this shape, or nil.
func (s *shape) allows(stmt Stmt) error {
	switch {
	case s.class == classState:
		return stateError(s.word)
	case s.class == classSlow && !stmt.Slow:
		return fmt.Errorf("%w: %s (set Slow)", ErrNotOnLane, s.word)
	case stmt.Slow && stmt.Key != 0:
		return ErrKeySlow
	}
	return nil
}

// prepare encodes args, or keeps a copy of them until the shape is known.
func (r *request) prepare(args []any) (size int, err error) {
	if d := r.shape.desc.Load(); d != nil {
		err := r.encode(d, args)
		if err == nil || len(args) != len(d.oids) || errors.Is(err, ErrTooLong) {
			r.desc = d
			return len(r.msg), err
		}
		n := r.db.shapes.renew(r.shape) // a column may have another type by now
		if !r.db.q.changing(r.stmt.Key) {
			return 0, err
		}
		r.shape = n // or when its turn comes
	}
	r.behind = r.db.q.changing(r.stmt.Key)
	r.args, size = cloneArgs(args)
	if size > r.db.cfg.MaxQueryBytes {
		return 0, ErrTooLong
	}
	return size, nil
}

// accept counts r against the limits and queues it. After an error r is not accepted, and only the
// caller's reference remains.
func (db *DB) accept(r *request, size int, ctx context.Context) error {
	r.start = db.now()
	limit := db.cfg.QueryTimeout
	if r.job != nil || r.stmt.Slow {
		limit = db.cfg.SlowTimeout
	}
	r.deadline = r.start + limit
	r.bytes = size
	if !db.quota.take(size) {
		return ErrQueueFull
	}
	if !db.running.Load() { // Stop may have looked for what is outstanding already
		db.settled(r, db.quota.part())
		return ErrClosed
	}
	if ctx.Done() != nil {
		r.watched = true
		db.watches.add(r, ctx)
	}
	lend, err := db.q.push(r, r.shape)
	if err == nil {
		if lend != nil {
			lend.sendLent()
		}
		return nil
	}
	if _, ok := r.claim(); !ok {
		// ctx has ended it in the meantime: it counts as accepted and gets its completion.
		db.stats.accepted.Add(1)
		r.release()
		return nil
	}
	if r.watched {
		db.watches.remove(r)
	}
	r.release() // the claim's
	db.settled(r, db.quota.part())
	return err
}
