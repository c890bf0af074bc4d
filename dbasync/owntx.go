package dbasync

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// ownTx notes what becomes of a transaction that fn ends by itself.
type ownTx struct {
	pgx.Tx
	tried      bool
	err        error // of the commit
	rolledBack bool
}

// Commit implements pgx.Tx.
func (t *ownTx) Commit(ctx context.Context) error {
	err := t.Tx.Commit(ctx)
	if !errors.Is(err, pgx.ErrTxClosed) {
		t.tried, t.err = true, err
	}
	return err
}

var errEndedItself = errors.New("dbasync: the function ended its transaction with a statement of its own")

// outcome tells what became of a transaction that is over when fn returns; over is false
// when it is still to be ended. fnErr stays the result's error beside OK.
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
		return 0, "", nil, false // undone, as runTx finds
	case !c.Conn().IsClosed() && c.Conn().PgConn().TxStatus() == 'I':
		// By the text "commit" or "rollback": which of them, nobody has noted.
		err = errEndedItself
		if fnErr != nil {
			err = fmt.Errorf("%w: %w", err, fnErr)
		}
		return MayHaveRun, "", err, true
	}
	return 0, "", nil, false
}

// Rollback implements pgx.Tx.
func (t *ownTx) Rollback(ctx context.Context) error {
	err := t.Tx.Rollback(ctx)
	t.rolledBack = t.rolledBack || !errors.Is(err, pgx.ErrTxClosed)
	return err
}
