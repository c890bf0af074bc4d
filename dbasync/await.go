package dbasync

import (
	"context"
	"errors"
	"io"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Await makes one call of a DB and waits for its completion, which runs on the calling goroutine,
// as do the chunks of a Stream:
//
//	res, err := dbasync.Await(func(on dbasync.Submitter, done func(dbasync.QueryResult)) error {
//		return db.CopyFrom(ctx, on, done, table, columns, src)
//	})
//
// A non-nil error means that the call was refused. Await blocks, at most until the call's own
// context or timeout ends it. It is for programs, tests and goroutines that may wait, never for an
// event loop, whose other sessions would wait too. On a worker pool it occupies a worker; it needs
// no other worker to return.
func Await(call func(on Submitter, done func(QueryResult)) error) (QueryResult, error) {
	w := make(waiter, 4)
	var res QueryResult
	ended := false
	if err := call(w, func(r QueryResult) { res, ended = r, true }); err != nil {
		return QueryResult{}, err
	}
	for !ended {
		(<-w)()
	}
	return res, nil
}

// waiter is the Submitter of a goroutine that waits. One call has at most one chunk and one
// completion pending.
type waiter chan func()

func (w waiter) Submit(fn func()) error {
	select {
	case w <- fn:
		return nil
	default:
		return errWorkersFull
	}
}

// Blocking is a view of a DB with the methods of pgxpool.Pool, for callers that may wait, such as
// generated code (sqlc and the like). Its statements use the shared connections as all others do. A
// method returns when its query has ended or its context has; see Await for who may call it.
//
// An error of the server is returned as *pgconn.PgError, any other failure as *OutcomeError.
type Blocking struct{ db *DB }

// Blocking returns the view of db for callers that may wait.
func (db *DB) Blocking() Blocking { return Blocking{db} }

// OutcomeError reports the outcome of a query that ended with neither a result nor an error of the
// server. It wraps the reason, for errors.Is: context.DeadlineExceeded, ErrConnLost.
type OutcomeError struct {
	Outcome Outcome // NotRun or MayHaveRun; OK with ErrResultTooLarge
	Err     error
}

func (e *OutcomeError) Error() string { return e.Err.Error() + " (" + e.Outcome.String() + ")" }
func (e *OutcomeError) Unwrap() error { return e.Err }

func blockingError(r QueryResult) error {
	if r.Err == nil || r.Outcome == SQLError {
		return r.Err
	}
	return &OutcomeError{r.Outcome, r.Err}
}

func (b Blocking) ask(ctx context.Context, rows bool, sql string, args []any) (QueryResult, error) {
	stmt := Stmt{SQL: sql}
	cl, _ := classify(sql)
	stmt.Slow = cl == classSlow // VACUUM and the like can run only there
	res, err := Await(func(on Submitter, done func(QueryResult)) error {
		return b.db.submit(ctx, on, done, stmt, rows, args)
	})
	if err != nil {
		return res, &OutcomeError{NotRun, err}
	}
	return res, blockingError(res)
}

// Exec runs sql and returns its command tag.
func (b Blocking) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	res, err := b.ask(ctx, false, sql, args)
	return pgconn.NewCommandTag(res.tag), err
}

// Query runs sql and returns all its rows, at most Config.MaxResultRows and MaxResultBytes; use
// Stream for more. The rows are never nil and hold no connection, so they need not be closed.
func (b Blocking) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	res, err := b.ask(ctx, true, sql, args)
	rows := res.Rows()
	rows.err = err
	return rows, err
}

// QueryRow runs sql. Scan of the returned row reads the first row, or returns the error or
// ErrNoRows.
func (b Blocking) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	res, err := b.ask(ctx, true, sql, args)
	res.Err = err
	return res
}

