package gnetio

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"millrace/engine/internal/netio"
)

// inHands is how many connections of a loop are in which hands.
func inHands(t testing.TB, el *echoLoop) (n [nobodys + 1]int) {
	t.Helper()
	el.wait(t, func() {
		for _, c := range el.n.(*loop).conns {
			if c != nil {
				n[c.hands]++
			}
		}
	})
	return n
}

// duplicated reports whether two descriptors are of one socket.
func duplicated(t testing.TB) bool {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, f := range all {
		of, _ := os.Readlink("/proc/self/fd/" + f.Name())
		if !strings.HasPrefix(of, "socket:") {
			continue
		}
		if seen[of] {
			return true
		}
		seen[of] = true
	}
	return false
}

// Of a connection that the loop has taken over gnet knows nothing any more; but where it counts
// what each loop has it keeps them.
func TestGnetForgetsConnections(t *testing.T) {
	for _, cfg := range []Config{
		{},
		{Single: true},
		{Single: true, Balance: LeastConnections},
		{Addrs: []string{"unix://" + t.TempDir() + "/s"}},
	} {
		cfg.Loops = 1
		t.Run(fmt.Sprint(cfg.Single, cfg.Balance, len(cfg.Addrs)), func(t *testing.T) {
			h := &echoHost{}
			n := listen(t, cfg, h)
			first := dial(t, n.Addrs()[0]) // makes the loop known, where no probe has
			first.says("hello")
			el := h.all()[0]
			l := el.n.(*loop)
			waitFor(t, "the loop to read by itself", func() bool { return l.reader.Load() != nil })
			waitFor(t, "gnet to close its descriptor of it", func() bool { return !duplicated(t) })
			gnets, files := inHands(t, el), openFiles(t)
			set := len(setOf(t, l.epfd))
			var cs []*client
			for range 5 {
				c := dial(t, n.Addrs()[0])
				c.says("hello")
				cs = append(cs, c)
			}
			want := gnets
			if cfg.Balance == LeastConnections {
				want[loopReads] += 5
			} else {
				want[own] += 5
			}
			got, left := inHands(t, el), 0
			el.wait(t, func() { left = len(l.gnets) })
			if got != want || left != want[gnetReads]+want[loopReads] {
				t.Errorf("in whose hands connections are: %v, and %d that gnet is asked for, want %v", got, left, want)
			}
			if n := len(setOf(t, l.epfd)); n != set {
				t.Errorf("gnet's set has %d descriptors, before the connections %d", n, set)
			}
			if n := openFiles(t); n != files+2*5 {
				t.Errorf("%d descriptors are open for 5 connections and their clients, want 10", n-files)
			}
			for _, c := range cs {
				c.Close()
			}
			waitFor(t, "their descriptors to be closed", func() bool { return openFiles(t) == files })
		})
	}
}

// Access to a descriptor that was given before the loop took the connection over stays good.
func TestSyscallConnOfOpenStaysGood(t *testing.T) {
	raws := make(chan syscall.RawConn, 1)
	h := &echoHost{open: func(e *echo) *netio.Refusal {
		raw, err := e.SyscallConn()
		if err != nil {
			t.Error(err)
		}
		raws <- raw
		return nil
	}}
	n := listen(t, Config{Loops: 1}, h)
	c := dial(t, n.Addrs()[0])
	c.says("hello")
	if inHands(t, h.all()[0])[own] != 1 {
		t.Fatal("the connection is not the loop's")
	}
	raw := <-raws
	var peer unix.Sockaddr
	var err error
	if e := raw.Control(func(fd uintptr) { peer, err = unix.Getpeername(int(fd)) }); e != nil || err != nil {
		t.Fatal(e, err)
	}
	if got, want := peer.(*unix.SockaddrInet4).Port, c.LocalAddr().(*net.TCPAddr).Port; got != want {
		t.Errorf("the descriptor is of a connection from port %d, want %d", got, want)
	}
	c.Close()
	waitFor(t, "the close", func() bool { return raw.Control(func(uintptr) {}) == net.ErrClosed })
}

// Somebody else's duplicate of a descriptor, which keeps the socket, does not keep it in the
// reader's set.
func TestDuplicatesLeaveTheSetToo(t *testing.T) {
	fds := make(chan int, 1)
	h := &echoHost{received: func(e *echo, _ []byte) bool {
		raw, err := e.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) {
				dup, _ := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
				fds <- dup
			})
		}
		if err != nil {
			t.Error(err)
		}
		return false
	}}
	n := listen(t, Config{Loops: 1}, h)
	c := dial(t, n.Addrs()[0])
	c.says("x")
	defer unix.Close(<-fds)
	el := h.all()[0]
	rd := el.n.(*loop).reader.Load()
	if n := len(setOf(t, rd.epfd)); n != 3 {
		t.Fatalf("%d descriptors in the reader's set, want 3", n)
	}
	c.Close()
	waitFor(t, "the connection to leave the set", func() bool { return len(setOf(t, rd.epfd)) == 2 })
	el.wait(t, func() {})
}

