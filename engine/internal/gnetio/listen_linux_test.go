package gnetio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func textLog(w io.Writer) *slog.Logger { return slog.New(slog.NewTextHandler(w, nil)) }

// freePort is a TCP port that nobody has.
func freePort(t testing.TB) int {
	t.Helper()
	ln, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().(*net.TCPAddr).Port
}

// Of servers started on one port or path at once exactly one lives, and the others say
// that it is in use.
func TestOneServerPerAddress(t *testing.T) {
	path := t.TempDir() + "/s"
	rounds := 5
	for name, cc := range map[string]childConfig{"reuseport": {Loops: 2}, "single": {Single: true}, "unix": {Addrs: []string{"unix://" + path}}} {
		t.Run(name, func(t *testing.T) {
			for round := range rounds {
				cc := cc
				if name != "unix" {
					cc.Addrs = []string{fmt.Sprintf("tcp://127.0.0.1:%d", freePort(t))}
				} else if round%2 == 1 { // one that a dead server has left
					leaveSocket(t, path)
				}
				var cs []*child
				for range 3 {
					cs = append(cs, prepare(t, cc))
				}
				var wg sync.WaitGroup
				errs := make([]string, len(cs))
				for i, c := range cs {
					wg.Go(func() { errs[i] = c.start() })
				}
				wg.Wait()
				live := 0
				for _, err := range errs {
					if err == "" {
						live++
						network, addr, _ := strings.Cut(cc.Addrs[0], "://")
						c, err := net.Dial(network, addr)
						if err != nil {
							t.Fatal(err)
						}
						(&client{c, t}).says("x")
						c.Close()
					} else if !strings.Contains(err, "address already in use") || !strings.Contains(err, cc.Addrs[0]) {
						t.Errorf("a loser says %q", err)
					}
				}
				if live != 1 {
					t.Fatalf("round %d: %d servers live, want 1: %q", round, live, errs)
				}
				for i, c := range cs {
					if errs[i] == "" {
						c.ask("stop")
					}
					c.cmd.Process.Kill()
				}
			}
		})
	}
}

// leaveSocket leaves a socket at path that nobody listens on.
func leaveSocket(t testing.TB, path string) {
	t.Helper()
	os.Remove(path)
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
}

// An address takes the family that it names, for every loop, says so, and is in use only
// where that is.
func TestFamilyIsWhatWasAskedFor(t *testing.T) {
	if ln, err := net.Listen("tcp6", "[::1]:0"); err != nil {
		t.Skip("no IPv6:", err)
	} else {
		ln.Close()
	}
	for _, single := range []bool{false, true} {
		for _, tc := range []struct {
			addr, says string
			v4, v6     bool
		}{
			{"tcp4://:%d", "0.0.0.0:%d", true, false},
			{"tcp4://127.0.0.1:%d", "127.0.0.1:%d", true, false},
			{"tcp://0.0.0.0:%d", "0.0.0.0:%d", true, false},
			{"tcp6://:%d", "[::]:%d", false, true},
			{"tcp://[::1]:%d", "[::1]:%d", false, true},
			{"tcp://[::]:%d", "[::]:%d", false, true},
			{"tcp://:%d", "[::]:%d", true, true},
			{"tcp://localhost:%d", "127.0.0.1:%d", true, false},
			{"tcp6://localhost:%d", "[::1]:%d", false, true},
		} {
			t.Run(fmt.Sprint(tc.addr, single), func(t *testing.T) {
				port := freePort(t)
				if !tc.v4 || !tc.v6 { // the other family is somebody else's
					network := map[bool]string{true: "tcp6", false: "tcp4"}[tc.v4]
					ln, err := net.Listen(network, fmt.Sprintf(":%d", port))
					if err != nil {
						t.Fatal(err)
					}
					defer ln.Close()
					go func() {
						for {
							c, err := ln.Accept()
							if err != nil {
								return
							}
							c.Write([]byte("other"))
							c.Close()
						}
					}()
				}
				n, err := tryListen(t, Config{Addrs: []string{fmt.Sprintf(tc.addr, port)}, Single: single, Loops: 3}, &echoHost{})
				if err != nil {
					if strings.Contains(tc.addr, "tcp6://localhost") {
						t.Skip(err) // the machine's localhost is IPv4 only
					}
					t.Fatal(err)
				}
				if got, want := n.Addrs()[0].String(), fmt.Sprintf(tc.says, port); got != want {
					t.Errorf("says %s, want %s", got, want)
				}
				for range 12 { // each loop gets some
					for ip, ours := range map[string]bool{"127.0.0.1": tc.v4, "::1": tc.v6} {
						a, _ := net.ResolveTCPAddr("tcp", net.JoinHostPort(ip, fmt.Sprint(port)))
						c := dial(t, a)
						if ours {
							c.says("x")
						} else {
							c.gets("other")
						}
						c.Close()
					}
				}
			})
		}
	}
	for addr, other := range map[string]string{"tcp4://:0": "::1", "tcp://0.0.0.0:0": "::1", "tcp6://:0": "127.0.0.1", "tcp://[::]:0": "127.0.0.1"} {
		n := listen(t, Config{Addrs: []string{addr}, Loops: 3}, &echoHost{})
		for range 12 { // nobody has the other family
			a := net.JoinHostPort(other, fmt.Sprint(n.Addrs()[0].(*net.TCPAddr).Port))
			if c, err := net.Dial("tcp", a); err == nil {
				c.Close()
				t.Errorf("%s serves %s", addr, other)
			}
		}
	}
	_, err := tryListen(t, Config{Addrs: []string{"tcp4://[::1]:0"}}, &echoHost{})
	var bad *ListenError
	if !errors.As(err, &bad) || bad.Addr != "tcp4://[::1]:0" {
		t.Errorf("tcp4 of an IPv6 address: %v", err)
	}
}