// SendBatch runs the statements of q as DB.SendBatch does, as one transaction, and returns
// the result of each.
func (b Blocking) SendBatch(ctx context.Context, q *pgx.Batch, opts TxOptions) ([]QueryResult, error) {
	var out []QueryResult
	res, err := Await(func(on Submitter, done func(QueryResult)) error {
		return b.db.SendBatch(ctx, on, func(r BatchResult) {
			out = r.Results
			done(r.QueryResult)
		}, q, opts)
	})
	if err != nil {
		return nil, &OutcomeError{NotRun, err}
	}
	return out, blockingError(res)
}

// BeginTxFunc runs fn in a transaction, as DB.BeginTxFunc does. When ctx ends, fn's context ends
// too; BeginTxFunc returns after fn has.
func (b Blocking) BeginTxFunc(ctx context.Context, opts TxOptions, fn func(context.Context, pgx.Tx) error) error {
	var guard borrowed
	_, err := b.job(&guard, func(on Submitter, done func(QueryResult)) error {
		return b.db.BeginTxFunc(ctx, on, done, opts, func(ctx context.Context, tx pgx.Tx) error {
			if !guard.enter() {
				return context.Canceled
			}
			defer guard.leave()
			return fn(ctx, tx)
		})
	})
	return err
}

// CopyFrom loads rows into a table as DB.CopyFrom does, and returns their number. src is not used
// after it returns.
func (b Blocking) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	var guard borrowed
	res, err := b.job(&guard, func(on Submitter, done func(QueryResult)) error {
		return b.db.CopyFrom(ctx, on, done, table, columns, &guardedSource{src, &guard})
	})
	return res.RowsAffected(), err
}

// CopyTo writes the output of a COPY … TO STDOUT to w as DB.CopyTo does, and returns the number of
// rows. w is not used after it returns.
func (b Blocking) CopyTo(ctx context.Context, w io.Writer, sql string) (int64, error) {
	var guard borrowed
	res, err := b.job(&guard, func(on Submitter, done func(QueryResult)) error {
		return b.db.CopyTo(ctx, on, done, &guardedWriter{w, &guard}, sql)
	})
	return res.RowsAffected(), err
}

// job waits for a call that uses something of the caller's, and then for its last use.
func (b Blocking) job(guard *borrowed, call func(Submitter, func(QueryResult)) error) (QueryResult, error) {
	res, err := Await(call)
	if err != nil {
		return res, &OutcomeError{NotRun, err}
	}
	guard.end()
	return res, blockingError(res)
}

// borrowed guards something of the caller's that a job uses: the completion for a context that has
// ended may arrive while the job still uses it.
type borrowed struct {
	mu    sync.Mutex // held during a use, and at no other time
	ended bool       // guarded by mu
}

// enter begins a use; it returns false after end.
func (b *borrowed) enter() bool {
	b.mu.Lock()
	if b.ended {
		b.mu.Unlock()
		return false
	}
	return true
}

func (b *borrowed) leave() { b.mu.Unlock() }

// end waits for the current use, and prevents further ones.
func (b *borrowed) end() {
	b.mu.Lock()
	b.ended = true
	b.mu.Unlock()
}

var errReturned = errors.New("dbasync: the call has returned")

// guardedSource is a pgx.CopyFromSource that is not used after its call has returned.
type guardedSource struct {
	src   pgx.CopyFromSource
	guard *borrowed
}

func (s *guardedSource) Next() bool {
	if !s.guard.enter() {
		return false
	}
	defer s.guard.leave()
	return s.src.Next()
}

func (s *guardedSource) Values() ([]any, error) {
	if !s.guard.enter() {
		return nil, errReturned
	}
	defer s.guard.leave()
	return s.src.Values()
}

func (s *guardedSource) Err() error {
	if !s.guard.enter() {
		return errReturned
	}
	defer s.guard.leave()
	return s.src.Err()
}

type guardedWriter struct {
	w     io.Writer
	guard *borrowed
}

func (w *guardedWriter) Write(p []byte) (int, error) {
	if !w.guard.enter() {
		return 0, errReturned
	}
	defer w.guard.leave()
	return w.w.Write(p)
}
