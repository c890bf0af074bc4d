package migrate

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs that decide how a file has to run.
const (
	codeInTransaction = "25001" // active_sql_transaction: a statement that can't run in one
	codeSyntax        = "42601"
)

// apply runs m on a connection of its own, so that what it SETs ends with it.
func apply(ctx context.Context, url string, n notes, set string, m migration) error {
	if copyData.MatchString(m.sql) {
		return fmt.Errorf("migrate: %s: %w", m.name, errCopyData)
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return fmt.Errorf("migrate: %s: %w", m.name, err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	err = inTransaction(ctx, conn, n, set, m)
	if isCode(err, codeInTransaction) { // it was rolled back
		err = alone(ctx, conn, n, set, m)
	}
	if err != nil {
		return fmt.Errorf("migrate: %s: %w", m.name, explain(err))
	}
	return nil
}

// inTransaction runs m and records it in one transaction.
func inTransaction(ctx context.Context, conn *pgx.Conn, n notes, set string, m migration) error {
	return pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// Several statements in one text need the simple protocol.
		if _, err := tx.Exec(ctx, m.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		if conn.PgConn().TxStatus() != 'T' {
			return errors.New("it ends the transaction it runs in: remove its BEGIN, COMMIT and ROLLBACK (what came before them may be in the database)")
		}
		// The file may have changed the role.
		if _, err := tx.Exec(ctx, "reset session authorization; reset role", pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		return n.add(ctx, tx, set, m)
	})
}

// alone runs a file that is one statement outside a transaction, as CREATE INDEX CONCURRENTLY
// needs. The extended protocol accepts one statement only.
func alone(ctx context.Context, conn *pgx.Conn, n notes, set string, m migration) error {
	err := conn.PgConn().ExecParams(ctx, m.sql, nil, nil, nil, nil).Read().Err
	switch {
	case isCode(err, codeSyntax):
		return fmt.Errorf("it has a statement that can't run in a transaction (CONCURRENTLY, VACUUM, …) together with others: give that one a file of its own: %w", err)
	case err != nil:
		return fmt.Errorf("outside a transaction (an index that was being built may be left INVALID: drop it): %w", err)
	}
	return n.add(ctx, conn, set, m)
}

func isCode(err error, code string) bool {
	var pg *pgconn.PgError
	return errors.As(err, &pg) && pg.Code == code
}

// copyData matches a COPY whose rows follow it: the server would wait for them for ever.
var copyData = regexp.MustCompile(`(?im)(^|;)\s*copy\s[^;]*\sfrom\s+stdin\b`)

var errCopyData = errors.New("COPY … FROM stdin with its rows in the file is psql's: use INSERT (pg_dump --inserts)")

// explain adds a hint to errors of files that are written for psql.
func explain(err error) error {
	var pg *pgconn.PgError
	if errors.As(err, &pg) && pg.Code == codeSyntax && strings.Contains(pg.Message, `"\"`) {
		return fmt.Errorf("a backslash command is psql's, not SQL: remove it: %w", err)
	}
	return err
}
