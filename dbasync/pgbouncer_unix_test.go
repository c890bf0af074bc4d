//go:build unix

package dbasync

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"millrace/dbasync/pgembed"
	"millrace/internal/proctest"
)

// pgBouncer starts one in the given pool_mode before srv, under the server's account, as it
// refuses root, and returns the URL that leads through it. It skips without the program.
func pgBouncer(t *testing.T, srv *pgembed.Server, mode string) string {
	t.Helper()
	return pgBouncerTo(t, srv, srv.URL(), mode)
}

// pgBouncerTo is pgBouncer with another way to srv.
func pgBouncerTo(t *testing.T, srv *pgembed.Server, to, mode string) string {
	t.Helper()
	bin, err := exec.LookPath("pgbouncer")
	if err != nil {
		if bin, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			proctest.Missing(t, "skipped: no pgbouncer (install it to run this)")
		}
	}
	like, err := os.Stat(srv.SocketDir())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0") // a free port
	if err != nil {
		t.Fatal(err)
	}
	at := ln.Addr().(*net.TCPAddr)
	ln.Close()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	ini := filepath.Join(srv.SocketDir(), fmt.Sprintf("pgbouncer%d.ini", at.Port))
	password, _ := u.User.Password()
	text := fmt.Sprintf("[databases]\npostgres = host=127.0.0.1 port=%s dbname=postgres user=postgres password=%s\n"+
		"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\nauth_type = any\npool_mode = %s\ndefault_pool_size = %d\nserver_login_retry = 1\nunix_socket_dir =\n", u.Port(), password, at.Port, mode, map[string]int{PoolSession: 20, PoolTransaction: 3}[mode])
	if err := os.WriteFile(ini, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := giveTo(ini, like); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, "-q", ini)
	if owner := like.Sys().(*syscall.Stat_t); os.Getuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	u.Host = at.String()
	return u.String()
}

// TestOutcomesAreTrueBehindPgBouncer kills server processes by force under load. The
// pooler says FATAL to its clients. In transaction mode it has fewer server processes
// than there are clients.
func TestOutcomesAreTrueBehindPgBouncer(t *testing.T) {
	for _, mode := range []string{PoolSession, PoolTransaction} {
		t.Run(mode, func(t *testing.T) {
			srv := pgembed.ForTest(t, pgembed.Config{TCP: true})
			admin(t, srv.URL(), faultTables)
			db := openOn(t, pgBouncer(t, srv, mode), func(c *Config) { c.PgBouncer = mode })
			var fs []*faults
			for i, form := range []string{"chain", "keyed", "slow", "tx", "batch"} {
				f := newFaults(db, form, i)
				f.wg.Add(64)
				for range 64 {
					f.insert()
				}
				fs = append(fs, f)
			}
			awaitAll := func() {
				for _, f := range fs {
					f.awaitOK(t, time.Now())
				}
			}
			awaitAll()
			kills := 3
			if *long {
				kills = 50
			}
			for range kills {
				killLane(t, srv.URL())
				awaitAll()
			}
			for _, f := range fs {
				f.stop.Store(true)
				f.wg.Wait()
				f.compare(t, srv.URL())
			}
		})
	}
}

