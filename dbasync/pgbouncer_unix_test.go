//go:build unix

package dbasync

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"millrace/dbasync/pgembed"
)

// pgBouncer starts one in session mode before srv, under the server's account, as it
// refuses root, and returns the URL that leads through it. It skips without the program.
func pgBouncer(t *testing.T, srv *pgembed.Server) string {
	t.Helper()
	bin, err := exec.LookPath("pgbouncer")
	if err != nil {
		if bin, err = exec.LookPath("/usr/sbin/pgbouncer"); err != nil {
			t.Skip("skipped: no pgbouncer (install it to run this)")
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
	u, err := url.Parse(srv.URL())
	if err != nil {
		t.Fatal(err)
	}
	ini := filepath.Join(srv.SocketDir(), "pgbouncer.ini")
	password, _ := u.User.Password()
	text := fmt.Sprintf("[databases]\npostgres = host=127.0.0.1 port=%s dbname=postgres user=postgres password=%s\n"+
		"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\nauth_type = any\npool_mode = session\nserver_login_retry = 1\nunix_socket_dir =\n", u.Port(), password, at.Port)
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
// pooler, which lets no statement_timeout through by default, says FATAL to its clients.
func TestOutcomesAreTrueBehindPgBouncer(t *testing.T) {
	srv := pgembed.ForTest(t, pgembed.Config{TCP: true})
	admin(t, srv.URL(), "create table f(id bigint)")
	db := openOn(t, pgBouncer(t, srv), func(c *Config) { c.StatementTimeout = -1 })
	f := &faults{db: db, form: "chain", ended: make(map[int64]Outcome)}
	f.wg.Add(128)
	for range 128 {
		f.insert()
	}
	f.awaitOK(t, time.Now())
	kills := 3
	if *long {
		kills = 50
	}
	for range kills {
		killLane(t, srv.URL())
		f.awaitOK(t, time.Now())
	}
	f.stop.Store(true)
	f.wg.Wait()
	f.compare(t, srv.URL())
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
