package dbasync

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// QueryResult is the result of one query. It and everything read from it may be kept, and read by
// any number of goroutines; no memory of it is reused.
type QueryResult struct {
	// Outcome says what became of the transaction.
	Outcome Outcome
	// Err is nil when Outcome is OK and the rows are complete. It is a *pgconn.PgError for
	// SQLError, may be ErrResultTooLarge or ErrResultDropped with OK, and is the reason for the
	// other outcomes.
	Err error
	// SQL and Key are those of the statement.
	SQL string
	Key uint64
	// Stale: the submitter is closed, and the completion runs on the DB's pool. The requester no
	// longer exists; send it nothing.
	Stale bool
	// Conn is the index of the shared connection that answered, -1 for a slow one. It has no
	// meaning for NotRun and MayHaveRun.
	Conn int
	// Elapsed is the time from Query to the answer.
	Elapsed time.Duration

	tag    string
	data   []byte // DataRow messages as received
	rows   int
	fields []pgconn.FieldDescription
	db     *DB
}

// Tag returns the server's command tag, such as "SELECT 1" or "UPDATE 3".
func (r QueryResult) Tag() string { return r.tag }

// RowsAffected returns the number in the command tag.
func (r QueryResult) RowsAffected() int64 { return pgconn.NewCommandTag(r.tag).RowsAffected() }

// Len returns the number of rows.
func (r QueryResult) Len() int { return r.rows }

// Bytes returns the size of the rows as received, in bytes.
func (r QueryResult) Bytes() int { return len(r.data) }

// Fields returns the descriptions of the columns. They belong to the DB: do not change them.
func (r QueryResult) Fields() []pgconn.FieldDescription { return r.fields }

// Columns returns the names of the columns.
func (r QueryResult) Columns() []string {
	names := make([]string, len(r.fields))
	for i := range r.fields {
		names[i] = r.fields[i].Name
	}
	return names
}

// Rows returns a reader over the rows, from the first. It decodes values when they are read. It
// implements pgx.Rows, so pgx.CollectRows and the like work on it. A Rows is for one goroutine.
func (r QueryResult) Rows() *Rows {
	return &Rows{res: r, rest: r.data, err: r.Err}
}

// Scan reads the first row into dest, as pgx's QueryRow().Scan does. It returns Err,
// or ErrNoRows.
func (r QueryResult) Scan(dest ...any) error {
	if r.Err == nil && r.scanPlain(dest) {
		return nil
	}
	rows := Rows{res: r, rest: r.data, err: r.Err}
	if !rows.Next() {
		if rows.err != nil {
			return rows.err
		}
		return ErrNoRows
	}
	err := rows.Scan(dest...)
	rows.Close()
	return err
}

// scanPlain reads a first row of plain types without a Rows; false means that a Rows is needed.
func (r *QueryResult) scanPlain(dest []any) bool {
	if len(r.data) < 7 || len(dest) != len(r.fields) {
		return false
	}
	b := r.data[7:]
	for i, d := range dest {
		if len(b) < 4 {
			return false
		}
		size := int(int32(binary.BigEndian.Uint32(b)))
		b = b[4:]
		if size < 0 || size > len(b) || !scanQuick(&r.fields[i], b[:size], d) {
			return false
		}
		b = b[size:]
	}
	return true
}

// Rows iterates over the rows of a result.
type Rows struct {
	res    QueryResult
	rest   []byte
	values [][]byte
	enc    *encoder // its type map; nil until needed
	err    error
}

var _ pgx.Rows = (*Rows)(nil)

var errBadRow = errors.New("dbasync: malformed row")

// Next moves to the next row. It returns false at the end or after an error.
func (r *Rows) Next() bool {
	if r.err != nil || len(r.rest) < 7 {
		r.Close()
		return false
	}
	size := messageSize(r.rest)
	if size < 7 || size > len(r.rest) {
		r.fail(errBadRow)
		return false
	}
	row := r.rest[5:size]
	r.rest = r.rest[size:]
	return r.split(row)
}

// split splits a DataRow's body into values.
func (r *Rows) split(b []byte) bool {
	n := int(binary.BigEndian.Uint16(b))
	b = b[2:]
	if r.values == nil {
		r.values = make([][]byte, 0, n)
	}
	r.values = r.values[:0]
	for range n {
		if len(b) < 4 {
			return r.fail(errBadRow)
		}
		size := int(int32(binary.BigEndian.Uint32(b)))
		b = b[4:]
		switch {
		case size < 0:
			r.values = append(r.values, nil)
			continue
		case size > len(b):
			return r.fail(errBadRow)
		}
		r.values = append(r.values, b[:size:size])
		b = b[size:]
	}
	if len(r.values) != len(r.res.fields) {
		return r.fail(errBadRow)
	}
	return true
}

