package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"millrace/internal/mask"
)

var (
	// ErrChanged: a migration that has run is not what it was then.
	ErrChanged = errors.New("migrate: a migration that has run was changed")
	// ErrNewer: the database has migrations that this program does not know.
	ErrNewer = errors.New("migrate: the database is newer than the program")
)

// migration is one file.
type migration struct {
	version   int
	name, sql string
	sum       string
}

// Run applies to the database at url what it lacks of the migrations of files (every
// *.sql in it, in whatever folder). set names a series: several parts of a program may have one
// each in the same database. It returns how many ran. Errors: ErrChanged, ErrNewer,
// a *pgconn.PgError of the server with the file's name; a failed migration leaves
// nothing of itself.
func Run(ctx context.Context, url, set string, files fs.FS) (int, error) {
	migrations, err := read(files)
	if err != nil {
		return 0, err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, fmt.Errorf("migrate: %w", mask.Error(err))
	}
	// Closing also gives the lock back, whatever has happened.
	defer conn.Close(context.WithoutCancel(ctx))
	if err := lock(ctx, conn); err != nil {
		return 0, err
	}
	done, err := applied(ctx, conn, set)
	if err != nil {
		return 0, err
	}
	if len(done) > len(migrations) {
		return 0, fmt.Errorf("%w: %s is at version %d, known are %d", ErrNewer, set, len(done), len(migrations))
	}
	for i, sum := range done {
		if m := migrations[i]; m.sum != sum {
			return 0, fmt.Errorf("%w: %s", ErrChanged, m.name)
		}
	}
	for n, m := range migrations[len(done):] {
		if err := apply(ctx, conn, set, m); err != nil {
			return n, err
		}
	}
	return len(migrations) - len(done), nil
}

// read returns the migrations in the order of their versions.
func read(files fs.FS) ([]migration, error) {
	var out []migration
	err := fs.WalkDir(files, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || path.Ext(p) != ".sql" {
			return err
		}
		m, err := readOne(files, p)
		out = append(out, m)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	slices.SortFunc(out, func(a, b migration) int { return a.version - b.version })
	for i, m := range out {
		if m.version != i+1 {
			return nil, fmt.Errorf("migrate: %s has version %d, want %d", m.name, m.version, i+1)
		}
	}
	return out, nil
}

func readOne(files fs.FS, p string) (migration, error) {
	b, err := fs.ReadFile(files, p)
	if err != nil {
		return migration{}, err
	}
	number, _, ok := strings.Cut(path.Base(p), "_")
	version, err := strconv.Atoi(number)
	if !ok || err != nil || version < 1 {
		return migration{}, fmt.Errorf("%s: its name is not NNN_name.sql", p)
	}
	sum := sha256.Sum256(b)
	return migration{version, path.Base(p), string(b), hex.EncodeToString(sum[:])}, nil
}

// lock takes turns with other programs that migrate this database, until the
// connection is closed.
func lock(ctx context.Context, conn *pgx.Conn) error {
	h := fnv.New64a()
	h.Write([]byte("millrace schema_migrations"))
	if _, err := conn.Exec(ctx, "select pg_advisory_lock($1)", int64(h.Sum64())); err != nil {
		return fmt.Errorf("migrate: lock: %w", err)
	}
	return nil
}

// applied returns the checksums of what has run, from version 1.
func applied(ctx context.Context, conn *pgx.Conn, set string) ([]string, error) {
	_, err := conn.Exec(ctx, `do $$ begin
	if to_regclass('schema_migrations') is null then
		create table schema_migrations (
			set text not null, version int not null, name text not null, sum text not null,
			at timestamptz not null default now(), primary key (set, version));
	end if; end $$`)
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	rows, err := conn.Query(ctx, "select sum from schema_migrations where set = $1 order by version", set)
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	sums, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, fmt.Errorf("migrate: %w", err)
	}
	return sums, nil
}

func apply(ctx context.Context, conn *pgx.Conn, set string, m migration) error {
	err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		// Several statements in one text need the simple protocol.
		if _, err := tx.Exec(ctx, m.sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "insert into schema_migrations (set, version, name, sum) values ($1, $2, $3, $4)",
			set, m.version, m.name, m.sum)
		return err
	})
	if err != nil {
		return fmt.Errorf("migrate: %s: %w", m.name, err)
	}
	return nil
}