// Addresses that overlap are two listeners where each loop accepts, and an error that
// names both where one goroutine does.
func TestOverlappingAddresses(t *testing.T) {
	for _, other := range []string{"tcp://:%d", "tcp4://:%d", "tcp://127.0.0.1:%d"} {
		port := freePort(t)
		addrs := []string{fmt.Sprintf("tcp://127.0.0.1:%d", port), fmt.Sprintf(other, port)}
		_, err := tryListen(t, Config{Addrs: addrs, Single: true}, &echoHost{})
		var bad *AddrError
		if !errors.As(err, &bad) || !strings.Contains(err.Error(), addrs[0]) || !strings.Contains(err.Error(), addrs[1]) {
			t.Errorf("%v: %v", addrs, err)
		}
		n := listen(t, Config{Addrs: addrs}, &echoHost{})
		dial(t, n.Addrs()[0]).says("x")
	}
}

// A restart on the same port, with connections in TIME_WAIT, works at once; and a client
// that comes while a server starts gets an answer, not a reset.
func TestClientsOfAServerThatStarts(t *testing.T) {
	port := freePort(t)
	for range 3 {
		stop := make(chan bool)
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", port), time.Minute)
					if errors.Is(err, syscall.ECONNREFUSED) {
						continue
					}
					if err != nil {
						t.Error(err)
						return
					}
					c.SetDeadline(time.Now().Add(time.Minute))
					(&client{c, t}).says("x")
					c.Close()
				}
			})
		}
		h := &echoHost{received: func(e *echo, b []byte) bool { e.Write(b); e.CloseWrite(); return true }}
		n := listen(t, Config{Addrs: []string{fmt.Sprintf("tcp://127.0.0.1:%d", port)}}, h)
		time.Sleep(5 * time.Millisecond)
		close(stop)
		wg.Wait()
		halt(t, n, h)
	}
}

