package soak

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"millrace/services/admin"
)

// patience is how long is waited for what should come soon.
const patience = time.Minute

// budget is the server's --memory-budget.
const budget = 64 << 20

// server is one life of the command.
type server struct {
	n     int // the first is 1
	cmd   *exec.Cmd
	door  *admin.Client
	log   counter
	ended chan struct{} // closed when the process has ended; code is set before
	code  int
	died  atomic.Bool // it is killed, or about to be: what is under way has no outcome
	ends  atomic.Bool // it drains for good: who is not in yet may find nobody

	began time.Time
	lived time.Duration // set at its end
	how   string        // it ended; set at its end
}

// counter keeps the end of a log and counts its lines.
type counter struct {
	mu    sync.Mutex
	b     []byte // guarded by mu; the last of it
	lines int    // guarded by mu
	warns int    // guarded by mu; of them warnings and errors
	crash string // guarded by mu; the first line that tells of a crash
}

// keptLog is how much of a log is kept, in bytes.
const keptLog = 1 << 20

func (c *counter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines += bytes.Count(p, []byte{'\n'})
	c.warns += bytes.Count(p, []byte("level=WARN")) + bytes.Count(p, []byte("level=ERROR"))
	for _, word := range []string{"panic", "fatal error: ", "DATA RACE"} {
		if i := bytes.Index(p, []byte(word)); i >= 0 && c.crash == "" {
			c.crash = string(p[i:min(i+200, len(p))])
		}
	}
	if c.b = append(c.b, p...); len(c.b) > 2*keptLog {
		c.b = slices.Clone(c.b[len(c.b)-keptLog:])
	}
	return len(p), nil
}

func (c *counter) String() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.b)
}

func (c *counter) counts() (lines, warns int, crash string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lines, c.warns, c.crash
}

// where are the places of everything in a soak.
type where struct {
	host  string // of the auto:// address
	unix  string // path
	admin string
	cert  string // files
	key   string
}

func newPlaces(t testing.TB) where {
	t.Helper()
	dir, err := os.MkdirTemp("", "soak") // short: a unix socket's path has about 100 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return where{ln.Addr().String(), filepath.Join(dir, "s"), "unix://" + filepath.Join(dir, "a"), filepath.Join(dir, "cert"), filepath.Join(dir, "key")}
}

func (s *soak) flags() []string {
	return []string{
		"serve", "--addr=auto://" + s.at.host, "--addr=unix://" + s.at.unix, "--db=" + s.dbURL, "--db-timeout=5s",
		"--admin=" + s.at.admin, "--admin-write", "--admin-pprof", "--tls-cert=" + s.at.cert, "--tls-key=" + s.at.key, "--ws-compress",
		"--resume=20s", "--heartbeat=5s", "--recorder=errors", fmt.Sprint("--memory-budget=", budget), "--max-outbound=256KiB",
		"--first-frame-timeout=10s", "--frame-timeout=10s", "--handshake-timeout=10s", "--linger=1s", fmt.Sprint("--drain-timeout=", min(max(s.length/10, 3*time.Second), 15*time.Second)), "--max-conns=2000",
		"--loops=2", "--workers=4",
	}
}

// launch starts the command and waits until it is ready.
func (s *soak) launch() *server {
	s.Helper()
	v := &server{n: len(s.lives) + 1, cmd: exec.Command(command, s.flags()...), ended: make(chan struct{})}
	v.cmd.Env = slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "MILLRACE_") })
	v.cmd.Stderr = &v.log
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := v.cmd.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	ready, started := make(chan struct{}), make(chan error, 1)
	go func() {
		runtime.LockOSThread() // whose end would be the server's
		defer runtime.UnlockOSThread()
		if err := v.cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		for in := bufio.NewScanner(out); in.Scan(); {
			if strings.HasPrefix(in.Text(), "ready ") {
				close(ready)
			}
		}
		_ = v.cmd.Wait() // the code says it
		v.code = v.cmd.ProcessState.ExitCode()
		close(v.ended)
	}()
	if err := <-started; err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { v.cmd.Process.Kill(); <-v.ended })
	select {
	case <-ready:
	case <-v.ended:
		s.Fatalf("serve ended with code %d: %s", v.code, v.log.String())
	case <-time.After(patience):
		s.Fatalf("serve is not ready after %v: %s", patience, v.log.String())
	}
	if v.door, err = admin.NewClient(s.at.admin, ""); err != nil {
		s.Fatal(err)
	}
	return v
}

// get asks the operator's door.
func (v *server) get(path string, to any) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return v.door.Get(ctx, path, to)
}

func (v *server) post(path string, body any) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return v.door.Post(ctx, path, body, nil)
}

// kill ends the process as a crash does.
func (v *server) kill() {
	v.died.Store(true)
	_ = v.cmd.Process.Kill()
	<-v.ended
}

// term drains it and returns the exit code, or an error if it runs on for too long.
func (v *server) term() (int, error) {
	v.ends.Store(true)
	_ = v.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-v.ended:
		return v.code, nil
	case <-time.After(patience):
		_ = v.cmd.Process.Signal(syscall.SIGQUIT) // its stacks are in the log
		<-v.ended
		return v.code, fmt.Errorf("still running %v after SIGTERM: %.4000s", patience, v.log.String())
	}
}

func (v *server) running() bool {
	select {
	case <-v.ended:
		return false
	default:
		return true
	}
}
