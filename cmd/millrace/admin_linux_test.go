package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// door is where a server with --admin=127.0.0.1:0 says that it opened.
func (p *process) door() string {
	p.t.Helper()
	opened := regexp.MustCompile(`msg="admin: open" addr=(\S+)`)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if m := opened.FindStringSubmatch(p.log()); m != nil {
			return m[1]
		}
	}
	p.t.Fatal("no door has been opened")
	return ""
}

// admin runs millrace admin and wants its exit code.
func (p *process) admin(code int, args ...string) string {
	p.t.Helper()
	out, errs, got := millrace(p.t, nil, "", append([]string{"admin", p.door()}, args...)...)
	if got != code || code == 0 && errs != "" || code != 0 && strings.Count(errs, "\n") != 1 {
		p.t.Errorf("admin %v: exit %d, want %d: %q", args, got, code, errs)
	}
	return out + errs
}

// The whole admin server from outside, as an operator uses it, on the real server.
func TestAdminOfAServer(t *testing.T) {
	t.Parallel()
	s := serve(t, "--admin=127.0.0.1:0", "--admin-write", "--drain-to=elsewhere:7", "--max-conns=100", "--linger=100ms")
	c := s.dial()
	c.echo("in")
	if got := s.admin(0, "get", "/readyz"); !strings.Contains(got, `"ready": true`) {
		t.Errorf("/readyz: %s", got)
	}
	var list struct {
		Sessions []struct{ Index, Round uint32 }
	}
	if err := json.Unmarshal([]byte(s.admin(0, "get", "sessions?limit=5")), &list); err != nil || len(list.Sessions) != 1 {
		t.Fatalf("/sessions: %v %v", list, err)
	}
	id := fmt.Sprintf("%d.%d", list.Sessions[0].Index, list.Sessions[0].Round)
	s.admin(1, "kick", "77.1")
	s.admin(0, "kick", id, "--reason=for a test")
	if f := c.recv(); f.main != 0 || f.sub != 3 || f.body != "\x00\x08\x00\x00\x00\x00for a test" {
		t.Errorf("got %v, want ERROR 8", f)
	}
	c.wantEnd()
	if got := s.admin(0, "get", "/metrics"); !strings.Contains(got, `millrace_closes_total{reason="kicked"} 1`) || !strings.Contains(got, `millrace_handle_requests_total{handle="1/1"} 1`) ||
		!strings.Contains(got, `millrace_handle_requests_total{handle="5/5"} 0`) || !strings.Contains(got, `millrace_limit_max{limit="max_keys"} 1.048576e+06`) {
		t.Errorf("/metrics:\n%s", got)
	}
	s.admin(0, "set", "log-level", "debug")
	s.admin(0, "set", "idle-timeout", "90s")
	s.admin(64, "set", "log-level", "loud")
	s.admin(64, "set", "idle-timeout", "soon")
	s.admin(64, "set", "max-conns", "101")
	s.admin(64, "set", "max-frame", "1KiB")
	s.admin(64, "set", "no-such-flag", "1")
	var config map[string]any
	if err := json.Unmarshal([]byte(s.admin(0, "get", "/config")), &config); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]any{"log-level": "debug", "idle-timeout": "90s", "max-conns": 100.0, "max-frame": "64KiB", "drain-to": "elsewhere:7", "admin-write": true, "frame-timeout": "10s"} {
		if config[name] != want {
			t.Errorf("/config: %s is %v, want %v", name, config[name], want)
		}
	}
	c = s.dial()
	c.echo("in")
	s.admin(0, "drain", "--rate=500")
	if f := c.recv(); f.main != 0 || f.sub != 4 || f.body[4:] != "elsewhere:7" {
		t.Errorf("got %v, want GOAWAY with the address", f)
	}
	c.wantEnd()
	if got := s.admin(1, "get", "/readyz"); !strings.Contains(got, "503") || !strings.Contains(got, "draining") {
		t.Errorf("/readyz of a draining server: %s", got)
	}
	s.dial().wantError(7, 0, 0)
	s.admin(0, "undrain")
	c = s.dial()
	c.echo("again")
	s.admin(0, "drain")
	s.stop() // a drain by SIGTERM takes it over
}

