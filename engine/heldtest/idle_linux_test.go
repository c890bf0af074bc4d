package heldtest

import (
	"flag"
	"fmt"
	"io"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

var (
	idle    = flag.Int("idle", 2000, "idle connections of TestIdleConnectionsAreSmall")
	profile = flag.Bool("profile", false, "have it write a heap profile to held.prof")
)

// mostIdle is what a connection may take of the heap, in bytes, while nothing happens on it.
const mostIdle = 488

// descriptor is the client's end of a connection: a blocking socket.
type descriptor int

func (d descriptor) Read(b []byte) (int, error) {
	n, err := syscall.Read(int(d), b)
	if n == 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}

// dialBare connects n clients and sends nothing.
func (c *child) dialBare(n int) []descriptor {
	c.Helper()
	at := netip.MustParseAddrPort(c.addr)
	all := make([]descriptor, n)
	for i := range all {
		fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
		if err != nil {
			c.Fatal(err)
		}
		c.Cleanup(func() { syscall.Close(fd) })
		_ = syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 30})
		if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: int(at.Port()), Addr: at.Addr().As4()}); err != nil {
			c.Fatal(err)
		}
		all[i] = descriptor(fd)
	}
	return all
}

// awaitConns waits until the server has so many connections.
func (c *child) awaitConns(n int) {
	c.Helper()
	for end := time.Now().Add(time.Minute); ; {
		var has int
		fmt.Sscan(c.do("conns"), &has)
		if has == n {
			return
		}
		if time.Now().After(end) {
			c.Fatalf("the server has %d connections, want %d", has, n)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// echo has each client's frame answered.
func (c *child) echo(all []descriptor) {
	c.Helper()
	request := frame(nil, subEcho, 64)
	for _, d := range all {
		if _, err := syscall.Write(int(d), request); err != nil {
			c.Fatal(err)
		}
	}
	answer := make([]byte, len(request))
	for _, d := range all {
		if _, err := io.ReadFull(d, answer); err != nil {
			c.Fatal(err)
		}
	}
}

// A connection on which nothing happens takes little of the heap, all told; after it had
// something answered no more; and when it has gone, nothing.
func TestIdleConnectionsAreSmall(t *testing.T) {
	if *profile {
		t.Setenv(profileEnv, "1")
	}
	c := start(t)
	c.echo(c.dialBare(64)) // what a loop has once for all
	before, _ := c.memory()
	all := c.dialBare(*idle)
	c.awaitConns(64 + len(all))
	each := func(what string) int {
		heap, _ := c.memory()
		n := (heap - before) / len(all)
		t.Logf("%s: %d bytes a connection", what, n)
		return n
	}
	fresh := each("before it has sent anything")
	c.echo(all)
	used := each("after an echo")
	if fresh > mostIdle || used > mostIdle {
		t.Errorf("an idle connection takes %d bytes, and %d after an echo, want %d at most", fresh, used, mostIdle)
	}
	if *profile {
		c.do("profile")
	}
}
