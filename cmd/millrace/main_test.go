package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"millrace/internal/proctest"
)

// program is the binary that the tests run, plain the same without the race detector, which starts
// four times as fast; built once.
var program, plain string

func TestMain(m *testing.M) {
	if proctest.Play() {
		return
	}
	os.Exit(func() int {
		before := goleak.IgnoreCurrent() // what gnet's imports start
		dir, err := os.MkdirTemp("", "millrace-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		program, plain = filepath.Join(dir, "millrace"), filepath.Join(dir, "plain")
		for _, args := range [][]string{{raceFlag, "-o", program}, {"-o", plain}} {
			if out, err := exec.Command("go", append([]string{"build"}, args...)...).CombinedOutput(); err != nil {
				fmt.Fprintf(os.Stderr, "%s%v\n", out, err)
				return 1
			}
		}
		code := m.Run()
		if err := goleak.Find(before); err != nil && code == 0 {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
		return code
	}())
}

// patience is how long the tests wait for what should come at once.
const patience = time.Minute

// environ is the tests' environment without settings of ours, and with extra ones.
func environ(extra ...string) []string {
	var env []string
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, envPrefix) {
			env = append(env, kv)
		}
	}
	env = append(env, "GORACE=atexit_sleep_ms=0")
	return append(env, extra...)
}

// millrace runs the program to its end, without the race detector.
func millrace(t testing.TB, env []string, stdin string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, plain, args...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdin, cmd.Stdout, cmd.Stderr = environ(env...), strings.NewReader(stdin), &out, &errs
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	if ctx.Err() != nil {
		t.Fatalf("millrace %v is still running after %v; stderr: %s", args, patience, errs.String())
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// process is a running millrace serve.
type process struct {
	t     testing.TB
	cmd   *exec.Cmd
	ready []string // the addresses of its ready line
	peers []*peer

	mu     sync.Mutex
	stderr bytes.Buffer  // guarded by mu
	rest   bytes.Buffer  // stdout behind the ready line; guarded by mu
	ended  chan struct{} // closed when it has ended and its output has been read
}

// serve starts millrace serve on a free port, unless args say where, and waits until
// it is ready.
func serve(t testing.TB, args ...string) *process {
	t.Helper()
	if !strings.Contains(strings.Join(args, " "), "--addr") {
		args = append([]string{"--addr", "tcp://127.0.0.1:0"}, args...)
	}
	return launch(t, exec.Command(program, append([]string{"serve"}, args...)...))
}

func launch(t testing.TB, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{t: t, cmd: cmd, ended: make(chan struct{})}
	if cmd.Env == nil {
		cmd.Env = environ()
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	first := make(chan string, 1)
	var read sync.WaitGroup
	read.Go(func() {
		r := bufio.NewReader(stdout)
		line, _ := r.ReadString('\n')
		first <- line
		b, _ := io.ReadAll(r)
		p.mu.Lock()
		p.rest.Write(b)
		p.mu.Unlock()
	})
	read.Go(func() { io.Copy(lockedWriter{&p.mu, &p.stderr}, stderr) })
	go func() {
		read.Wait()
		cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.ended
		if t.Failed() {
			t.Logf("stderr of the server:\n%.4000s", p.log())
		}
		if log := p.log(); strings.Contains(log, "DATA RACE") || strings.Contains(log, "\npanic: ") || strings.Contains(log, "fatal error: ") {
			t.Errorf("the server raced or crashed:\n%.8000s", log)
		}
	})
	select {
	case line := <-first:
		fields := strings.Fields(line)
		if len(fields) < 2 || fields[0] != "ready" {
			<-p.ended
			t.Fatalf("got %q on stdout, want a ready line; stderr: %s", line, p.log())
		}
		p.ready = fields[1:]
	case <-time.After(patience):
		t.Fatalf("not ready after %v; stderr: %s", patience, p.log())
	}
	return p
}

// start starts it such that it ends with the tests, where the system can, also when
// these are killed. Its end then follows the thread that started it.
func (p *process) start() error {
	endWithUs(p.cmd)
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			<-p.ended
		}
	}()
	return <-started
}

type lockedWriter struct {
	mu *sync.Mutex
	b  *bytes.Buffer
}

func (w lockedWriter) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

// log is what it has written to stderr so far.
func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// says waits for a text in its log, which comes through a pipe.
func (p *process) says(text string) bool {
	for end := time.Now().Add(patience); !strings.Contains(p.log(), text); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
	}
	return true
}

func (p *process) signal(sig os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) running() bool {
	select {
	case <-p.ended:
		return false
	default:
		return true
	}
}

// wait waits for the end and returns the exit code.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.ended:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(2 * patience):
		p.cmd.Process.Signal(syscall.SIGQUIT) // its stacks go to the log
		<-p.ended
		p.t.Fatalf("still running after %v", 2*patience)
		return -1
	}
}

// stop closes the clients, drains the server and wants it to lose nothing.
func (p *process) stop() {
	p.t.Helper()
	for _, c := range p.peers {
		c.Close()
	}
	p.signal(syscall.SIGTERM)
	if code := p.wait(); code != exitOK {
		p.t.Errorf("exit code %d after SIGTERM, want 0", code)
	}
}

// dial connects to the server's first address.
func (p *process) dial() *peer {
	p.t.Helper()
	c := dialAddr(p.t, p.ready[0])
	p.peers = append(p.peers, c)
	return c
}

func dialAddr(t testing.TB, addr string) *peer {
	t.Helper()
	network, host, _ := strings.Cut(addr, "://")
	conn, err := net.DialTimeout(network, host, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(2 * patience))
	return &peer{t: t, Conn: conn, r: bufio.NewReader(conn)}
}

func TestVersionAndHelpGoToStdout(t *testing.T) {
	for _, args := range [][]string{{"version"}, {"--help"}, {"serve", "--help"}, {"call", "--help"}} {
		stdout, stderr, code := millrace(t, nil, "", args...)
		if code != 0 || stderr != "" || !strings.Contains(stdout, "millrace ") {
			t.Errorf("%v: exit %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}

// errClosed tells whether a read ended because the peer closed or reset.
func errClosed(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}
