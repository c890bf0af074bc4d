package dbasync

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ownTx records the outcome of a transaction that fn ends itself.
type ownTx struct {
	pgx.Tx
	ends       *textEnds
	tried      bool
	err        error // of the commit
	rolledBack bool
}

// Commit implements pgx.Tx.
func (t *ownTx) Commit(ctx context.Context) error {
	defer t.ends.ignore()()
	if t.Conn().IsClosed() { // nothing will be sent
		return t.Tx.Commit(ctx)
	}
	err := t.Tx.Commit(ctx)
	if !errors.Is(err, pgx.ErrTxClosed) {
		t.tried, t.err = true, err
	}
	return err
}

// Rollback implements pgx.Tx.
func (t *ownTx) Rollback(ctx context.Context) error {
	defer t.ends.ignore()()
	err := t.Tx.Rollback(ctx)
	t.rolledBack = t.rolledBack || !errors.Is(err, pgx.ErrTxClosed)
	return err
}

// call runs fn and returns its panic as a *panicError.
func (t *ownTx) call(ctx context.Context, fn func(context.Context, pgx.Tx) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicError{p, debug.Stack()}
		}
	}()
	return fn(ctx, t)
}

// panicError is a panic of the caller's function.
type panicError struct {
	value any
	stack []byte
}

func (e *panicError) Error() string { return fmt.Sprintf("dbasync: panic: %v", e.value) }

func isPanic(err error) bool {
	var p *panicError
	return errors.As(err, &p)
}

var errEndedItself = errors.New("dbasync: the function ended its transaction with a statement of its own")

// outcome returns the outcome of a transaction that has ended when fn returns; over is false if it
// has still to be ended. fnErr remains the result's error together with OK.
func (t *ownTx) outcome(ctx context.Context, c *pgxpool.Conn, fnErr error) (o Outcome, tag string, err error, over bool) {
	switch {
	case t.tried && t.err == nil:
		return OK, "COMMIT", fnErr, true
	case t.tried && errors.Is(t.err, pgx.ErrTxCommitRollback):
		return SQLError, "", t.err, true
	case t.tried:
		o, err = outcomeOf(ctx, t.err)
		return o, "", err, true
	case t.rolledBack:
		return 0, "", nil, false // rolled back, as runTx will find
	case !c.Conn().IsClosed() && c.Conn().PgConn().TxStatus() == 'I':
		// It was ended by the text "commit" or "rollback", and it is not known which.
		return MayHaveRun, "", endedItself(fnErr), true
	}
	return 0, "", nil, false
}

func endedItself(fnErr error) error {
	if fnErr == nil || errors.Is(fnErr, errEndedItself) {
		return errEndedItself
	}
	return fmt.Errorf("%w: %w", errEndedItself, fnErr)
}

// textEnds records whether a statement was sent whose text ends a transaction. If its answer is
// lost, or another transaction follows it, there is no other way to know.
type textEnds struct {
	sent bool
	off  bool // what is sent is not sent by fn
}

// ignore stops recording and returns a function that resumes it.
func (e *textEnds) ignore() func() {
	was := e.off
	e.off = true
	return func() { e.off = was }
}

// endsKey is where an ordinary connection keeps the textEnds of the transaction on it.
const endsKey = "dbasync.ends"

func watchEnds(c *pgxpool.Conn) *textEnds {
	e := &textEnds{}
	c.Conn().PgConn().CustomData()[endsKey] = e
	return e
}

// endsTracer is the pgx tracer of ordinary connections. It runs on the goroutine that
// uses the connection.
type endsTracer struct{}

var (
	_ pgx.QueryTracer   = endsTracer{}
	_ pgx.BatchTracer   = endsTracer{}
	_ pgx.PrepareTracer = endsTracer{}
)

func (endsTracer) note(c *pgx.Conn, sql string) {
	if e, ok := c.PgConn().CustomData()[endsKey].(*textEnds); ok && !e.off && endsTx(sql) {
		e.sent = true
	}
}

func (t endsTracer) TraceQueryStart(ctx context.Context, c *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	t.note(c, d.SQL)
	return ctx
}

func (t endsTracer) TraceBatchStart(ctx context.Context, c *pgx.Conn, d pgx.TraceBatchStartData) context.Context {
	for _, q := range d.Batch.QueuedQueries {
		t.note(c, q.SQL)
	}
	return ctx
}

func (t endsTracer) TracePrepareStart(ctx context.Context, c *pgx.Conn, d pgx.TracePrepareStartData) context.Context {
	t.note(c, d.SQL)
	return ctx
}

func (endsTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData)     {}
func (endsTracer) TraceBatchQuery(context.Context, *pgx.Conn, pgx.TraceBatchQueryData) {}
func (endsTracer) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData)     {}
func (endsTracer) TracePrepareEnd(context.Context, *pgx.Conn, pgx.TracePrepareEndData) {}
