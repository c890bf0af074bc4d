package dbasync

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// BatchResult is the result of one SendBatch, which succeeds or fails as a unit.
type BatchResult struct {
	// QueryResult is that of the unit: its Outcome and Err, without rows. Its SQL is that of the
	// first statement.
	QueryResult
	// Results has each statement's tag and rows, in order, if Outcome is OK; otherwise it is nil.
	// Together they are limited by Config.MaxResultRows and MaxResultBytes; a result whose rows
	// were dropped has ErrResultTooLarge as its Err.
	Results []QueryResult
	// Failed is the index of the statement that the server refused, -1 if it was none of them (but
	// the commit, for example, or the connection).
	Failed int
}

// SendBatch runs the statements queued in b in one transaction, BEGIN and COMMIT included, as a
// unit: they are sent in one write, under one Sync, on an ordinary connection that is held only for
// that time (the first use of a SQL text needs one more round trip). done is called once, after the
// commit, and the observer's OnQueryEnd once.
//
// Outcomes: OK, all committed; SQLError, a statement or the commit failed and all was rolled back;
// NotRun; MayHaveRun, the connection was lost before the commit was acknowledged.
//
// b is copied, byte slices too; other arguments must not change until done is called. All
// statements are described before any of them runs. So a unit with a CREATE, ALTER or DROP before
// its last statement is sent statement by statement instead, each described when it is its turn;
// objects that a function creates need BeginTxFunc. Refused are statements that end the transaction
// or outlive it (COMMIT, SET without LOCAL, LISTEN, COPY), callbacks of a QueuedQuery, since they
// would run before the commit, and an empty batch. Errors are those of Query.
func (db *DB) SendBatch(ctx context.Context, on Submitter, done func(BatchResult), b *pgx.Batch, opts TxOptions) error {
	u := &unit{db: db, opts: opts.TxOptions}
	size, err := u.copyFrom(ctx, b)
	if err != nil {
		return db.refused(err)
	}
	return db.submitUnit(ctx, on, u.deliver(done), u.stmts[0].SQL, size, u,
		func(ctx context.Context, c *poolConn) (Outcome, string, error) {
			return db.retrying(ctx, opts.MaxRetries, func() (Outcome, string, error) { return u.run(ctx, c) })
		})
}

// unit is the statements of one SendBatch.
type unit struct {
	db    *DB
	opts  pgx.TxOptions
	stmts []*pgx.QueuedQuery
	// alters: a statement alters something that a later one may use.
	alters bool

	results []QueryResult // the job's until it has ended with OK, then the completion's
	failed  int           // the job's until it has ended
}

func (u *unit) copyFrom(ctx context.Context, b *pgx.Batch) (size int, err error) {
	if b.Len() == 0 {
		return 0, errors.New("dbasync: an empty batch: Queue something first")
	}
	for i, q := range b.QueuedQueries {
		if q.Fn != nil {
			return 0, fmt.Errorf("dbasync: statement %d of the batch has a callback, which would run before the commit: read BatchResult.Results", i)
		}
		sql, args, err := rewrite(ctx, q.SQL, q.Arguments)
		if err == nil {
			err = allowedInTx(sql)
		}
		if err != nil {
			return 0, fmt.Errorf("statement %d of the batch: %w", i, err)
		}
		args, n := argsSize(sql, args)
		size += n
		u.stmts = append(u.stmts, &pgx.QueuedQuery{SQL: sql, Arguments: args})
		switch firstWord(sql) {
		case "create", "alter", "drop":
			u.alters = u.alters || i < b.Len()-1
		}
	}
	return size, nil
}

// held returns how many bytes the rows of a unit that has ended with OK take.
func (u *unit) held() (n int) {
	for i := range u.results {
		n += cap(u.results[i].data)
	}
	return n
}

// strip drops the rows, while the completion has not begun.
func (u *unit) strip() {
	for i := range u.results {
		if r := &u.results[i]; r.rows > 0 {
			r.data, r.rows, r.Err = nil, 0, ErrResultDropped
		}
	}
}

// deliver makes the completion of the unit. It may read the job's fields only if the outcome
// implies that the job has ended.
func (u *unit) deliver(done func(BatchResult)) func(QueryResult) {
	return func(r QueryResult) {
		res := BatchResult{QueryResult: r, Failed: -1}
		switch r.Outcome {
		case OK:
			res.Results = u.results
		case SQLError:
			res.Failed = u.failed
		}
		if done != nil {
			done(res)
		}
	}
}

// run sends the unit once, and again if a statement was prepared for a table that has been altered
// since: in that case nothing has run.
func (u *unit) run(ctx context.Context, c *poolConn) (o Outcome, tag string, err error) {
	if u.alters {
		return u.runSingly(ctx, c)
	}
	for range maxTries {
		o, tag, err = u.runOnce(ctx, c)
		var pg *pgconn.PgError
		if o != SQLError || !errors.As(err, &pg) || !planChanged(pg) {
			break
		}
	}
	return o, tag, err
}

