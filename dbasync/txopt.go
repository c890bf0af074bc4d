package dbasync

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

type poolConn = pgxpool.Conn

// TxOptions are pgx.TxOptions (isolation level, access mode, deferrable mode), and how often a
// transaction is retried.
type TxOptions struct {
	pgx.TxOptions
	// MaxRetries is how many more times the transaction is run when the server rolled it back
	// because of concurrent transactions: serialization_failure (40001) or deadlock_detected
	// (40P01). The pause before each retry doubles from 5 ms to 500 ms, with jitter; ctx and
	// Config.SlowTimeout limit all of it. Other errors and lost connections are not retried.
	// Effects of fn outside its tx are repeated. 0: none.
	MaxRetries int
}

// BeginTxFunc is Tx with options, modelled on pgx.BeginTxFunc. With MaxRetries, fn may be called
// several times, one after another.
func (db *DB) BeginTxFunc(ctx context.Context, on Submitter, done func(QueryResult), opts TxOptions, fn func(context.Context, pgx.Tx) error) error {
	return db.submitJob(ctx, on, done, "", 0, func(ctx context.Context, c *poolConn) (Outcome, string, error) {
		return db.retrying(ctx, opts.MaxRetries, func() (Outcome, string, error) {
			return runTx(ctx, c, opts.TxOptions, fn)
		})
	})
}

// Limits of the pause before a transaction is retried.
const (
	minRetryPause = 5 * time.Millisecond
	maxRetryPause = 500 * time.Millisecond
)

// retrying calls run, and again up to more times while the server rolls it back because of other
// transactions. It runs on a slow connection's goroutine.
func (db *DB) retrying(ctx context.Context, more int, run func() (Outcome, string, error)) (Outcome, string, error) {
	pause := newBackoff(minRetryPause, maxRetryPause)
	for {
		o, tag, err := run()
		if more <= 0 || o != SQLError || !isConflict(err) {
			return o, tag, err
		}
		more--
		pause.wait(ctx)
		if ctx.Err() != nil {
			return o, tag, err
		}
		db.stats.txRetries.Add(1)
	}
}
