package dbasync

import (
	"context"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"millrace/dbasync/pgembed"
)

// standby makes a hot standby of srv with pg_basebackup and starts it.
func standby(t *testing.T, srv *pgembed.Server) *pgembed.Server {
	t.Helper()
	tool := filepath.Join(srv.BinDir(), "pg_basebackup")
	if _, err := os.Stat(tool); err != nil {
		t.Skipf("skipped: %v", err)
	}
	base, err := os.MkdirTemp("", "mstandby")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	if err := os.Chmod(base, 0o755); err != nil { // the server's account walks through it
		t.Fatal(err)
	}
	dir := filepath.Join(base, "data")
	out, err := exec.Command(tool, "-d", srv.URL(), "-D", dir, "-R", "-X", "stream", "-c", "fast", "--no-sync").CombinedOutput()
	if err != nil {
		t.Fatalf("pg_basebackup: %v: %s", err, out)
	}
	return pgembed.ForTest(t, pgembed.Config{TCP: true, Dir: dir, NoSync: true})
}

// hosts is one URL for both servers.
func hosts(t *testing.T, a, b *pgembed.Server, attrs string) string {
	t.Helper()
	ua, err := url.Parse(a.URL())
	if err != nil {
		t.Fatal(err)
	}
	ub, err := url.Parse(b.URL())
	if err != nil {
		t.Fatal(err)
	}
	ua.Host += "," + ub.Host
	q := ua.Query()
	q.Set("target_session_attrs", attrs)
	ua.RawQuery = q.Encode()
	return ua.String()
}

// TestReadsGoToTheStandby: reads on a hot standby, writes on its primary; when the standby
// dies, reads go to the primary; when the primary dies and the standby is promoted, both
// go on there.
func TestReadsGoToTheStandby(t *testing.T) {
	primary := pgembed.ForTest(t, pgembed.Config{TCP: true})
	second := standby(t, primary)
	few := func(c *Config) { c.Lanes, c.SlowConns = 2, 1 }
	s := Split{
		Primary: openOn(t, hosts(t, primary, second, "read-write"), few),
		Standby: openOn(t, hosts(t, primary, second, "prefer-standby"), few),
	}
	ctx := context.Background()
	read := Stmt{SQL: "select pg_is_in_recovery()", ReadOnly: true, Retry: true}
	inRecovery := func(stmt Stmt) (in bool, err error) {
		r, err := Await(func(on Submitter, done func(QueryResult)) error { return s.Query(ctx, on, done, stmt) })
		if err == nil {
			err = r.Scan(&in)
		}
		return in, err
	}
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not in a minute: %s", what)
			}
		}
	}
	until("reads on the standby", func() bool { in, err := inRecovery(read); return err == nil && in })
	write := func(sql string) error {
		_, err := s.Primary.Blocking().Exec(ctx, sql)
		return err
	}
	if err := write("create table r(id int)"); err != nil {
		t.Fatal(err)
	}
	if err := write("insert into r values (1)"); err != nil {
		t.Fatal(err)
	}
	keyed := read
	keyed.Key = 7
	for _, stmt := range []Stmt{keyed, {SQL: read.SQL}} {
		if in, err := inRecovery(stmt); err != nil || in {
			t.Errorf("%+v: answered by the standby, %v", stmt, err)
		}
	}
	until("the write on the standby", func() bool {
		r, err := Await(func(on Submitter, done func(QueryResult)) error {
			return s.Query(ctx, on, done, Stmt{SQL: "select id from r", ReadOnly: true, Retry: true})
		})
		return err == nil && r.Len() == 1
	})
	_, err := s.Standby.Blocking().Exec(ctx, "insert into r values (2)")
	if pg, ok := err.(*pgconn.PgError); !ok || pg.Code != "25006" {
		t.Errorf("a write on the standby: got %v, want 25006", err)
	}
	n := 0 // streams and transactions too
	err = s.Standby.Blocking().BeginTxFunc(ctx, TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, "select count(*) from r where pg_is_in_recovery()").Scan(&n)
	})
	if err != nil || n != 1 {
		t.Errorf("a transaction on the standby: got %d, %v", n, err)
	}

	if err := second.Halt(ctx, pgembed.Immediate); err != nil {
		t.Fatal(err)
	}
	until("reads on the primary", func() bool { in, err := inRecovery(read); return err == nil && !in })
	if err := second.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := primary.Halt(ctx, pgembed.Immediate); err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(second.URL())
	if err != nil {
		t.Fatal(err)
	}
	from, err := url.Parse(primary.URL())
	if err != nil {
		t.Fatal(err)
	}
	to.User = from.User // a standby has its primary's password
	admin(t, to.String(), "select pg_promote()")
	until("a write on the promoted standby", func() bool { return write("insert into r values (3)") == nil })
	until("reads after the failover", func() bool { in, err := inRecovery(read); return err == nil && !in })
}
