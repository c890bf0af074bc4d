package migrate

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Tables in which the migrations that have run are recorded. The second name is used if
// schema_migrations belongs to another tool.
const (
	notesTable = "schema_migrations"
	ownTable   = "millrace_migrations"
)

var notesColumns = []string{"at", "name", "set", "sum", "version"}

// notes is the table of recorded migrations. It is always qualified with its schema, since a
// migration may leave any search_path behind, as a pg_dump does.
type notes struct{ table string }

// openNotes finds the table or creates it.
func openNotes(ctx context.Context, conn *pgx.Conn) (notes, error) {
	for _, name := range []string{ownTable, notesTable} {
		table, columns, err := find(ctx, conn, name)
		if err != nil {
			return notes{}, fmt.Errorf("migrate: %w", err)
		}
		if slices.Equal(columns, notesColumns) {
			return notes{table}, nil
		}
		if name == ownTable && table != "" {
			return notes{}, fmt.Errorf("migrate: %s has columns %v, want %v: it is another tool's; rename it", table, columns, notesColumns)
		}
		if name == notesTable && table != "" {
			return makeNotes(ctx, conn, ownTable)
		}
	}
	return makeNotes(ctx, conn, notesTable)
}

// find returns the table with that name on the search_path, quoted and qualified with its schema,
// and its column names, sorted; "" if there is none.
func find(ctx context.Context, conn *pgx.Conn, name string) (table string, columns []string, err error) {
	err = conn.QueryRow(ctx, `select format('%I.%I', n.nspname, c.relname),
		(select coalesce(array_agg(a.attname::text order by a.attname collate "C"), '{}') from pg_catalog.pg_attribute a
			where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped)
		from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
		where c.oid = pg_catalog.to_regclass($1)`, name).Scan(&table, &columns)
	if errors.Is(err, pgx.ErrNoRows) {
		return "", nil, nil
	}
	return table, columns, err
}

func makeNotes(ctx context.Context, conn *pgx.Conn, name string) (notes, error) {
	var schema *string
	if err := conn.QueryRow(ctx, "select quote_ident(pg_catalog.current_schema())").Scan(&schema); err != nil {
		return notes{}, fmt.Errorf("migrate: %w", err)
	}
	if schema == nil {
		return notes{}, fmt.Errorf("migrate: the search_path of the connection has no schema to keep %s in: create one, or name one in the URL (search_path=public)", name)
	}
	n := notes{*schema + "." + name}
	_, err := conn.Exec(ctx, "create table "+n.table+` (
		set text not null, version int not null, name text not null, sum text not null,
		at timestamptz not null default now(), primary key (set, version))`)
	if err != nil {
		return notes{}, fmt.Errorf("migrate: %w", err)
	}
	return n, nil
}

// applied returns the checksums of the migrations that have run, from version 1.
func (n notes) applied(ctx context.Context, conn *pgx.Conn, set string) ([]string, error) {
	rows, err := conn.Query(ctx, "select sum from "+n.table+" where set = $1 order by version", set)
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	sums, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	return sums, nil
}

// execer is a connection or a transaction on it.
type execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// add records that m has run.
func (n notes) add(ctx context.Context, on execer, set string, m migration) error {
	_, err := on.Exec(ctx, "insert into "+n.table+" (set, version, name, sum) values ($1, $2, $3, $4)",
		set, m.version, m.name, m.sum)
	return err
}
