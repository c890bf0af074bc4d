package engine

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"millrace/codec"
)

// An address in use is an error that names it; a file that isn't a socket is not removed.
func TestAddressesThatCannotBe(t *testing.T) {
	first := serve(t, Config{}, &funcs{})
	dir := t.TempDir()
	file := dir + "/precious"
	if err := os.WriteFile(file, []byte("keep"), 0o600); err != nil {
		t.Fatal(err)
	}
	unixFirst := serve(t, Config{Addrs: []string{"unix://" + dir + "/s"}, Limits: Limits{MaxConns: 10}}, &funcs{})
	for _, tc := range []struct {
		addr, text string
		is         error
	}{
		{"tcp://" + first.Addrs()[0].String(), first.Addrs()[0].String(), syscall.EADDRINUSE},
		{"unix://" + unixFirst.Addrs()[0].String(), dir + "/s", syscall.EADDRINUSE},
		{"unix://" + file, "not a socket", nil},
		{"unix://" + dir, "not a socket", nil},
		{"unix://" + dir + "/no/such/dir/s", dir, nil},
		{"tcp://192.0.2.1:0", "192.0.2.1", nil},
	} {
		srv, err := New(Config{Addrs: []string{"tcp://127.0.0.1:0", tc.addr}, Limits: Limits{MaxConns: 10}, Logger: quiet}, &funcs{})
		if err != nil {
			t.Fatal(err)
		}
		err = srv.Start(context.Background())
		if err == nil {
			t.Errorf("%s: started", tc.addr)
			srv.Stop(within(t, time.Second))
			continue
		}
		if !strings.Contains(err.Error(), tc.text) || strings.Contains(err.Error(), "\n") || (tc.is != nil && !errors.Is(err, tc.is)) {
			t.Errorf("%s: %v", tc.addr, err)
		}
		if err := srv.Stop(within(t, 20*time.Second)); err != nil {
			t.Errorf("%s: Stop: %v", tc.addr, err)
		}
	}
	if b, err := os.ReadFile(file); err != nil || string(b) != "keep" {
		t.Errorf("the file has gone: %q, %v", b, err)
	}
	c := dial(t, unixFirst)
	c.send(0, SubPing, "")
	c.expect(0, SubPong, "")
}

// An address can be bound again at once, with connections in TIME_WAIT, and a unix
// socket that a dead server has left behind is taken.
func TestAddressesAreFreeAgainAtOnce(t *testing.T) {
	var addr string
	path := t.TempDir() + "/s"
	for i := range 5 {
		cfg := Config{Addrs: []string{"tcp://127.0.0.1:0", "unix://" + path}, Limits: Limits{MaxConns: 10}}
		if i > 0 {
			cfg.Addrs[0] = addr
		}
		srv := serve(t, cfg, &funcs{read: func(s *Session, p codec.Packet) { echo(s, p); s.Close() }})
		addr = "tcp://" + srv.Addrs()[0].String()
		for range 5 {
			c := dial(t, srv)
			c.send(1, 1, "x")
			c.expect(1, 1, "x")
			c.expectEOF() // the server closes first: TIME_WAIT is its own
			c.Close()
		}
		if err := srv.Stop(within(t, time.Minute)); err != nil {
			t.Error(err)
		}
		fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0) // a socket file nobody listens on
		if err != nil {
			t.Fatal(err)
		}
		os.Remove(path)
		if err := syscall.Bind(fd, &syscall.SockaddrUnix{Name: path}); err != nil {
			t.Error(err)
		}
		syscall.Close(fd)
	}
}

// A session knows the address that its peer came to, and its descriptor while it is open.
func TestSessionKnowsItsSocket(t *testing.T) {
	sessions := make(chan *Session, 1)
	srv := serve(t, Config{Addrs: []string{"tcp://0.0.0.0:0"}}, &funcs{accept: func(s *Session) { sessions <- s }})
	to := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 3), Port: srv.Addrs()[0].(*net.TCPAddr).Port}
	c, err := dialAddr(t, to)
	if err != nil {
		t.Fatal(err)
	}
	s := <-sessions
	if got := s.LocalAddr().String(); got != to.String() {
		t.Errorf("local address %s, want %s", got, to)
	}
	raw, err := s.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var nodelay int
	if err := raw.Control(func(fd uintptr) {
		nodelay, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_NODELAY)
	}); err != nil || nodelay != 1 {
		t.Errorf("TCP_NODELAY %d, %v", nodelay, err)
	}
	s.Close()
	c.expectEOF()
	c.Close()
	waitFor(t, "the descriptor to be closed", func() bool {
		return errors.Is(raw.Control(func(uintptr) {}), net.ErrClosed)
	})
	if got := s.LocalAddr().String(); got != to.String() {
		t.Errorf("local address %s after close, want %s", got, to)
	}
}

// UnixMode is the socket's mode; a value that is not a permission is an error of the field. Addresses
// that overlap are an error of Addrs that names both.
func TestAddressSettings(t *testing.T) {
	path := t.TempDir() + "/s"
	serve(t, Config{Addrs: []string{"unix://" + path}, Limits: Limits{MaxConns: 10}, Socket: Socket{UnixMode: 0o620}}, &funcs{})
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o620 {
		t.Errorf("%v, %v", st, err)
	}
	_, err := New(Config{Addrs: []string{"unix:///tmp/x"}, Socket: Socket{UnixMode: os.ModeDir | 0o700}}, &funcs{})
	var bad *ConfigError
	if !errors.As(err, &bad) || bad.Field != "UnixMode" {
		t.Errorf("got %v", err)
	}
	srv, err := New(Config{Addrs: []string{"tcp://:7001", "tcp://127.0.0.1:7001"}, Accept: AcceptSingle, Limits: Limits{MaxConns: 10}, Logger: quiet}, &funcs{})
	if err != nil {
		t.Fatal(err)
	}
	err = srv.Start(context.Background())
	if !errors.As(err, &bad) || bad.Field != "Addrs" || !strings.Contains(err.Error(), "tcp://:7001") || !strings.Contains(err.Error(), "tcp://127.0.0.1:7001") {
		t.Errorf("got %v", err)
	}
}
