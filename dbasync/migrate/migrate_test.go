package migrate

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"go.uber.org/goleak"

	"millrace/dbasync/pgembed"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func files(kv ...string) fstest.MapFS {
	fs := fstest.MapFS{}
	for i := 0; i < len(kv); i += 2 {
		fs[kv[i]] = &fstest.MapFile{Data: []byte(kv[i+1])}
	}
	return fs
}

func one[T any](t *testing.T, url, sql string) T {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	var v T
	if err := conn.QueryRow(context.Background(), sql).Scan(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

const (
	first  = "create table w(id int primary key); insert into w select generate_series(1, 10);"
	second = "alter table w add column n int not null default 0;"
)

func TestEachMigrationRunsOnce(t *testing.T) {
	url := pgembed.ForTest(t, pgembed.Config{TCP: true}).URL()
	ctx := context.Background()
	fs := files("sql/001_w.sql", first)
	var wg sync.WaitGroup
	for range 8 { // programs that start together
		wg.Go(func() {
			if _, err := Run(ctx, url, "world", fs); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := one[int](t, url, "select count(*) from w"); got != 10 {
		t.Errorf("got %d rows, want 10", got)
	}
	n, err := Run(ctx, url, "world", files("sql/001_w.sql", first, "sql/002_n.sql", second))
	if n != 1 || err != nil {
		t.Errorf("got %d, %v, want 1", n, err)
	}
	if _, err := Run(ctx, url, "world", fs); !errors.Is(err, ErrNewer) {
		t.Errorf("got %v, want ErrNewer", err)
	}
	if n, err := Run(ctx, url, "other", files("001_x.sql", "create table x()")); n != 1 || err != nil {
		t.Errorf("second set: got %d, %v, want 1", n, err)
	}
	changed := files("sql/001_w.sql", first+" ", "sql/002_n.sql", second)
	if _, err := Run(ctx, url, "world", changed); !errors.Is(err, ErrChanged) {
		t.Errorf("got %v, want ErrChanged", err)
	}
}

func TestFailedMigrationLeavesNothing(t *testing.T) {
	url := pgembed.ForTest(t, pgembed.Config{TCP: true}).URL()
	ctx := context.Background()
	n, err := Run(ctx, url, "s", files("001_a.sql", "create table a()", "002_b.sql", "create table b(); select 1/0"))
	if n != 1 || err == nil {
		t.Fatalf("got %d, %v, want 1 and an error", n, err)
	}
	if one[bool](t, url, "select to_regclass('b') is not null") {
		t.Error("table b is there")
	}
	if n, err := Run(ctx, url, "s", files("001_a.sql", "create table a()", "002_b.sql", "create table b()")); n != 1 || err != nil {
		t.Errorf("mended: got %d, %v, want 1", n, err)
	}
}

func TestVersionsHaveNoGaps(t *testing.T) {
	for _, fs := range []fstest.MapFS{files("002_b.sql", ""), files("1a.sql", ""), files("001_a.sql", "", "x/001_b.sql", "")} {
		if _, err := read(fs); err == nil {
			t.Errorf("%v: no error", fs)
		}
	}
}
