package main

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/dbasync/pgembed"
)

// startUntil starts a server and waits until its start has come so far that there returns true.
func startUntil(t *testing.T, temp string, there func(pid int) bool, args ...string) (p *process, stdout *bytes.Buffer) {
	t.Helper()
	p, stdout = &process{t: t, ended: make(chan struct{})}, &bytes.Buffer{}
	p.cmd = exec.Command(program, append([]string{"serve"}, args...)...)
	p.cmd.Env, p.cmd.Stdout, p.cmd.Stderr = environ("TMPDIR="+temp), stdout, lockedWriter{&p.mu, &p.stderr}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.ended
	})
	for end := time.Now().Add(2 * patience); !there(p.cmd.Process.Pid); time.Sleep(time.Millisecond) {
		if time.Now().After(end) || !p.running() {
			t.Fatalf("running: %v; its start has not come so far: %s", p.running(), p.log())
		}
	}
	return p, stdout
}

// A signal ends a start, whatever it waits for: nothing is left of it, and the exit code is that of a
// drain. It does not become ready first.
func TestASignalEndsAStart(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	taken, asked := t.TempDir(), make(chan bool, 64)
	go func() { // a server of NATS that says nothing
		for {
			c, err := silent.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			asked <- true
		}
	}()
	lock, err := os.Create(filepath.Join(taken, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	nats := "nats://" + silent.Addr().String()
	for name, x := range map[string]struct {
		there func(pid int) bool
		args  []string
	}{
		"a silent server of NATS": {func(int) bool { return len(asked) > 0 }, []string{"--cluster=" + strings.Repeat(nats+",", 50) + nats}},
		"a folder of NATS in use": {func(pid int) bool { return opens(pid, lock.Name()) }, []string{"--cluster=embedded", "--cluster-dir=" + taken}},
	} {
		t.Run(name, func(t *testing.T) {
			temp, path := t.TempDir(), filepath.Join(t.TempDir(), "s")
			p, stdout := startUntil(t, temp, x.there, append(x.args, "--addr=unix://"+path)...)
			p.signal(syscall.SIGTERM)
			code := p.wait()
			if code != exitOK || stdout.Len() > 0 || strings.Contains(p.log(), "panic") {
				t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, p.log())
			}
			isEmpty(t, temp)
			isEmpty(t, filepath.Dir(path))
		})
	}
}

// A signal while a database is made ends the start and undoes what was made: the next makes it.
func TestASignalEndsTheMakingOfADatabase(t *testing.T) {
	if _, err := pgembed.Find(); err != nil && os.Getenv("CI") == "" {
		t.Skipf("skipped: %v", err)
	}
	top := t.TempDir()
	for _, dir := range []string{top, filepath.Dir(top)} { // PostgreSQL runs as another user
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	db, temp := filepath.Join(top, "db"), filepath.Join(top, "temp")
	if err := os.Mkdir(temp, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(temp, 0o777); err != nil {
		t.Fatal(err)
	}
	args := []string{"--addr=tcp://127.0.0.1:0", "--db=embedded", "--db-dir=" + db}
	initdb := 0
	p, stdout := startUntil(t, temp, func(pid int) bool {
		if _, err := os.Stat(filepath.Join(db, "PG_VERSION")); err != nil { // one of the first files
			return false
		}
		initdb = child(t, pid, "initdb", db)
		return initdb > 0 && syscall.Kill(initdb, syscall.SIGSTOP) == nil
	}, args...)
	p.signal(syscall.SIGTERM)
	for end := time.Now().Add(patience); !pending(initdb, syscall.SIGTERM) && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if err := syscall.Kill(initdb, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if code := p.wait(); code != exitOK || stdout.Len() > 0 {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, p.log())
	}
	isEmpty(t, temp)
	if pids := running(t, db); len(pids) > 0 {
		t.Errorf("processes %v are left of its start", pids)
	}
	serve(t, "--db=embedded", "--db-dir="+db).stop()
}

// opens reports whether a process has a file open.
func opens(pid int, name string) bool {
	fds, _ := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/fd/*")
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err == nil && to == name {
			return true
		}
	}
	return false
}

// running returns the processes in whose command line a text is.
func running(t *testing.T, text string) (pids []int) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range lines {
		if b, err := os.ReadFile(name); err == nil && bytes.Contains(b, []byte(text)) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// child returns the child of a process that runs a program, and in whose command line a text is; 0 if
// there is none. Its own children look the same for a moment.
func child(t *testing.T, of int, program, text string) int {
	t.Helper()
	for _, pid := range running(t, text) {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		if err == nil && strings.HasPrefix(string(b), "Name:\t"+program+"\n") && strings.Contains(string(b), fmt.Sprintf("\nPPid:\t%d\n", of)) {
			return pid
		}
	}
	return 0
}

// pending reports whether a signal waits for a process, which is stopped.
func pending(pid int, sig syscall.Signal) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), "\nShdPnd:\t")
	bits, err := strconv.ParseUint(strings.TrimSpace(rest[:min(16, len(rest))]), 16, 64)
	return err == nil && bits>>(sig-1)&1 != 0
}

func isEmpty(t *testing.T, dir string) {
	t.Helper()
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range left {
		t.Errorf("%s is left", filepath.Join(dir, x.Name()))
	}
}
