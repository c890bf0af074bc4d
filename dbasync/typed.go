package dbasync

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// Collect returns one T for each row of res. fn is pgx.RowTo, pgx.RowToStructByName or the like.
// The error is res.Err or that of decoding.
func Collect[T any](res QueryResult, fn pgx.RowToFunc[T]) ([]T, error) {
	out := make([]T, 0, res.Len())
	rows := res.Rows()
	defer rows.Close()
	for rows.Next() {
		v, err := fn(rows)
		if err != nil {
			return nil, fmt.Errorf("dbasync: row %d: %w", len(out), err)
		}
		out = append(out, v)
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	return out, nil
}

// Structs returns one struct T for each row of res: columns are stored in fields of the same name
// (ignoring case and underscores) or `db` tag; fields without a column stay zero.
func Structs[T any](res QueryResult) ([]T, error) {
	return Collect(res, pgx.RowToStructByNameLax[T])
}

// One is Structs for the first row only; it returns ErrNoRows if there is none.
func One[T any](res QueryResult) (T, error) {
	rows := res.Rows()
	defer rows.Close()
	var zero T
	if !rows.Next() {
		if err := rows.Err(); err != nil {
			return zero, err
		}
		return zero, ErrNoRows
	}
	v, err := pgx.RowToStructByNameLax[T](rows)
	if err != nil {
		return zero, fmt.Errorf("dbasync: %w", err)
	}
	return v, nil
}

// QueryStructs is DB.Query with a done that receives structs, as Structs returns them. They are
// decoded on the submitter.
func QueryStructs[T any](ctx context.Context, db *DB, on Submitter, done func([]T, error), stmt Stmt, args ...any) error {
	return db.Query(ctx, on, func(r QueryResult) { done(Structs[T](r)) }, stmt, args...)
}

// QueryOne is QueryStructs for one row.
func QueryOne[T any](ctx context.Context, db *DB, on Submitter, done func(T, error), stmt Stmt, args ...any) error {
	return db.Query(ctx, on, func(r QueryResult) { done(One[T](r)) }, stmt, args...)
}
