package dbasync

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// CopyTo runs sql, a COPY … TO STDOUT, in a transaction and writes its output to w, as pgconn's
// CopyTo does. w is written to on one of the DB's goroutines, one message (a row) at a time, so
// only one is in memory, and a slow w slows the server; an error of w ends the copy with SQLError.
// RowsAffected is the number of rows. ctx does not interrupt a Write that blocks: done may be
// called during it, and no other Write follows.
func (db *DB) CopyTo(ctx context.Context, on Submitter, done func(QueryResult), w io.Writer, sql string) error {
	if err := isCopy(sql, "to stdout"); err != nil {
		return db.refused(err)
	}
	return db.copyJob(ctx, on, done, sql, func(ctx context.Context, c *pgconn.PgConn) (pgconn.CommandTag, error, error) {
		out := &copyWriter{w: w}
		tag, err := c.CopyTo(ctx, out, sql)
		return tag, out.err, err
	})
}

// CopyFromReader runs sql, a COPY … FROM STDIN, in a transaction with the data of r, as pgconn's
// CopyFrom does: text, CSV or binary as sql says, 64 KiB at a time. r is read on one of the DB's
// goroutines; an error of r ends the copy with SQLError, and everything is rolled back.
// RowsAffected is the number of rows.
func (db *DB) CopyFromReader(ctx context.Context, on Submitter, done func(QueryResult), r io.Reader, sql string) error {
	if err := isCopy(sql, "from stdin"); err != nil {
		return db.refused(err)
	}
	return db.copyJob(ctx, on, done, sql, func(ctx context.Context, c *pgconn.PgConn) (pgconn.CommandTag, error, error) {
		in := &copyReader{r: r}
		tag, err := c.CopyFrom(ctx, in, sql)
		return tag, in.err, err
	})
}

// isCopy checks the direction of sql: the wrong one would wait for ever.
func isCopy(sql, direction string) error {
	words := strings.Join(strings.Fields(strings.ToLower(sql)), " ")
	if firstWord(sql) != "copy" || !strings.Contains(words, " "+direction) {
		return fmt.Errorf("dbasync: %s is not a COPY … %s", clip(sql), strings.ToUpper(direction))
	}
	return nil
}

// copyJob runs one copy in a transaction. own returns the error of the caller's reader or writer.
func (db *DB) copyJob(ctx context.Context, on Submitter, done func(QueryResult), sql string,
	run func(context.Context, *pgconn.PgConn) (tag pgconn.CommandTag, own, err error)) error {
	return db.submitJob(ctx, on, done, sql, 0, func(ctx context.Context, c *poolConn) (Outcome, string, error) {
		var tag pgconn.CommandTag
		var own error
		o, _, err := runTx(ctx, c, pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) (err error) {
			tag, own, err = run(ctx, tx.Conn().PgConn())
			if own != nil && err == nil {
				err = own
			}
			return err
		})
		if own != nil && ctx.Err() == nil {
			return SQLError, "", fmt.Errorf("dbasync: copy: %w", own) // its COMMIT was not sent
		}
		return o, tag.String(), err
	})
}

// copyWriter records the writer's error, to distinguish it from the connection's.
type copyWriter struct {
	w   io.Writer
	err error
}

func (w *copyWriter) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		w.err = err
	}
	return n, err
}

type copyReader struct {
	r   io.Reader
	err error
}

func (r *copyReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}
