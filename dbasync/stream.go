package dbasync

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// A chunk of a Stream ends with the row that reaches either limit.
const (
	chunkRows  = 256
	chunkBytes = 64 << 10
)

// Stream runs stmt and delivers its rows in chunks as they arrive: at most 256 rows, or 64 KiB and
// one row. each is called on the submitter on (nil: the DB's pool), one call at a time and in
// order. The next chunk is read after each has returned, so only one chunk is in memory, whatever
// the size of the result, and a slow reader slows the server. A chunk may be kept, and is read like
// any result: Rows, Structs, Collect.
//
// Stream holds an ordinary connection and a transaction (READ ONLY for Stmt.ReadOnly) until the
// last chunk has been processed, limited by ctx and Config.SlowTimeout. If each returns an error,
// the statement is rolled back, its connection closed, and done gets SQLError with that error. done
// is called once, after the last call of each; the chunks are valid data only if its Outcome is OK.
// RowsAffected is the number of rows. A row larger than Config.MaxResultBytes ends the stream with
// ErrResultTooLarge; so does a submitter that is closed, with its error. The arguments must not
// change until done is called; byte slices are copied.
func (db *DB) Stream(ctx context.Context, on Submitter, done func(QueryResult), each func(QueryResult) error, stmt Stmt, args ...any) error {
	if err := streamable(stmt); err != nil {
		return db.refused(err)
	}
	args, size := argsSize(stmt.SQL, args)
	s := &stream{db: db, on: on, each: each, done: done, stmt: stmt, args: args}
	return db.submitJob(ctx, on, s.end, stmt.SQL, size, s.run)
}

func streamable(stmt Stmt) error {
	if stmt.Key != 0 {
		return ErrKeySlow
	}
	return allowedInTx(stmt.SQL)
}

// stream is the state of one Stream call.
type stream struct {
	db   *DB
	on   Submitter
	each func(QueryResult) error
	done func(QueryResult)
	stmt Stmt
	args []any

	stopped error // why the caller ended it; used by the job only
	rows    int64 // used by the job only

	mu      sync.Mutex
	busy    bool         // each runs; guarded by mu
	ended   bool         // the completion has arrived: each is not called again; guarded by mu
	waiting *QueryResult // the completion, while each runs; guarded by mu
}

// run is the job, on a slow connection's goroutine.
func (s *stream) run(ctx context.Context, c *poolConn) (Outcome, string, error) {
	opts := pgx.TxOptions{}
	if s.stmt.ReadOnly {
		opts.AccessMode = pgx.ReadOnly
	}
	o, _, err := runTx(ctx, c, opts, func(ctx context.Context, tx pgx.Tx) error {
		rows, err := tx.Query(ctx, s.stmt.SQL, s.args...)
		if err != nil {
			return err
		}
		if s.stopped = s.read(ctx, rows); s.stopped != nil {
			// Closing rows would read to the end of the result, whatever its size.
			c.Conn().PgConn().Conn().Close()
		}
		rows.Close()
		if s.stopped != nil {
			return s.stopped
		}
		return rows.Err()
	})
	switch { // its COMMIT was not sent
	case s.stopped != nil && ctx.Err() != nil:
		return NotRun, "", s.stopped
	case s.stopped != nil:
		return SQLError, "", s.stopped
	}
	return o, fmt.Sprintf("SELECT %d", s.rows), err
}

// read delivers the rows. It returns the caller's error or that of the context.
func (s *stream) read(ctx context.Context, rows pgx.Rows) error {
	var chunk QueryResult
	begin := func() {
		chunk = QueryResult{SQL: s.stmt.SQL, Conn: -1, db: s.db, fields: chunk.fields}
	}
	begin()
	for rows.Next() {
		if chunk.fields == nil {
			chunk.fields = slices.Clone(rows.FieldDescriptions())
		}
		before := len(chunk.data)
		chunk.data = appendDataRow(chunk.data, rows.RawValues())
		if len(chunk.data)-before > s.db.cfg.MaxResultBytes {
			return ErrResultTooLarge
		}
		s.rows++
		if chunk.rows++; chunk.rows < chunkRows && len(chunk.data) < chunkBytes {
			continue
		}
		if err := s.hand(ctx, chunk); err != nil {
			return err
		}
		begin()
	}
	if chunk.rows == 0 || rows.Err() != nil {
		return nil
	}
	return s.hand(ctx, chunk)
}

// errEachPanicked: the submitter reports the panic itself.
var errEachPanicked = errors.New("dbasync: the function that takes the rows panicked")

// hand gives one chunk to its submitter and waits for it.
func (s *stream) hand(ctx context.Context, chunk QueryResult) error {
	answer := make(chan error, 1)
	task := func() { s.call(chunk, answer) }
	on := s.on
	if on == nil {
		on = s.db.pool
	}
	pause := newBackoff(time.Millisecond, 20*time.Millisecond)
	for err := on.Submit(task); err != nil; err = on.Submit(task) {
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("dbasync: the submitter of the rows is closed: %w", err)
		}
		s.db.stats.submitterFull.Add(1)
		pause.wait(ctx)
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", whyEnded(ctx), ctx.Err())
		}
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", whyEnded(ctx), ctx.Err())
	}
}

// call runs on the submitter.
func (s *stream) call(chunk QueryResult, answer chan<- error) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.busy = true
	s.mu.Unlock()
	err := errEachPanicked
	defer func() {
		answer <- err
		s.mu.Lock()
		s.busy = false
		res := s.waiting
		s.mu.Unlock()
		if res != nil && s.done != nil {
			s.done(*res)
		}
	}()
	err = s.each(chunk)
}

// end is the completion, on the submitter or on the DB's pool. If the timeout expires while each
// runs, done is called by the goroutine on which each runs, after each.
func (s *stream) end(r QueryResult) {
	s.mu.Lock()
	s.ended = true
	if s.busy {
		s.waiting = &r
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	if s.done != nil {
		s.done(r)
	}
}