// runSingly runs the statements one after another, in one transaction.
func (u *unit) runSingly(ctx context.Context, c *poolConn) (Outcome, string, error) {
	u.results, u.failed = make([]QueryResult, 0, len(u.stmts)), -1
	left := limits{u.db.cfg.MaxResultRows, u.db.cfg.MaxResultBytes}
	o, tag, err := runTx(ctx, c, u.opts, func(ctx context.Context, tx pgx.Tx) error {
		for i, q := range u.stmts {
			rows, err := tx.Query(ctx, q.SQL, append([]any{pgx.QueryExecModeDescribeExec}, q.Arguments...)...)
			if err == nil {
				u.results = append(u.results, u.db.gather(rows, &left))
				u.results[i].SQL = q.SQL
				err = rows.Err()
			}
			if err != nil {
				u.failed = i
				return fmt.Errorf("dbasync: statement %d of the batch: %w", i, err)
			}
		}
		return nil
	})
	if o != OK {
		u.results = nil
	}
	return o, tag, err
}

func (u *unit) runOnce(ctx context.Context, c *poolConn) (Outcome, string, error) {
	u.results, u.failed = make([]QueryResult, 0, len(u.stmts)), -1
	b := &pgx.Batch{}
	b.Queue(beginSQL(u.opts))
	for _, q := range u.stmts {
		b.Queue(q.SQL, q.Arguments...)
	}
	b.Queue(commitSQL(u.opts))
	br := c.Conn().SendBatch(ctx, b)
	tag, err := u.read(br)
	if e := br.Close(); err == nil {
		err = e
	}
	switch {
	case err == nil && tag == "ROLLBACK":
		return SQLError, "", pgx.ErrTxCommitRollback
	case err == nil:
		return OK, tag, nil
	}
	u.results = nil
	if !c.Conn().IsClosed() && c.Conn().PgConn().TxStatus() != 'I' {
		// This fails only with the connection, which also rolls back.
		bounded, cancel := parting(ctx, c)
		_, _ = c.Exec(bounded, "rollback")
		cancel()
	}
	o, err := u.outcome(ctx, c, err)
	if o == SQLError && u.failed >= 0 {
		err = fmt.Errorf("dbasync: statement %d of the batch: %w", u.failed, err)
	}
	return o, "", err
}

// outcome returns what an error means for the unit. While its statements are being described and
// its arguments encoded, nothing has been sent.
func (u *unit) outcome(ctx context.Context, c *poolConn, err error) (Outcome, error) {
	o, reason := outcomeOf(ctx, err)
	var pre pgx.ErrPreprocessingBatch
	if o == MayHaveRun && (errors.As(err, &pre) || !c.Conn().IsClosed()) {
		return NotRun, fmt.Errorf("dbasync: %w", err)
	}
	return o, reason
}

// read reads the answers; it returns the commit's tag.
func (u *unit) read(br pgx.BatchResults) (string, error) {
	if _, err := br.Exec(); err != nil { // BEGIN, or what was sent before it
		return "", err
	}
	left := limits{u.db.cfg.MaxResultRows, u.db.cfg.MaxResultBytes}
	for i, q := range u.stmts {
		rows, err := br.Query()
		if err == nil {
			res := u.db.gather(rows, &left)
			res.SQL = q.SQL
			u.results = append(u.results, res)
			err = rows.Err()
		}
		if err != nil {
			u.failed = i
			return "", err
		}
	}
	tag, err := br.Exec()
	return tag.String(), err
}

// gather reads rows to their end and keeps them within left; above it, it reads on and keeps none.
func (db *DB) gather(rows pgx.Rows, left *limits) QueryResult {
	res := QueryResult{Outcome: OK, Conn: -1, db: db}
	over := false
	for rows.Next() {
		if over {
			continue
		}
		res.data = appendDataRow(res.data, rows.RawValues())
		res.rows++
		if len(res.data) > left.bytes || left.rows >= 0 && res.rows > left.rows {
			over, res.data, res.rows, res.Err = true, nil, 0, ErrResultTooLarge
		}
	}
	left.bytes -= len(res.data)
	if left.rows >= 0 {
		left.rows -= res.rows
	}
	res.fields = slices.Clone(rows.FieldDescriptions())
	rows.Close()
	res.tag = rows.CommandTag().String()
	return res
}

func beginSQL(o pgx.TxOptions) string {
	if o.BeginQuery != "" {
		return o.BeginQuery
	}
	sql := "begin"
	if o.IsoLevel != "" {
		sql += " isolation level " + string(o.IsoLevel)
	}
	if o.AccessMode != "" {
		sql += " " + string(o.AccessMode)
	}
	if o.DeferrableMode != "" {
		sql += " " + string(o.DeferrableMode)
	}
	return sql
}

func commitSQL(o pgx.TxOptions) string {
	if o.CommitQuery != "" {
		return o.CommitQuery
	}
	return "commit"
}