// With no file left for a duplicate gnet keeps the connection, which is served all the same.
func TestWithoutFilesGnetKeepsConnections(t *testing.T) {
	srv := prepare(t, childConfig{Addrs: []string{"tcp://127.0.0.1:0"}, Files: 200})
	if err := srv.start(); err != "" {
		t.Fatal(err)
	}
	at, _ := net.ResolveTCPAddr("tcp", srv.addr)
	before := dial(t, at)
	before.says("before")
	if got := srv.ask("hands"); got != "[0 0 1 0]" {
		t.Fatalf("in whose hands connections are: %s, want [0 0 1 0]", got)
	}
	srv.ask("hog")
	srv.ask("free one")
	c := dial(t, at)
	c.says("without files")
	if got := srv.ask("hands"); got != "[0 1 1 0]" {
		t.Fatalf("in whose hands connections are: %s, want [0 1 1 0]", got)
	}
	before.says("still")
	c.Close()
	srv.ask("free")
	dial(t, at).says("with files")
	waitFor(t, "the closed one to be gone", func() bool { return srv.ask("hands") == "[0 0 2 0]" })
}

// The Sinks of what the loop has taken over are told of the network's end like all others: on
// the loop's goroutine.
func TestStopTellsOnTheLoop(t *testing.T) {
	goroutine := func() string {
		b := make([]byte, 64)
		id, _, _ := bytes.Cut(bytes.TrimPrefix(b[:runtime.Stack(b, false)], []byte("goroutine ")), []byte(" "))
		return string(id)
	}
	var mu sync.Mutex
	on, ended := map[*echo]string{}, 0
	h := &echoHost{
		received: func(e *echo, _ []byte) bool {
			mu.Lock()
			defer mu.Unlock()
			on[e] = goroutine()
			return false
		},
		closed: func(e *echo, how netio.End) {
			mu.Lock()
			defer mu.Unlock()
			if id := goroutine(); id != on[e] || how != netio.EndReset {
				t.Errorf("closed with %v on goroutine %s, served on %s", how, id, on[e])
			}
			ended++
		},
	}
	n := listen(t, Config{Loops: 2}, h)
	for range 8 {
		dial(t, n.Addrs()[0]).says("hello")
	}
	if err := n.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	if ended != 8 {
		t.Errorf("%d are told of the end, want 8", ended)
	}
}

// Where a peer comes from is told in full, whatever the family, and each time anew: who has it may
// change it.
func TestWherePeersComeFrom(t *testing.T) {
	dir := t.TempDir()
	conns := make(chan *echo, 1)
	h := &echoHost{received: func(e *echo, _ []byte) bool { conns <- e; return false }}
	n := listen(t, Config{Loops: 1, Addrs: []string{"tcp://127.0.0.1:0", "tcp://[::1]:0", "unix://" + dir + "/s"}}, h)
	comes := func(c net.Conn) *conn {
		t.Helper()
		t.Cleanup(func() { c.Close() })
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		e := <-conns
		if got, want := e.RemoteAddr(), c.LocalAddr(); got.Network() != want.Network() || got.String() != want.String() && want.String() != "" {
			t.Errorf("from %v %q, want %v %q", got.Network(), got, want.Network(), want)
		}
		return e.Conn.(*conn)
	}
	for _, a := range n.Addrs()[:2] {
		c, err := net.Dial("tcp", a.String())
		if err != nil {
			t.Fatal(err)
		}
		x := comes(c)
		ip := x.RemoteAddr().(*net.TCPAddr).IP
		if v4 := ip.To4() != nil; v4 != (len(ip) == 4) {
			t.Errorf("%v has %d bytes", ip, len(ip))
		}
		ip[0] = 7
		if got := x.RemoteAddr().String(); got != c.LocalAddr().String() {
			t.Errorf("who was told has changed it to %v", got)
		}
	}
	path := n.Addrs()[2].(*net.UnixAddr)
	var nameless []*conn
	for range 2 {
		c, err := net.DialUnix("unix", nil, path)
		if err != nil {
			t.Fatal(err)
		}
		nameless = append(nameless, comes(c))
	}
	if nameless[0].local != nameless[1].local {
		t.Error("each client without a name has an address of its own")
	}
	c, err := net.DialUnix("unix", &net.UnixAddr{Name: dir + "/client", Net: "unix"}, path)
	if err != nil {
		t.Fatal(err)
	}
	comes(c)

	x := &conn{local: &local{}}
	zoned := &net.TCPAddr{IP: net.ParseIP("fe80::1"), Port: 7, Zone: "eth0"}
	if x.from(zoned); x.RemoteAddr().String() != "[fe80::1%eth0]:7" {
		t.Errorf("from %v, want [fe80::1%%eth0]:7", x.RemoteAddr())
	}
}

// What an idle connection holds here is of the size that it is said to have.
func TestConnsAreSmall(t *testing.T) {
	if n := unsafe.Sizeof(conn{}); n > 64 {
		t.Errorf("a conn has %d bytes, want 64 at most", n)
	}
}
