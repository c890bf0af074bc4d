package main

import (
	"bufio"
	"context"
	"io"
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

	"millrace/internal/proctest"
	"millrace/services/admin"
)

// serveInto starts a server whose log goes into a pipe of 4 KiB, and returns the pipe's other end
// and a client of its admin server.
func serveInto(t *testing.T) (*process, *os.File, *admin.Client) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	if _, err := unix.FcntlInt(w.Fd(), unix.F_SETPIPE_SZ, 4096); err != nil {
		t.Fatal(err)
	}
	door := "unix://" + filepath.Join(t.TempDir(), "admin")
	p := &process{t: t, ended: make(chan struct{})}
	p.cmd = exec.Command(program, "serve", "--addr=tcp://127.0.0.1:0", "--admin="+door, "--admin-write")
	p.cmd.Env, p.cmd.Stderr = environ(), w
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	go func() {
		p.cmd.Wait()
		close(p.ended)
	}()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.ended
	})
	if p.ready = strings.Fields(line); err != nil || len(p.ready) != 2 {
		t.Fatalf("got %q, %v, want a ready line", line, err)
	}
	p.ready = p.ready[1:]
	c, err := admin.NewClient(door, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return p, r, c
}

// note has the server write a line into its log.
func note(t *testing.T, c *admin.Client) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := c.Post(ctx, "/config?log-level=debug", nil, nil); err != nil {
		t.Fatal(err)
	}
}

// A server whose log is no longer read, or by nobody any more, serves on and drains.
func TestAServerDoesNotDependOnItsLog(t *testing.T) {
	for _, gone := range []bool{false, true} {
		s, log, c := serveInto(t)
		p := s.dial()
		p.echo("before")
		if gone {
			log.Close()
		}
		for range 200 { // the pipe holds 40 lines or so
			note(t, c)
		}
		p.echo("after")
		s.stop()
	}
}

// Hanging up ends nothing, also while the server starts and without a certificate to reload.
func TestHangingUpEndsNothing(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	hungUp := make(chan error, 1)
	name := filepath.Join(t.TempDir(), "pid")
	go func() { // a start that waits for a server of NATS that says nothing
		c, err := silent.Accept()
		if err != nil {
			hungUp <- err
			return
		}
		defer c.Close()
		hungUp <- hangUp(name)
		io.Copy(io.Discard, c)
	}()
	starting := launch(t, exec.Command("sh", "-c", `echo $$ >"$0"; exec "$@"`, name, program, "serve", "--addr=tcp://127.0.0.1:0", "--cluster=nats://"+silent.Addr().String()))
	if err := <-hungUp; err != nil {
		t.Error(err)
	}
	for _, s := range []*process{starting, serve(t), serve(t, "--tls-self-signed", "--addr=tcp://127.0.0.1:0", "--addr=tls://127.0.0.1:0")} {
		s.signal(syscall.SIGHUP)
		for end := time.Now().Add(patience); !strings.Contains(s.log(), "nothing to reload"); time.Sleep(time.Millisecond) {
			if time.Now().After(end) || !s.running() {
				t.Fatalf("running: %v, and the log does not say that there is nothing to reload", s.running())
			}
		}
		s.dial().echo("still here")
		s.stop()
	}
}

// hangUp sends SIGHUP to the process whose ID a file holds.
func hangUp(name string) error {
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return err
	}
	return syscall.Kill(pid, syscall.SIGHUP)
}

// Two signals at once are from one hand: the server drains as after one.
func TestTwoSignalsAtOnceAreOne(t *testing.T) {
	s := serve(t)
	c := s.dial()
	c.echo("in")
	proctest.Suspend(t, s.cmd.Process)
	s.signal(syscall.SIGTERM)
	s.signal(syscall.SIGINT)
	s.signal(syscall.SIGCONT)
	if f := c.recv(); f.main != 0 || f.sub != 4 {
		t.Errorf("got %v, want GOAWAY", f)
	}
	c.wantEnd()
	if code := s.wait(); code != exitOK {
		t.Errorf("exit code %d, want 0: it did not drain", code)
	}
}
