package hostile

import (
	"bufio"
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	kib = 1 << 10
	mib = 1 << 20

	// runtimeAllowance is what the process may need beside what its budget counts: the
	// collector's slack, stacks, tables, and pages of the program itself.
	runtimeAllowance = 16 * mib

	// smallSend keeps the kernel from holding megabytes for a client that doesn't read,
	// so that the server has to.
	smallSend = "--socket-send-buffer=16KiB"
)

// server is one process of the command.
type server struct {
	testing.TB
	cmd   *exec.Cmd
	addrs []string      // as printed, in the order of --addr; set before ready is closed
	ready chan struct{} // closed by the ready line
	ended chan struct{} // closed when the process has ended; code is set before
	code  int
	log   syncBuffer
	mute  bool // the log is no news when the test fails
}

// syncBuffer is a bytes.Buffer for two goroutines.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// launch starts the command and waits for nothing. The process is killed when the test ends.
func launch(t testing.TB, args ...string) *server {
	t.Helper()
	s := &server{TB: t, ready: make(chan struct{}), ended: make(chan struct{})}
	s.cmd = exec.Command(command, append([]string{"serve", "--log-level=error"}, args...)...)
	// The command takes its flags from variables of this name too.
	s.cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "MILLRACE_") })
	s.cmd.Stderr = &s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		for in := bufio.NewScanner(out); in.Scan(); {
			if f := strings.Fields(in.Text()); len(f) > 1 && f[0] == "ready" && s.addrs == nil {
				s.addrs = f[1:]
				close(s.ready)
			}
		}
		s.cmd.Wait()
		s.code = s.cmd.ProcessState.ExitCode()
		close(s.ended)
	}()
	t.Cleanup(func() {
		s.cmd.Process.Kill()
		<-s.ended
		if t.Failed() && !s.mute && s.log.String() != "" {
			t.Logf("the server's log ends:\n%s", tail(s.log.String(), 2000))
		}
	})
	return s
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// serve starts the command on a free port of 127.0.0.1, unless args say where, and
// returns when it is ready.
func serve(t testing.TB, args ...string) *server {
	t.Helper()
	if !strings.Contains(strings.Join(args, " "), "--addr") {
		args = append(args, "--addr=tcp://127.0.0.1:0")
	}
	s := launch(t, args...)
	select {
	case <-s.ready:
	case <-s.ended:
		t.Fatalf("serve %v ended with code %d: %s", args, s.code, tail(s.log.String(), 500))
	case <-time.After(time.Minute):
		t.Fatalf("serve %v is not ready after a minute", args)
	}
	return s
}

// term asks the server to drain.
func (s *server) term() { s.cmd.Process.Signal(syscall.SIGTERM) }

// exit waits for the end of the process, at most for the time given, and returns its code.
func (s *server) exit(within time.Duration) int {
	s.Helper()
	select {
	case <-s.ended:
		return s.code
	case <-time.After(within):
		s.Errorf("still running after %v", within)
		s.cmd.Process.Kill()
		<-s.ended
		return -1
	}
}

// alive says whether the process runs.
func (s *server) alive() bool {
	select {
	case <-s.ended:
		return false
	default:
		return true
	}
}

func (s *server) proc(name string) string { return fmt.Sprintf("/proc/%d/%s", s.cmd.Process.Pid, name) }

// field returns a value in bytes of a file of /proc whose lines read "Name:  N kB".
func (s *server) field(file, name string) int {
	b, err := os.ReadFile(s.proc(file))
	if err != nil {
		return 0 // gone
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == name+":" {
			n, _ := strconv.Atoi(f[1])
			return n * kib
		}
	}
	return 0
}

// rss is the memory that the process has in RAM, in bytes.
func (s *server) rss() int {
	b, err := os.ReadFile(s.proc("statm"))
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(strings.Fields(string(b))[1])
	return n * os.Getpagesize()
}

// anon is the part of it that is no file: heap and stacks.
func (s *server) anon() int { return s.field("smaps_rollup", "Anonymous") }

