package pgembed

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// asNobody runs a command as a user who owns nothing here.
func asNobody(name string, args ...string) (string, error) {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + os.Getenv("PATH"), "PGCONNECT_TIMEOUT=10"}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func TestAnotherUserGetsNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	dir, err := os.MkdirTemp("", "mpgtest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	first := ForTest(t, Config{Dir: data, NoSync: true}) // one that had no password
	if err := first.Stop(context.Background(), Fast); err != nil {
		t.Fatal(err)
	}
	s := ForTest(t, Config{Dir: data, NoSync: true, TCP: true, User: "postgres"})
	if got := psql(t, s, "select 42"); got != "42" {
		t.Fatalf("we ourselves: got %s", got)
	}
	u, err := url.Parse(s.URL())
	if err != nil {
		t.Fatal(err)
	}
	word, _ := u.User.Password()
	if len(word) < 20 {
		t.Errorf("a password of %d characters", len(word))
	}
	run := func(url string) (string, error) {
		return asNobody(filepath.Join(s.BinDir(), "psql"), "-XAtw", "-c", "select 42", url)
	}
	if out, err := run(s.URL()); err != nil || strings.TrimSpace(out) != "42" {
		t.Fatalf("with the password, so that the rest means something: %v: %s", err, out)
	}
	u.User = url.User("postgres")
	without := u.String()
	u.User = url.UserPassword("postgres", "postgres")
	for name, conn := range map[string]string{"no password": without, "a wrong one": u.String(), "the socket": s.SocketURL()} {
		if out, err := run(conn); err == nil {
			t.Errorf("%s: another user connects: %s", name, out)
		}
	}
	for _, file := range []string{s.passwordPath(), filepath.Join(s.base, "hba.conf"), filepath.Join(data, "PG_VERSION"), s.LogPath()} {
		if out, err := asNobody("cat", file); err == nil {
			t.Errorf("another user reads %s: %s", file, out)
		}
	}
	for _, d := range []string{s.base, data} {
		if fi, err := os.Stat(d); err != nil || fi.Mode().Perm() != 0o700 {
			t.Errorf("%s: got %v, %v, want 0700", d, fi.Mode(), err)
		}
	}
	if out, err := exec.Command("ps", "-eo", "args").CombinedOutput(); err == nil && strings.Contains(string(out), word) {
		t.Error("the password stands in a command line")
	}
}

// A folder that another server uses is not changed, and the error says in one line which server it is.
func TestAFolderInUseIsRefused(t *testing.T) {
	dir := openDir(t)
	first := ForTest(t, Config{Dir: dir, NoSync: true})
	psql(t, first, "create table kept(v int)")
	before, err := os.Stat(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, cfg := range []Config{{Dir: dir, NoSync: true}, {Dir: dir, NoSync: true, TCP: true}, {Dir: dir, NoSync: true, User: "nobody"}} {
		_, err := Start(context.Background(), cfg)
		want := fmt.Sprintf("pgembed: %s: another PostgreSQL server uses this data directory, as process %d", dir, first.PID())
		if !errors.Is(err, ErrInUse) || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	after, err := os.Stat(dir)
	if err != nil || after.Sys().(*syscall.Stat_t).Uid != before.Sys().(*syscall.Stat_t).Uid {
		t.Errorf("the folder has another owner now, %v", err)
	}
	psql(t, first, "insert into kept values (1)")

	// A file that names a process which is no server is of one that was killed.
	if err := first.Halt(context.Background(), Immediate); err != nil {
		t.Fatal(err)
	}
	pid := filepath.Join(dir, "postmaster.pid")
	if err := os.WriteFile(pid, []byte("999999999\n"+dir+"\n1\n5432\n\n\n\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	second := ForTest(t, Config{Dir: dir, NoSync: true})
	if got := psql(t, second, "select count(*) from kept"); got != "1" {
		t.Errorf("got %s rows, want 1", got)
	}
}