func (r *Rows) fail(err error) bool {
	r.err = err
	r.Close()
	return false
}

// Close ends the iteration; the result remains valid.
func (r *Rows) Close() {
	r.rest = nil
	if r.enc != nil {
		r.res.db.encs.put(r.enc)
		r.enc = nil
	}
}

// Err returns the error of the query or of the iteration.
func (r *Rows) Err() error { return r.err }

// CommandTag implements pgx.Rows.
func (r *Rows) CommandTag() pgconn.CommandTag { return pgconn.NewCommandTag(r.res.tag) }

// FieldDescriptions implements pgx.Rows.
func (r *Rows) FieldDescriptions() []pgconn.FieldDescription { return r.res.fields }

// RawValues returns the row's values as received; they belong to the result.
func (r *Rows) RawValues() [][]byte { return r.values }

// Conn implements pgx.Rows; it returns nil, since the connection is shared.
func (r *Rows) Conn() *pgx.Conn { return nil }

// TypeMap implements pgx.Rows. The map may be used until Close.
func (r *Rows) TypeMap() *pgtype.Map {
	if r.enc == nil {
		if r.res.db == nil {
			return pgtype.NewMap()
		}
		r.enc = r.res.db.encs.get()
	}
	return r.enc.m
}

// Scan reads the row's values into dest, one pointer for each column (nil skips one), or into one
// pgx.RowScanner.
func (r *Rows) Scan(dest ...any) error {
	if len(dest) == 1 {
		if rs, ok := dest[0].(pgx.RowScanner); ok {
			return r.check(rs.ScanRow(r))
		}
	}
	if len(dest) != len(r.values) {
		return r.check(fmt.Errorf("dbasync: got %d destinations for %d columns", len(dest), len(r.values)))
	}
	for i, d := range dest {
		f := &r.res.fields[i]
		if d == nil || scanQuick(f, r.values[i], d) {
			continue
		}
		if err := r.TypeMap().Scan(f.DataTypeOID, f.Format, r.values[i], d); err != nil {
			return r.check(fmt.Errorf("dbasync: column %s: %w", f.Name, err))
		}
	}
	return nil
}

func (r *Rows) check(err error) error {
	if err != nil {
		r.fail(err)
	}
	return err
}

// scanQuick decodes common pairs of column type and destination without a type map.
func scanQuick(f *pgconn.FieldDescription, src []byte, dest any) bool {
	if src == nil {
		return false
	}
	switch d := dest.(type) {
	case *int32:
		if f.DataTypeOID == pgtype.Int4OID && f.Format == fmtBinary && len(src) == 4 {
			*d = int32(binary.BigEndian.Uint32(src))
			return true
		}
	case *int64:
		v, ok := quickInt(f, src)
		if ok {
			*d = v
		}
		return ok
	case *int:
		if v, ok := quickInt(f, src); ok && int64(int(v)) == v { // otherwise pgx reports the overflow
			*d = int(v)
			return true
		}
	case *string:
		if f.DataTypeOID == pgtype.TextOID || f.DataTypeOID == pgtype.VarcharOID {
			*d = string(src)
			return true
		}
	}
	return false
}

func quickInt(f *pgconn.FieldDescription, src []byte) (int64, bool) {
	switch {
	case f.Format != fmtBinary:
	case f.DataTypeOID == pgtype.Int4OID && len(src) == 4:
		return int64(int32(binary.BigEndian.Uint32(src))), true
	case f.DataTypeOID == pgtype.Int8OID && len(src) == 8:
		return int64(binary.BigEndian.Uint64(src)), true
	}
	return 0, false
}

// Values decodes the row into plain Go types, as pgx does.
func (r *Rows) Values() ([]any, error) {
	out := make([]any, len(r.values))
	for i, src := range r.values {
		if src == nil {
			continue
		}
		f := &r.res.fields[i]
		m := r.TypeMap()
		t, ok := m.TypeForOID(f.DataTypeOID)
		switch {
		case ok:
			v, err := t.Codec.DecodeValue(m, f.DataTypeOID, f.Format, src)
			if err != nil {
				return nil, r.check(fmt.Errorf("dbasync: column %s: %w", f.Name, err))
			}
			out[i] = v
		case f.Format == fmtText:
			out[i] = string(src)
		default:
			out[i] = append([]byte(nil), src...)
		}
	}
	return out, nil
}
