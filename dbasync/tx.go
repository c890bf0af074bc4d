package dbasync

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Tx runs fn in a transaction on an ordinary connection, on one of the DB's goroutines, where fn
// may block, and commits when fn returns nil. The result has no rows. ctx and Config.SlowTimeout
// limit it; fn's ctx ends with them.
//
// Outcomes: OK, committed; SQLError, fn or the commit failed and everything was rolled back (Err is
// fn's error); NotRun, the connection was lost before the commit was sent, so nothing remains;
// MayHaveRun, it was lost during the commit. If fn commits tx itself, the outcome is that of its
// commit, and Err is what fn returns. If fn ends the transaction by a COMMIT or ROLLBACK statement,
// the outcome is MayHaveRun, or OK if fn began another one by a statement and that is committed.
//
// Session state that fn sets (SET, temporary tables, advisory locks) is reset before the connection
// is used again.
func (db *DB) Tx(ctx context.Context, on Submitter, done func(QueryResult), fn func(context.Context, pgx.Tx) error) error {
	return db.BeginTxFunc(ctx, on, done, TxOptions{}, fn)
}

func runTx(ctx context.Context, c *pgxpool.Conn, opts pgx.TxOptions, fn func(context.Context, pgx.Tx) error) (Outcome, string, error) {
	tx, err := c.BeginTx(ctx, opts)
	if err != nil {
		return NotRun, "", fmt.Errorf("dbasync: begin: %w", err)
	}
	own := &ownTx{Tx: tx, ends: watchEnds(c)}
	o, tag, err := own.run(ctx, c, fn)
	if own.ends.sent && o != OK {
		return MayHaveRun, "", endedItself(err)
	}
	return o, tag, err
}

// run calls fn and ends the transaction, unless fn has ended it.
func (t *ownTx) run(ctx context.Context, c *pgxpool.Conn, fn func(context.Context, pgx.Tx) error) (Outcome, string, error) {
	err := t.call(ctx, fn)
	t.ends.off = true
	if o, tag, err, over := t.outcome(ctx, c, err); over {
		return o, tag, err
	}
	switch {
	case err != nil:
		return t.undo(ctx, c, err)
	case c.Conn().IsClosed() && !t.rolledBack: // fn has not reported it: no commit can be sent
		return NotRun, "", fmt.Errorf("%w before the commit", ErrConnLost)
	}
	switch err := t.Tx.Commit(ctx); {
	case err == nil:
		return OK, "COMMIT", nil
	case errors.Is(err, pgx.ErrTxCommitRollback) || errors.Is(err, pgx.ErrTxClosed):
		return SQLError, "", err
	default:
		o, err := outcomeOf(ctx, err)
		return o, "", err
	}
}

// undo ends the transaction of a function that failed.
func (t *ownTx) undo(ctx context.Context, c *pgxpool.Conn, err error) (Outcome, string, error) {
	bounded, cancel := parting(ctx, c)
	defer cancel()
	if isPanic(err) {
		// Its connection is in an unknown state; the server undoes what is open.
		c.Conn().Close(bounded)
		return SQLError, "", err
	}
	// If this fails, the connection is lost, which also rolls back.
	_ = t.Tx.Rollback(bounded)
	if c.Conn().IsClosed() && !isPgError(err) {
		return NotRun, "", err
	}
	return SQLError, "", err
}

// parting limits the last statements on a connection whose user's timeout may have expired: its
// peer may not answer.
func parting(ctx context.Context, c *pgxpool.Conn) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), c.Conn().Config().ConnectTimeout)
}

func isPgError(err error) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg)
}

// Do runs fn with an ordinary connection: for SET, cursors, temporary tables, session locks, COPY
// TO, or whatever needs the same connection for a while. fn runs on one of the DB's goroutines and
// may block. The connection is closed afterwards, so none of its state remains. Err is what fn
// returned. The Outcome is SQLError for an error of the server after which the connection is still
// usable; after any other error, or a panic, it is MayHaveRun, since only fn knows what it had
// done.
func (db *DB) Do(ctx context.Context, on Submitter, done func(QueryResult), fn func(context.Context, *pgx.Conn) error) error {
	return db.start(ctx, on, done, func(ctx context.Context, c *pgxpool.Conn) (Outcome, string, error) {
		defer func() {
			ctx, cancel := parting(ctx, c)
			defer cancel()
			c.Conn().Close(ctx)
		}()
		err := fn(ctx, c.Conn())
		var pg *pgconn.PgError
		switch {
		case err == nil:
			return OK, "", nil
		case errors.As(err, &pg) && isPlainError(pg):
			return SQLError, "", err
		}
		return MayHaveRun, "", err
	})
}

// CopyFrom loads rows into a table with COPY, in one transaction. src is read on one of the DB's
// goroutines. RowsAffected of the result is the number of rows.
func (db *DB) CopyFrom(ctx context.Context, on Submitter, done func(QueryResult), table pgx.Identifier, columns []string, src pgx.CopyFromSource) error {
	return db.start(ctx, on, done, func(ctx context.Context, c *pgxpool.Conn) (Outcome, string, error) {
		n, err := c.CopyFrom(ctx, table, columns, src)
		if err == nil {
			return OK, fmt.Sprintf("COPY %d", n), nil
		}
		if err := src.Err(); err != nil {
			return SQLError, "", fmt.Errorf("dbasync: copy source: %w", err)
		}
		o, err := outcomeOf(ctx, err)
		return o, "", err
	})
}

// start accepts a job as Query accepts a statement.
func (db *DB) start(ctx context.Context, on Submitter, done func(QueryResult), j job) error {
	return db.submitJob(ctx, on, done, "", 0, j)
}