// fds returns how many descriptors the server has, without epoll sets and their like and
// without unix sockets that have no name, of which no client has one: of these it opens some
// when they are first needed, and keeps them.
func (s *server) fds() int {
	unnamed := map[string]bool{}
	b, _ := os.ReadFile(s.proc("net/unix"))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) == 7 {
			unnamed["socket:["+f[6]+"]"] = true
		}
	}
	e, err := os.ReadDir(s.proc("fd"))
	if err != nil {
		return -1
	}
	n := 0
	for _, f := range e {
		if to, err := os.Readlink(filepath.Join(s.proc("fd"), f.Name())); err == nil && !strings.HasPrefix(to, "anon_inode:") && !unnamed[to] {
			n++
		}
	}
	return n
}

// memory is what a load did to the server's.
type memory struct {
	s           *server
	start, anon int
}

// watch begins to observe the server's memory. The kernel keeps the peak, so nothing
// between two looks is missed.
func (s *server) watch() *memory {
	s.Helper()
	if err := os.WriteFile(s.proc("clear_refs"), []byte("5"), 0); err != nil {
		s.Fatalf("reset the peak: %v", err)
	}
	return &memory{s, s.rss(), s.anon()}
}

func (m *memory) peak() int { return m.s.field("status", "VmHWM") }

// within reports the figures, and an error if the peak is further above the start than
// 1.5 times what the limits allow to be held and the allowance.
func (m *memory) within(held int) {
	m.s.Helper()
	peak, allowed := m.peak(), held*3/2+runtimeAllowance
	m.s.Logf("RSS before %s, peak %s, now %s (anonymous %s → %s); allowed %s more, used %s",
		size(m.start), size(peak), size(m.s.rss()), size(m.anon), size(m.s.anon()), size(allowed), size(peak-m.start))
	if peak-m.start > allowed {
		m.s.Errorf("%s above the start for %s that may be held: more than 1.5 times that and %s",
			size(peak-m.start), size(held), size(runtimeAllowance))
	}
}

// givenBack waits for the memory to return to about what the process had before.
func (m *memory) givenBack() {
	m.s.Helper()
	bound, wait := m.start*13/10+8*mib, 25*time.Second
	if *long {
		wait = 60 * time.Second
	}
	from := time.Now()
	poll(wait, func() bool { return m.s.rss() <= bound })
	now := m.s.rss()
	m.s.Logf("%v after the load: RSS %s (before %s, bound %s)", time.Since(from).Round(time.Second), size(now), size(m.start), size(bound))
	if now > bound {
		m.s.Errorf("not given back: RSS %s after %v, want at most %s", size(now), wait, size(bound))
	}
}

func size(n int) string { return fmt.Sprintf("%.1f MiB", float64(n)/mib) }

// poll waits until ok holds, at most for the time given, and says whether it does.
func poll(within time.Duration, ok func() bool) bool {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); ; <-tick.C {
		if ok() {
			return true
		}
		if time.Now().After(end) {
			return false
		}
	}
}

// settle waits until the server has no more descriptors than before, which is what it
// must come to when all clients are gone.
func (s *server) settle(before int, within time.Duration) {
	s.Helper()
	if !poll(within, func() bool { return s.fds() <= before }) {
		s.Errorf("%d descriptors %v after the last client, %d before the first", s.fds(), within, before)
	}
}

// freePort returns a port that nothing uses, below those that the kernel gives to clients.
func freePort(t testing.TB) int {
	t.Helper()
	for range 100 {
		p := 20000 + rand.IntN(12000)
		if l, err := net.Listen("tcp", fmt.Sprintf(":%d", p)); err == nil {
			l.Close()
			return p
		}
	}
	t.Fatal("no free port")
	return 0
}

// addr is where clients dial: network and address of the server's i-th listener.
func (s *server) addr(i int) (network, address string) {
	network, address, _ = strings.Cut(s.addrs[i], "://")
	return network, address
}
