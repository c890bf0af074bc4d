package migrate

import (
	"context"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/dbasync/pgembed"
)

// databases are fresh ones on one server.
type databases struct {
	srv *pgembed.Server
	n   int
}

func (d *databases) next(t *testing.T) string {
	t.Helper()
	d.n++
	name := "d" + string(rune('a'+d.n))
	run(t, d.srv.URL(), "create database "+name)
	return strings.Replace(d.srv.URL(), "/postgres?", "/"+name+"?", 1)
}

func run(t *testing.T, url string, sqls ...string) {
	t.Helper()
	conn, err := pgx.Connect(context.Background(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	for _, sql := range sqls {
		if _, err := conn.Exec(context.Background(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func TestFilesAsTheyComeFromElsewhere(t *testing.T) {
	d := &databases{srv: pgembed.ForTest(t, pgembed.Config{TCP: true})}
	ctx := context.Background()
	up := func(t *testing.T, url string, want int, kv ...string) {
		t.Helper()
		if n, err := Run(ctx, url, "s", files(kv...)); n != want || err != nil {
			t.Fatalf("got %d, %v, want %d", n, err, want)
		}
	}
	refused := func(t *testing.T, url, word string, kv ...string) {
		t.Helper()
		if _, err := Run(ctx, url, "s", files(kv...)); err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("got %v, want an error that says %q", err, word)
		}
	}

	t.Run("pg_dump", func(t *testing.T) {
		from, to := d.next(t), d.next(t)
		run(t, from, "create table w(id int primary key, s text)", "insert into w values (1, 'x''\n;')", "create function f() returns int language sql as $$ select 1; $$")
		out, err := exec.Command(filepath.Join(d.srv.BinDir(), "pg_dump"), "--inserts", from).Output()
		if err != nil {
			t.Fatal(err)
		}
		up(t, to, 2, "001_dump.sql", string(out), "002_path.sql", "create table after_dump as select * from w")
		if got := one[int](t, to, "select count(*) from public.after_dump"); got != 1 {
			t.Errorf("got %d rows, want 1", got)
		}
		up(t, to, 0, "001_dump.sql", string(out), "002_path.sql", "create table after_dump as select * from w")
		// With COPY and without --inserts it is psql's.
		out, err = exec.Command(filepath.Join(d.srv.BinDir(), "pg_dump"), from).Output()
		if err != nil {
			t.Fatal(err)
		}
		refused(t, d.next(t), "pg_dump --inserts", "001_dump.sql", string(out))
		refused(t, d.next(t), "pg_dump --inserts", "001_x.sql", "create table x(i int); copy x\nfrom STDIN;")
		refused(t, d.next(t), "backslash command", "001_x.sql", "\\connect other\n")
	})

	t.Run("settings end with their file", func(t *testing.T) {
		url := d.next(t)
		run(t, url, "create role nobody_here")
		up(t, url, 2, "001_set.sql", "create schema s; set search_path = s; set role nobody_here; set statement_timeout = '200ms'",
			"002_after.sql", "create table here(); select pg_sleep(0.4)")
		if one[bool](t, url, "select to_regclass('public.here') is null") {
			t.Error("the second file ran with the search_path of the first")
		}
	})

	t.Run("another tool's table", func(t *testing.T) {
		url := d.next(t)
		run(t, url, "create table schema_migrations(version bigint primary key, dirty boolean not null)", "insert into schema_migrations values (7, false)")
		up(t, url, 1, "001_a.sql", "create table a()")
		up(t, url, 0, "001_a.sql", "create table a()")
		if got := one[int](t, url, "select count(*) from schema_migrations"); got != 1 {
			t.Errorf("their table has %d rows, want 1", got)
		}
		url = d.next(t)
		run(t, url, "create table millrace_migrations(x int)")
		refused(t, url, "another tool's", "001_a.sql", "create table a()")
	})

	t.Run("no schema", func(t *testing.T) {
		refused(t, d.next(t)+"&search_path=nowhere", "search_path", "001_a.sql", "create table a()")
	})

	t.Run("concurrently", func(t *testing.T) {
		url := d.next(t)
		kv := []string{"001_t.sql", "create table t as select g from generate_series(1, 1000) g", "002_i.sql", "-- why\ncreate index concurrently ti on t(g);\n"}
		var wg sync.WaitGroup
		tctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		for range 4 { // those that wait for the lock must not hold up the index
			wg.Go(func() {
				if _, err := Run(tctx, url, "s", files(kv...)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if !one[bool](t, url, "select indisvalid from pg_index where indexrelid = 'ti'::regclass") {
			t.Error("the index is not valid")
		}
		up(t, url, 0, kv...)
		refused(t, url, "file of its own", append(kv, "003_x.sql", "create table x(); drop index concurrently ti")...)
		if one[bool](t, url, "select to_regclass('x') is not null") {
			t.Error("a part of a refused file is there")
		}
		refused(t, url, "INVALID", append(kv, "003_x.sql", "create unique index concurrently u on t((g/2))")...)
	})

	t.Run("its own transaction", func(t *testing.T) {
		refused(t, d.next(t), "BEGIN, COMMIT", "001_x.sql", "begin; create table x(); commit;")
	})

	t.Run("line ends", func(t *testing.T) {
		url := d.next(t)
		unix := "create table l(s text);\ninsert into l values ('a\nb');\n"
		dos := "\ufeff" + strings.ReplaceAll(unix, "\n", "\r\n")
		up(t, url, 1, "001_l.sql", "\ufeff"+unix)
		up(t, url, 0, "001_l.sql", dos)
		if got := one[string](t, url, "select s from l"); got != "a\nb" {
			t.Errorf("got %q", got)
		}
		// A note of a time when line ends counted.
		run(t, url, "update schema_migrations set sum = '"+sumOf(dos)+"'")
		for _, text := range []string{dos, "\ufeff" + unix} {
			up(t, url, 0, "001_l.sql", text)
		}
		if _, err := Run(ctx, url, "s", files("001_l.sql", dos+" ")); !errors.Is(err, ErrChanged) {
			t.Errorf("got %v, want ErrChanged", err)
		}
	})
}