// Errors in the flags are reported in one line, with the right exit code.
func TestAdminFlagsThatAreWrong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	empty, two := filepath.Join(dir, "empty"), filepath.Join(dir, "two")
	for name, text := range map[string]string{empty: " \n", two: "a b\n"} {
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, tc := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"--admin=0.0.0.0:0"}, 64, "--admin-token-file"},
		{[]string{"--admin=:0"}, 64, "--admin-token-file"},
		{[]string{"--admin=127.0.0.1"}, 64, "HOST:PORT"},
		{[]string{"--admin=unix://here"}, 64, "unix:///PATH"},
		{[]string{"--admin=unix://" + empty}, 64, "not a socket"},
		{[]string{"--admin=127.0.0.1:0", "--admin-token-file=" + empty}, 64, "empty"},
		{[]string{"--admin=127.0.0.1:0", "--admin-token-file=" + two}, 64, "one word"},
		{[]string{"--admin=127.0.0.1:0", "--admin-token-file=" + dir + "/none"}, 64, "no such file"},
		{[]string{"--admin=127.0.0.1:0", "--admin-clients=0"}, 64, "--admin-clients"},
		{[]string{"--admin=" + ln.Addr().String()}, 69, "in use"},
	} {
		out, errs, code := millrace(t, nil, "", append([]string{"serve", "--addr=tcp://127.0.0.1:0", "--log-level=error"}, tc.args...)...)
		if code != tc.code || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, tc.says) || out != "" {
			t.Errorf("%v: exit %d, want %d: %q %q", tc.args, code, tc.code, out, errs)
		}
	}
	if _, errs, code := millrace(t, nil, "", "admin", "127.0.0.1:1", "drain"); code != 69 || strings.Count(errs, "\n") != 1 {
		t.Errorf("nobody there: exit %d %q", code, errs)
	}
}

// No part of a secret is in /config, in the log, or in the process's arguments, which all users see.
func TestTheDoorAndTheProcessListShowNoSecrets(t *testing.T) {
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("s3cretToken\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := serve(t, "--admin=127.0.0.1:0", "--admin-token-file="+token, "--db=postgres://app:hushDB@127.0.0.1:1/x", "--cluster", "nats://hushNATS@127.0.0.1:1", "--log-level=debug")
	out, errs, code := millrace(t, nil, "", "admin", s.door(), "get", "/config", "--token-file="+token)
	if code != 0 || !strings.Contains(out, `"db": "postgres://app:***@127.0.0.1:1/x"`) || !strings.Contains(out, `***@127.0.0.1:1`) {
		t.Errorf("/config: exit %d %s %s", code, out, errs)
	}
	if _, _, code := millrace(t, nil, "", "admin", s.door(), "get", "/config"); code != 1 {
		t.Errorf("without the token: exit %d, want 1", code)
	}
	if got, _, _ := millrace(t, nil, "", "admin", s.door(), "get", "/readyz", "--token-file="+token); strings.Contains(got, `"ready": true`) {
		t.Errorf("ready without its database and cluster: %s", got)
	}
	look := exec.Command("cat", fmt.Sprintf("/proc/%d/cmdline", s.cmd.Process.Pid))
	if os.Geteuid() == 0 {
		look.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	cmdline, err := look.Output()
	if err != nil || !strings.Contains(string(cmdline), "--db=postgres://app:******") || !strings.Contains(string(cmdline), "@127.0.0.1:1/x") {
		t.Errorf("arguments as others see them: %q %v", cmdline, err)
	}
	for _, text := range []string{out, errs, s.log(), string(cmdline)} {
		for _, secret := range []string{"hushDB", "hushNATS", "s3cretToken"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s stands in %.2000s", secret, text)
			}
		}
	}
	s.stop()
}

// The socket of --admin is its owner's, and gone at the end.
func TestAdminOnAUnixSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin")
	s := serve(t, "--admin=unix://"+path)
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v, want mode 0600", info, err)
	}
	if out, errs, code := millrace(t, nil, "", "admin", "unix://"+path, "get", "/healthz"); code != 0 || !strings.Contains(out, `"alive": true`) {
		t.Errorf("exit %d %q %q", code, out, errs)
	}
	if _, _, code := millrace(t, nil, "", "admin", "unix://"+path, "drain"); code != 1 {
		t.Errorf("drain without --admin-write: exit %d, want 1", code)
	}
	s.stop()
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket's file after the end: %v", err)
	}
}
