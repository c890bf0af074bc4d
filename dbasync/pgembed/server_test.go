package pgembed

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func psql(t *testing.T, s *Server, sql string) string {
	t.Helper()
	cmd := exec.Command(filepath.Join(s.BinDir(), "psql"), "-XAt", "-v", "ON_ERROR_STOP=1", "-c", sql, s.URL())
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("psql %q: %v: %s", sql, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestThrowawayServerLeavesNothing(t *testing.T) {
	s := ForTest(t, Config{TCP: true})
	if got := psql(t, s, "select 41+1"); got != "42" {
		t.Fatalf("got %q, want 42", got)
	}
	if got := psql(t, s, "show fsync"); got != "off" {
		t.Errorf("fsync of a throwaway server: got %q, want off", got)
	}
	pid := s.PID()
	if err := s.Stop(context.Background(), Fast); err != nil {
		t.Fatal(err)
	}
	if err := s.Stop(context.Background(), Fast); err != nil {
		t.Errorf("second Stop: %v", err)
	}
	if _, err := os.Stat(s.SocketDir()); !os.IsNotExist(err) {
		t.Errorf("directory still there: %v", err)
	}
	if p, err := os.FindProcess(pid); err == nil && p.Signal(syscall.Signal(0)) == nil {
		t.Errorf("process %d still there", pid)
	}
}

// openDir names a data directory that the server's account can walk to.
func openDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "db")
	if os.Geteuid() == 0 {
		for d := filepath.Dir(dir); d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
			if err := os.Chmod(d, 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func TestDataPersistsInItsDirectory(t *testing.T) {
	dir := openDir(t)
	first := ForTest(t, Config{Dir: dir, NoSync: true})
	psql(t, first, "create table kept(v int); insert into kept values (7)")
	if err := first.Stop(context.Background(), Fast); err != nil {
		t.Fatal(err)
	}
	second := ForTest(t, Config{Dir: dir, NoSync: true})
	if got := psql(t, second, "select v from kept"); got != "7" {
		t.Errorf("got %q, want 7", got)
	}
	_, err := Start(context.Background(), Config{Dir: dir, NoSync: true})
	if err == nil || !strings.Contains(err.Error(), dir+": another PostgreSQL server uses this data directory") || strings.Contains(err.Error(), "\n") {
		t.Errorf("a second server in the directory: got %v, want one line that names it", err)
	}
	if got := psql(t, second, "select v from kept"); got != "7" {
		t.Errorf("got %q from the first server then, want 7", got)
	}
}

// The output of PostgreSQL's programs becomes an error text of one line.
func TestItsWordsAreOneLine(t *testing.T) {
	for _, tt := range []struct{ name, said, want string }{
		{"nothing", "", ""},
		{"a fault with its hint", "2026-11-27 22:00:38.621 UTC [30700] LOG:  starting\n2026-11-27 22:00:38.621 UTC [30700] FATAL:  lock file \"postmaster.pid\" already exists\n" +
			"2026-11-27 22:00:38.621 UTC [30700] HINT:  Is another postmaster (PID 1) running?\n", `lock file "postmaster.pid" already exists; Is another postmaster (PID 1) running?`},
		{"several faults", "FATAL:  one\nDETAIL:  of one\nFATAL:  two\nLOG:  database system is shut down\n", "two"},
		{"initdb", "fixing permissions ... ok\ninitdb: error: could not access directory \"/x\": Permission denied\ninitdb: removing data directory\n", `could not access directory "/x": Permission denied`},
		{"no fault", "a\nb\n\nc\nd\n", "b; c; d"},
	} {
		if got := oneLine([]byte(tt.said)); got != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestRestartKeepsAddressAndData(t *testing.T) {
	s := ForTest(t, Config{TCP: true})
	psql(t, s, "create table kept(v int)")
	url := s.URL()
	for _, how := range []Mode{Fast, Immediate} {
		if err := s.Restart(context.Background(), how); err != nil {
			t.Fatal(err)
		}
		psql(t, s, "insert into kept values (1)")
	}
	if s.URL() != url {
		t.Errorf("got %s, want %s", s.URL(), url)
	}
	if got := psql(t, s, "select count(*) from kept"); got != "2" {
		t.Errorf("got %s rows, want 2", got)
	}
}

func TestStartSaysWhyTheServerEnded(t *testing.T) {
	if _, err := Find(); err != nil {
		ForTest(t, Config{}) // skips, or fails in CI
	}
	_, err := Start(context.Background(), Config{Settings: map[string]string{"no_such_setting": "1"}})
	if err == nil || !strings.Contains(err.Error(), "no_such_setting") || strings.Contains(err.Error(), "\n") {
		t.Errorf("got %v, want the server's complaint", err)
	}
}

func TestNoBinariesIsToldApart(t *testing.T) {
	_, err := Start(context.Background(), Config{BinDir: t.TempDir()})
	if !errors.Is(err, ErrNotInstalled) {
		t.Errorf("got %v, want ErrNotInstalled", err)
	}
}

func TestStopKillsWhenTimeIsUp(t *testing.T) {
	s := ForTest(t, Config{TCP: true})
	cmd := exec.Command(filepath.Join(s.BinDir(), "psql"), "-XAt", "-c", "select pg_sleep(30)", s.URL())
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	for psql(t, s, "select count(*) from pg_stat_activity where query like '%pg_sleep(30)' and state='active'") == "0" {
		time.Sleep(10 * time.Millisecond)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	// Smart waits for the session, which sleeps for longer than we wait.
	if err := s.Stop(ctx, Smart); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the deadline", err)
	}
}
