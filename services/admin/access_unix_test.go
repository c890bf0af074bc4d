//go:build unix

package admin_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"millrace/engine"
	"millrace/internal/proctest"
	"millrace/services/admin"
)

// asNobody asks as a user who owns nothing here, and returns the status, or what failed.
func asNobody(t *testing.T, args ...string) (string, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	if _, err := exec.LookPath("curl"); err != nil {
		proctest.Missing(t, "curl is not installed")
	}
	cmd := exec.Command("curl", append([]string{"-s", "-m", "20", "-o", "/dev/null", "-w", "%{http_code}"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// openDir is a directory that everybody may enter, so that only the socket's own mode counts.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mra")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Only the owner can use the socket, whatever the umask is.
func TestUnixSocketIsItsOwnersAlone(t *testing.T) {
	path := filepath.Join(openDir(t), "admin.sock")
	old := syscall.Umask(0)
	r := open(t, func(c *admin.Config, _ *engine.Config) { c.Addr, c.Write, c.Pprof = "unix://"+path, true, true })
	syscall.Umask(old)
	info, err := os.Lstat(path)
	if err != nil || info.Mode() != fs.ModeSocket|0o600 {
		t.Fatalf("mode %v, %v, want a socket of 0600", info.Mode(), err)
	}
	r.post("/drain", nil, nil)
	r.post("/undrain", nil, nil)
	for host, want := range map[string]int{"localhost": 200, "127.0.0.1:80": 200, "unix": 200, "evil.example": 403} {
		if got := r.raw("GET /healthz HTTP/1.1\r\nHost: " + host + "\r\n\r\n").StatusCode; got != want {
			t.Errorf("Host %s: got %d, want %d", host, got, want)
		}
	}
	if got, _ := r.status("GET", "/debug/pprof/heap"); got != 200 {
		t.Errorf("the owner's profile: got %d", got)
	}
	t.Run("another user", func(t *testing.T) {
		if out, err := asNobody(t, "--unix-socket", path, "http://localhost/healthz"); err == nil || out != "000" {
			t.Errorf("got %q, %v: want no connection", out, err)
		}
	})
}

// The socket has mode 0600 from the moment it appears in its folder, also with umask 0.
func TestUnixSocketsModeIsThereFromTheStart(t *testing.T) {
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	dir := openDir(t)
	stop, seen := make(chan struct{}), make(chan fs.FileMode, 1)
	go func() { // looks at the directory all the time
		for {
			select {
			case <-stop:
				close(seen)
				return
			default:
			}
			list, _ := os.ReadDir(dir)
			for _, e := range list {
				if info, err := e.Info(); err == nil && info.Mode().Perm()&0o077 != 0 {
					seen <- info.Mode()
					close(seen)
					return
				}
			}
		}
	}()
	for i := range 50 {
		d, err := admin.New(admin.Config{Addr: "unix://" + filepath.Join(dir, string(rune('a'+i))), Server: newServer(t), Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Start(background); err != nil {
			t.Fatal(err)
		}
		if err := d.Stop(background); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if mode, bad := <-seen; bad {
		t.Errorf("a socket of mode %v was there", mode)
	}
}

func newServer(t *testing.T) *engine.Server {
	srv, err := engine.New(engine.Config{Addrs: []string{"tcp://127.0.0.1:0"}, Logger: quiet}, noHandler{})
	if err != nil {
		t.Fatal(err)
	}
	return srv
}

type noHandler struct{}

func (noHandler) OnSocketAccept(*engine.Session)               {}
func (noHandler) OnSocketRead(*engine.Session, packet)         {}
func (noHandler) OnSocketClose(*engine.Session, engine.Reason) {}

// A stale socket is replaced; one that is in use, and a file that is not a socket, are not.
func TestUnixSocketsPath(t *testing.T) {
	dir := openDir(t)
	path := filepath.Join(dir, "s")
	ln, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ln.SetUnlinkOnClose(false)
	start := func() error {
		d, err := admin.New(admin.Config{Addr: "unix://" + path, Server: newServer(t), Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { d.Stop(background) })
		return d.Start(background)
	}
	if err := start(); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a socket that is listened on: %v, want EADDRINUSE", err)
	}
	ln.Close()
	if err := start(); err != nil {
		t.Errorf("a dead socket: %v", err)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	path = file
	if err := start(); err == nil || errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("a file: %v", err)
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "precious" {
		t.Errorf("the file is %q, %v", b, err)
	}
}

// Over loopback another user of the machine may read, but not change anything.
func TestAnotherUserMayLookAndNotChange(t *testing.T) {
	t.Parallel()
	r := open(t, func(c *admin.Config, _ *engine.Config) { c.Write, c.Pprof = true, true })
	base := "http://" + r.door.Addr()
	p := r.dial()
	p.echo("in")
	for _, tc := range []struct {
		args []string
		want string
	}{
		{[]string{base + "/healthz"}, "200"},
		{[]string{base + "/metrics"}, "200"},
		{[]string{"-X", "POST", base + "/drain"}, "403"},
		{[]string{"-X", "POST", base + "/sessions/0.1/kick"}, "403"},
		{[]string{"-X", "POST", base + "/config?idle-timeout=10ms"}, "403"},
		{[]string{base + "/debug/pprof/heap"}, "403"},
		{[]string{base + "/debug/pprof/profile?seconds=1"}, "403"},
		{[]string{base + "/trace?seconds=0.1"}, "403"},
	} {
		if got, err := asNobody(t, tc.args...); err != nil || got != tc.want {
			t.Errorf("another user, %v: got %s, %v, want %s", tc.args, got, err, tc.want)
		}
	}
	if r.srv.Draining() || r.srv.Stats().Conns != 1 || r.srv.Adjustable().IdleTimeout != 0 {
		t.Error("another user has changed something")
	}
	// The same requests as ourselves are served.
	if got, text := r.status("POST", "/drain"); got != 200 {
		t.Errorf("we ourselves: got %d %s", got, text)
	}
	eventually(t, "the drain", r.srv.Draining)
}

// With a token, any user who has it may make changes.
func TestTheTokenIsForEverybody(t *testing.T) {
	t.Parallel()
	r := open(t, func(c *admin.Config, _ *engine.Config) { c.Write, c.Token = true, "secret" })
	base := "http://" + r.door.Addr()
	for token, want := range map[string]string{"secret": "200", "Secret": "401", "": "401"} {
		if got, err := asNobody(t, "-X", "POST", "-H", "Authorization: Bearer "+token, base+"/undrain"); err != nil || got != want {
			t.Errorf("token %q: got %s, %v, want %s", token, got, err, want)
		}
	}
}