// A unix path is a server's own: nothing else is removed or replaced, at start or at
// stop, but what a dead server has left.
func TestUnixPathIsOnlyItsOwn(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/s"
	cfg := Config{Addrs: []string{"unix://" + path}, Loops: 1}
	refused := func(what string, is func(error) bool) {
		t.Helper()
		if _, err := tryListen(t, cfg, &echoHost{}); err == nil || !is(err) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", what, err)
		}
	}
	inUse := func(err error) bool { return errors.Is(err, syscall.EADDRINUSE) }
	noSocket := func(err error) bool { var bad *AddrError; return errors.As(err, &bad) }

	os.WriteFile(path, []byte("keep"), 0o600)
	refused("a file", noSocket)
	if b, _ := os.ReadFile(path); string(b) != "keep" {
		t.Error("the file has gone")
	}
	os.Remove(path)
	os.Mkdir(path, 0o700)
	os.WriteFile(path+"/f", nil, 0o600)
	refused("a directory", noSocket)
	if _, err := os.Stat(path + "/f"); err != nil {
		t.Error(err)
	}
	os.RemoveAll(path)

	leaveSocket(t, path)
	h := &echoHost{}
	a := listen(t, cfg, h)
	dial(t, a.Addrs()[0]).says("a")
	refused("a living server", inUse)
	dial(t, a.Addrs()[0]).says("still a")

	os.Remove(path) // somebody else takes the path
	b, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	halt(t, a, h)
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal("the first server's stop took the second's path: ", err)
	}
	c.Close()
	b.Close()

	h = &echoHost{}
	a = listen(t, cfg, h)
	halt(t, a, h)
	left, _ := os.ReadDir(dir)
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	cfg.Addrs[0] = "unix://" + dir + "/none/s"
	path = dir + "/none"
	refused("no directory", func(err error) bool { return errors.Is(err, fs.ErrNotExist) })
}

// Paths of every length up to the system's, with any character, are served.
func TestUnixPathsOfEveryKind(t *testing.T) {
	dir, err := os.MkdirTemp("/tmp", "g")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	t.Chdir(dir)
	long := dir + "/" + strings.Repeat("l", maxPath-len(dir)-1)
	for _, path := range []string{long, long[:maxPath-20], dir + "/a b?c#d%2Fe%", "relative", "./r/../x", dir + "/ü"} {
		os.Mkdir("r", 0o700)
		h := &echoHost{}
		n := listen(t, Config{Addrs: []string{"unix://" + path}, Loops: 1}, h)
		if got := n.Addrs()[0].String(); got != path {
			t.Errorf("says %s, want %s", got, path)
		}
		dial(t, &net.UnixAddr{Name: path, Net: "unix"}).says("x")
		halt(t, n, h)
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: left behind, %v", path, err)
		}
	}
}

// A unix socket has its mode from the first moment that it is at its path.
func TestUnixMode(t *testing.T) {
	dir := t.TempDir()
	path := dir + "/s"
	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	for mode, want := range map[fs.FileMode]fs.FileMode{0o660: 0o660, 0o666: 0o666, 0: 0o700} {
		stop, seen := make(chan bool), make(chan map[fs.FileMode]int)
		go func() {
			modes := map[fs.FileMode]int{}
			for {
				if st, err := os.Lstat(path); err == nil {
					modes[st.Mode().Perm()]++
				}
				select {
				case <-stop:
					seen <- modes
					return
				default:
				}
			}
		}()
		for range 20 {
			h := &echoHost{}
			n := listen(t, Config{Addrs: []string{"unix://" + path}, Loops: 1, UnixMode: mode}, h)
			if st, err := os.Lstat(path); err != nil || st.Mode().Perm() != want {
				t.Errorf("UnixMode %o: %v, %v", mode, st.Mode(), err)
			}
			halt(t, n, h)
		}
		close(stop)
		if modes := <-seen; len(modes) != 1 || modes[want] == 0 {
			t.Errorf("UnixMode %o: modes %v were seen, want %o only", mode, modes, want)
		}
	}
	if left, _ := filepath.Glob(dir + "/*"); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// Start ends although loops don't answer, or their probes are not heard.
func TestStartEndsWhenLoopsDoNotAnswer(t *testing.T) {
	gate := make(chan bool)
	time.AfterFunc(200*time.Millisecond, func() { close(gate) })
	n := New(Config{Addrs: []string{"tcp://127.0.0.1:0"}, Loops: 2, Logger: quiet}, &slowHost{gate: gate})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := n.Start(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want the context's error", err)
	}
	for range 2 {
		p := &probe{heard: make(chan struct{})}
		if p.check(ctx) {
			t.Error("a probe that nobody heard is good")
		}
	}
}
