package migrate

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"math/rand/v2"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/internal/mask"
)

var (
	// ErrChanged: a migration that has run was modified since.
	ErrChanged = errors.New("migrate: a migration that has run was changed")
	// ErrNewer: the database has migrations that this program does not have.
	ErrNewer = errors.New("migrate: the database is newer than the program")
)

// migration is one file.
type migration struct {
	version   int
	name, sql string
	sum       string // of the text with LF
	sumCRLF   string // with CRLF: records written when line endings counted
}

// Run applies the missing migrations of files (every *.sql in it, in any folder) to the database at
// url. set names a series: several parts of a program may have one each in the same database. It
// returns how many ran. Errors: ErrChanged, ErrNewer, a *pgconn.PgError of the server with the
// file's name; a failed migration is rolled back.
func Run(ctx context.Context, url, set string, files fs.FS) (int, error) {
	migrations, err := read(files)
	if err != nil {
		return 0, err
	}
	conn, err := pgx.Connect(ctx, url)
	if err != nil {
		return 0, fmt.Errorf("migrate: %w", mask.Error(err))
	}
	// Closing also releases the lock.
	defer conn.Close(context.WithoutCancel(ctx))
	if err := lock(ctx, conn); err != nil {
		return 0, err
	}
	n, err := openNotes(ctx, conn)
	if err != nil {
		return 0, err
	}
	done, err := n.applied(ctx, conn, set)
	if err != nil {
		return 0, err
	}
	if len(done) > len(migrations) {
		return 0, fmt.Errorf("%w: %s is at version %d, known are %d", ErrNewer, set, len(done), len(migrations))
	}
	for i, sum := range done {
		if m := migrations[i]; m.sum != sum && m.sumCRLF != sum {
			return 0, fmt.Errorf("%w: %s", ErrChanged, m.name)
		}
	}
	for i, m := range migrations[len(done):] {
		if err := apply(ctx, url, n, set, m); err != nil {
			return i, err
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
	text := strings.ReplaceAll(string(b), "\r\n", "\n")
	return migration{
		version: version, name: path.Base(p), sql: plain(text),
		sum: sumOf(text), sumCRLF: sumOf(strings.ReplaceAll(text, "\n", "\r\n")),
	}, nil
}

func sumOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

// restrictLine matches lines that pg_dump adds for psql only.
var restrictLine = regexp.MustCompile(`(?m)^\\(un)?restrict [0-9A-Za-z]+$`)

// plain returns text as the server accepts it: without a byte order mark and psql's restrict lines.
func plain(text string) string {
	return restrictLine.ReplaceAllString(strings.TrimPrefix(text, "\ufeff"), "")
}

// Limits of the pause before the lock is tried again.
const (
	minPause = 10 * time.Millisecond
	maxPause = 500 * time.Millisecond
)

// lock acquires an advisory lock, held until the connection is closed, so that programs migrate
// this database one at a time. It polls instead of waiting in the server: a session that waits
// there has a snapshot, and CREATE INDEX CONCURRENTLY in the session that holds the lock would wait
// for that snapshot.
func lock(ctx context.Context, conn *pgx.Conn) error {
	h := fnv.New64a()
	h.Write([]byte("millrace schema_migrations"))
	for pause := minPause; ; pause = min(maxPause, 2*pause) {
		var ok bool
		if err := conn.QueryRow(ctx, "select pg_try_advisory_lock($1)", int64(h.Sum64())).Scan(&ok); err != nil {
			return fmt.Errorf("migrate: lock: %w", err)
		}
		if ok {
			return nil
		}
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-ctx.Done():
			return fmt.Errorf("migrate: lock: another program migrates this database: %w", ctx.Err())
		}
	}
}