// TestPgBouncerIsToldOrSet: without the setting every query says at once what to set; with
// it, timeouts and settings of the URL hold as far as the mode lets them.
func TestPgBouncerIsToldOrSet(t *testing.T) {
	srv := server(t)
	session, transaction := pgBouncer(t, srv, PoolSession), pgBouncer(t, srv, PoolTransaction)
	t.Run("told", func(t *testing.T) {
		db := openOn(t, session, func(c *Config) { c.QueryTimeout = 10 * time.Minute })
		r := ask(t, db, Stmt{SQL: "select 1"})
		if r.Outcome != NotRun || !errors.Is(r.Err, ErrRefused) || !strings.Contains(r.Err.Error(), "Config.PgBouncer") {
			t.Errorf("got %v %v, want NotRun that names the setting", r.Outcome, r.Err)
		}
	})
	t.Run("told of search_path", func(t *testing.T) {
		db := openOn(t, session+"&search_path=pg_catalog", func(c *Config) { c.StatementTimeout = -1 })
		r := ask(t, db, Stmt{SQL: "select 1", Slow: true})
		if r.Outcome != NotRun || !errors.Is(r.Err, ErrRefused) {
			t.Errorf("slow: got %v %v, want NotRun that names the setting", r.Outcome, r.Err)
		}
		if _, err := New(Config{URL: transaction + "&search_path=a", PgBouncer: PoolTransaction}); err == nil {
			t.Error("search_path was accepted in transaction mode")
		}
		if _, err := New(Config{URL: transaction, PgBouncer: PoolTransaction, StatementTimeout: time.Second}); err == nil {
			t.Error("StatementTimeout was accepted in transaction mode")
		}
	})
	t.Run("session", func(t *testing.T) {
		db := openOn(t, session+"&search_path=information_schema", func(c *Config) {
			c.PgBouncer, c.StatementTimeout, c.SlowAfter = PoolSession, 200*time.Millisecond, -1
		})
		var pg *pgconn.PgError
		if r := ask(t, db, Stmt{SQL: "select pg_sleep(30)"}); !errors.As(r.Err, &pg) || pg.Code != codeCanceled {
			t.Errorf("got %v %v, want a statement timeout", r.Outcome, r.Err)
		}
		for _, slow := range []bool{false, true, true} {
			var path string
			if err := ask(t, db, Stmt{SQL: "select current_setting('search_path')", Slow: slow}).Scan(&path); err != nil || path != "information_schema" {
				t.Errorf("slow %v: search_path %q, %v", slow, path, err)
			}
		}
	})
	t.Run("moved off the lanes", func(t *testing.T) {
		keepsTimeout(t, openOn(t, session, func(c *Config) { c.PgBouncer, c.StatementTimeout = PoolSession, 300*time.Millisecond }))
	})
	t.Run("transaction", func(t *testing.T) { inTransactionMode(t, transaction) })
	t.Run("transaction untold", func(t *testing.T) {
		// Its server processes have the first lane's statements when the next one comes.
		obs := newWatcher()
		openOn(t, transaction, func(c *Config) { c.StatementTimeout, c.Lanes, c.Observer = -1, 8, obs })
		for {
			err := wait(t, obs.conns).err
			if errors.Is(err, ErrRefused) && strings.Contains(err.Error(), "PgBouncer to transaction") {
				return
			}
		}
	})
}

func inTransactionMode(t *testing.T, url string) {
	db := openOn(t, url, func(c *Config) { c.PgBouncer = PoolTransaction })
	name := table(t, "id int primary key")
	var wg sync.WaitGroup
	var wrong atomic.Int64
	query := func(want Outcome, stmt Stmt, args ...any) {
		wg.Add(1)
		if err := db.Query(context.Background(), nil, func(r QueryResult) {
			defer wg.Done()
			if r.Outcome != want {
				wrong.Add(1)
				t.Errorf("%s %v: got %v %v", stmt.SQL, args, r.Outcome, r.Err)
			}
		}, stmt, args...); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 600 {
		query(OK, Stmt{SQL: "insert into " + name + " values ($1)", Key: uint64(i%7) * uint64(i%2)}, i)
		query(OK, Stmt{SQL: "select $1::int8 + 1, 'of one text'"}, i)
		query(SQLError, Stmt{SQL: "insert into " + name + " values ($1), ($1)"}, 10_000+i)
		query(OK, Stmt{SQL: "select id from " + name + " where id = $1", Slow: i%50 == 0}, i)
	}
	wg.Wait()
	err := db.Blocking().BeginTxFunc(context.Background(), TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "insert into "+name+" values ($1)", -1)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	var n int
	if err := ask(t, db, Stmt{SQL: "select count(*) from " + name}).Scan(&n); err != nil || n != 601 {
		t.Errorf("got %d rows, %v, want 601", n, err)
	}
	if _, err := db.Listen(nil, "a", func(Notification) {}); !errors.Is(err, ErrNoListen) {
		t.Errorf("Listen: got %v", err)
	}
}

// killLane kills the server process behind one lane. The server then ends all others by
// force and recovers.
func killLane(t *testing.T, url string) {
	t.Helper()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		conn, err := pgx.Connect(context.Background(), url)
		if err != nil {
			continue // it is recovering
		}
		var pid int
		err = conn.QueryRow(context.Background(), "select pid from pg_stat_activity where application_name like 'millrace lane%' limit 1").Scan(&pid)
		conn.Close(context.Background())
		if err == nil && kill(pid) == nil {
			return
		}
	}
	t.Fatal("no lane's server process was found in a minute")
}
