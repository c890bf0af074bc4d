package main

import (
	"encoding/hex"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"millrace/internal/proctest"
)

// systemPython is the system's, which every user can run.
const systemPython = "/usr/bin/python3"

// outsider runs a Python program as a user who owns nothing here.
func outsider(t *testing.T, program string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(systemPython, append([]string{"-c", program}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir, cmd.Env = "/", []string{"PATH=" + os.Getenv("PATH")}
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

func needOutsider(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can become another user")
	}
	if _, err := os.Stat(systemPython); err != nil {
		proctest.Missing(t, err)
	}
}

// publicDir is one that everybody may enter, so that only what is in it counts.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mrc")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

const connectUnix = `import socket, sys
s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1])
s.sendall(bytes.fromhex("000000060001000168 69".replace(" ", ""))); print(s.recv(100)[-2:].decode())`

// A unix socket is closed to other users unless its mode opens it.
func TestAnotherUserAndTheUnixSocket(t *testing.T) {
	t.Parallel()
	needOutsider(t)
	path := filepath.Join(publicDir(t), "s")
	for _, tc := range []struct {
		args []string
		open bool
	}{{nil, false}, {[]string{"--unix-mode=0600"}, false}, {[]string{"--unix-mode=0666"}, true}} {
		old := syscall.Umask(0o022)
		s := serve(t, append([]string{"--addr=unix://" + path}, tc.args...)...)
		syscall.Umask(old)
		s.dial().echo("we ourselves")
		if out, err := outsider(t, connectUnix, path); (err == nil) != tc.open || tc.open && out != "hi" {
			t.Errorf("%v: another user: %v %q, want in: %v", tc.args, err, out, tc.open)
		}
		s.stop()
	}
}

const askNATS = `import socket, sys
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 20); s.recv(4096)
s.sendall(b'CONNECT {"verbose":false%s}\r\nPING\r\n' % sys.argv[3].encode()); print(s.recv(4096).decode())`

// Another user can't use the embedded NATS server, since its token is not readable, nor read what it
// stores, even in a directory that existed and is open to all.
func TestAnotherUserAndTheEmbeddedCluster(t *testing.T) {
	t.Parallel()
	needOutsider(t)
	dir := publicDir(t)
	s := serve(t, "--cluster=embedded", "--cluster-dir="+dir)
	c := s.dial()
	c.object(5, 1, `{"key":"k","val":"precious"}`)
	address, err := os.ReadFile(filepath.Join(dir, "address"))
	if err != nil {
		t.Fatal(err)
	}
	token, err := os.ReadFile(filepath.Join(dir, "token"))
	if err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(strings.TrimSpace(string(address)))
	word := strings.TrimSpace(string(token))
	for auth, want := range map[string]bool{`,"auth_token":"` + word + `"`: true, "": false, `,"auth_token":"x"`: false, `,"user":"millrace","pass":"millrace"`: false} {
		out, err := outsider(t, askNATS, host, port, auth)
		if err != nil || strings.HasPrefix(out, "PONG") != want || !want && !strings.Contains(out, "Authorization Violation") {
			t.Errorf("CONNECT with %q: %v %q, want in: %v", strings.ReplaceAll(auth, word, "TOKEN"), err, out, want)
		}
	}
	files := 0
	err = filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		files++
		if _, err := outsider(t, "import sys; open(sys.argv[1], 'rb').read()", name); err == nil {
			t.Errorf("another user reads %s", strings.TrimPrefix(name, dir))
		}
		return nil
	})
	if err != nil || files < 4 {
		t.Errorf("%d files: %v", files, err)
	}
	s.stop()
}

// A server listens where it was told, and nowhere else; what is embedded only on loopback.
func TestNothingElseIsListenedOn(t *testing.T) {
	for _, tc := range []struct {
		args []string
		want int
	}{{nil, 1}, {[]string{"--admin=127.0.0.1:0"}, 2}, {[]string{"--cluster=embedded", "--cluster-dir=" + t.TempDir()}, 2}} {
		s := serve(t, append([]string{"--loops=1"}, tc.args...)...)
		all := listeners(t, s.cmd.Process.Pid)
		if len(all) != tc.want || slices.ContainsFunc(all, func(a string) bool { return !strings.HasPrefix(a, "127.0.0.1:") }) {
			t.Errorf("%v: listens on %q, want %d addresses, all of loopback", tc.args, all, tc.want)
		}
		s.stop()
	}
}

// listeners are the TCP addresses that a process listens on, as the kernel tells.
func listeners(t *testing.T, pid int) (all []string) {
	t.Helper()
	inodes := map[string]bool{}
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(fds) == 0 {
		t.Fatal(err)
	}
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && strings.HasPrefix(to, "socket:[") {
			inodes[strings.Trim(to, "socket:[]")] = true
		}
	}
	for _, name := range []string{"tcp", "tcp6"} {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", pid, name))
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) < 10 || f[3] != "0A" || !inodes[f[9]] {
				continue
			}
			addr, port, _ := strings.Cut(f[1], ":")
			ip, _ := hex.DecodeString(addr)
			if len(ip) == 4 {
				slices.Reverse(ip)
			}
			n, _ := strconv.ParseUint(port, 16, 16)
			all = append(all, net.JoinHostPort(net.IP(ip).String(), fmt.Sprint(n)))
		}
	}
	return all
}

// A settings file with a secret that others can read causes a warning.
func TestAnOpenFileOfSecretsIsWarnedOf(t *testing.T) {
	for _, tc := range []struct {
		text string
		mode os.FileMode
		warn bool
	}{
		{"db = \"postgres://app:hush@127.0.0.1:1/x\"\n", 0o644, true},
		{"db = \"postgres://app:hush@127.0.0.1:1/x\"\n", 0o600, false},
		{"max-conns = 10\n", 0o644, false},
	} {
		name := filepath.Join(t.TempDir(), "c.toml")
		if err := os.WriteFile(name, []byte(tc.text), tc.mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(name, tc.mode); err != nil {
			t.Fatal(err)
		}
		s := serve(t, "--config="+name)
		s.stop()
		if got := strings.Contains(s.log(), "not of mode 0600"); got != tc.warn || strings.Contains(s.log(), "hush") {
			t.Errorf("%q of mode %o: warned %v, want %v: %s", tc.text, tc.mode, got, tc.warn, s.log())
		}
	}
}

// The error about a folder that can't be created names it, and the flag that sets another.
func TestAStateFolderThatCannotBe(t *testing.T) {
	for flag, args := range map[string][]string{
		"--cluster-dir": {"--cluster=embedded", "--cluster-dir=/proc/none"},
		"--db-dir":      {"--db=embedded", "--db-dir=/proc/none"},
	} {
		_, stderr, code := millrace(t, nil, "", append([]string{"serve", "--addr=tcp://127.0.0.1:0"}, args...)...)
		if flag == "--db-dir" && strings.Contains(stderr, "not installed") {
			proctest.Missing(t, "PostgreSQL is not installed")
		}
		if code != exitFailed || !strings.Contains(stderr, "/proc/none") || !strings.HasSuffix(stderr, "; give another "+flag+"\n") || strings.Count(stderr, "\n") != 1 {
			t.Errorf("got exit code %d and %q, want one line that ends with the flag %s", code, stderr, flag)
		}
	}
}
