package dbasync

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// submitJob accepts work for an ordinary connection as Query accepts a statement. size is the
// number of bytes it holds until its completion begins; sql is for the result and the tracer.
func (db *DB) submitJob(ctx context.Context, on Submitter, done func(QueryResult), sql string, size int, j job) error {
	return db.submitUnit(ctx, on, done, sql, size, nil, j)
}

// submitUnit is submitJob for a job that may have rows: those of u.
func (db *DB) submitUnit(ctx context.Context, on Submitter, done func(QueryResult), sql string, size int, u *unit, j job) error {
	if !db.hooked {
		return db.enterJob(ctx, nil, on, done, sql, size, u, j)
	}
	qctx := db.traceStart(ctx, sql, nil)
	err := db.enterJob(ctx, qctx, on, done, sql, size, u, j)
	if err != nil {
		db.traceRefused(qctx, sql, err)
	}
	return err
}

func (db *DB) enterJob(ctx, qctx context.Context, on Submitter, done func(QueryResult), sql string, size int, u *unit, j job) error {
	if !db.running.Load() {
		return db.refused(ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		return db.refused(fmt.Errorf("dbasync: %w", err))
	}
	if size > db.cfg.MaxQueryBytes {
		return db.refused(ErrTooLong)
	}
	values := ctx
	if qctx != nil {
		values = qctx
	}
	r := db.newRequest()
	r.on, r.done, r.stmt.SQL, r.qctx = on, done, sql, qctx
	r.unit, r.rows = u, u != nil
	r.job = func(ctx context.Context, c *poolConn) (Outcome, string, error) {
		return j(withValues{ctx, values}, c)
	}
	if err := db.accept(r, size, ctx); err != nil {
		r.release()
		return db.refused(err)
	}
	return nil
}

// withValues ends with its Context and has the values of the caller's context, so that tracers and
// the like inside pgx find what belongs to the query.
type withValues struct {
	context.Context
	values context.Context
}

// Value asks Context first, where package context looks for the parent of a child context.
func (c withValues) Value(key any) any {
	if v := c.Context.Value(key); v != nil {
		return v
	}
	return c.values.Value(key)
}

// argsSize returns the approximate size of args and sql in bytes, and a copy of args with its byte
// slices copied too.
func argsSize(sql string, args []any) ([]any, int) {
	args, n := cloneArgs(args)
	return args, n + len(sql)
}

// allowedInTx returns an error if sql can't be one of several statements in a transaction that
// others end.
func allowedInTx(sql string) error {
	cl, word := classify(sql)
	switch {
	case cl == classSlow:
		return fmt.Errorf("%w: %s can't run in a transaction (Query with Stmt.Slow runs it)", ErrNotOnLane, word)
	case cl != classState || word == "lock":
		return nil
	case word == "set":
		// The effect of a SET LOCAL or SET TRANSACTION ends with the transaction.
		rest := sql[skipBlank(sql)+len(word):]
		switch firstWord(rest) {
		case "local", "constraints", "transaction":
			return nil
		}
	}
	return stateError(word)
}

// rewrite applies pgx.NamedArgs or another pgx.QueryRewriter that is the first of args. It is
// called without a connection.
func rewrite(ctx context.Context, sql string, args []any) (string, []any, error) {
	if len(args) == 0 {
		return sql, args, nil
	}
	rw, ok := args[0].(pgx.QueryRewriter)
	if !ok {
		return sql, args, nil
	}
	// A copy: args itself would escape to the heap in every query.
	rest := append([]any(nil), args[1:]...)
	sql, rest, err := rw.RewriteQuery(ctx, nil, sql, rest)
	if err != nil {
		return "", nil, fmt.Errorf("dbasync: rewriting the query: %w", err)
	}
	return sql, rest, nil
}

// isConflict reports whether the server rolled back a transaction because of others; a retry may
// succeed.
func isConflict(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && (pg.Code == codeSerialization || pg.Code == codeDeadlock)
}

// SQLSTATEs after which a transaction may be retried.
const (
	codeSerialization = "40001"
	codeDeadlock      = "40P01"
)
