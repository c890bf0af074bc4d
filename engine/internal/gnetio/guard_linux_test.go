package gnetio

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Of those that claim a port at the same moment exactly one has it, although the kernel
// may refuse two that begin to listen together.
func TestOneGuardPerPort(t *testing.T) {
	before := openFiles(t)
	for round := range 300 {
		at := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(freePort(t)))
		var wg sync.WaitGroup
		var have atomic.Int32
		cs := make([]*claim, 4)
		start := make(chan bool)
		for i := range cs {
			c := &claim{addr: Addr{"tcp", fmt.Sprint(at)}, at: at, guard: -1, plug: -1}
			cs[i] = c
			wg.Go(func() {
				<-start
				if err := c.hold(t.Context()); err == nil {
					have.Add(1)
				} else if !errors.Is(err, syscall.EADDRINUSE) {
					t.Error(err)
				}
			})
		}
		close(start)
		wg.Wait()
		for _, c := range cs {
			c.letGo()
		}
		if n := have.Load(); n != 1 {
			t.Fatalf("round %d: %d have the port, want 1", round, n)
		}
	}
	if n := openFiles(t); n > before {
		t.Errorf("%d descriptors were left open", n-before)
	}
}

// While a guard listens no client gets through to it, and one that tries meanwhile meets the
// listener that comes: also where the kernel lets only CAP_NET_ADMIN attach a filter.
func TestAGuardDropsWhatComes(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "0.0.0.0", "::1", "::"} {
		for _, capable := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, capable %v", host, capable), func(t *testing.T) {
				t.Parallel()
				at := netip.AddrPortFrom(netip.MustParseAddr(host), 0)
				c := &claim{addr: Addr{"tcp", fmt.Sprint(at)}, at: at, guard: -1, plug: -1}
				done := make(chan error)
				go func() {
					runtime.LockOSThread() // the thread ends with the goroutine
					err := error(nil)
					if !capable {
						var none [2]unix.CapUserData
						err = unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &none[0])
					}
					if err == nil {
						err = c.hold(t.Context())
					}
					done <- err
				}()
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				defer c.letGo()
				to := c.at.String()
				if conn, err := net.DialTimeout("tcp", to, 300*time.Millisecond); err == nil {
					conn.Close()
					t.Fatal("the guard took a connection")
				} else if e := net.Error(nil); !errors.As(err, &e) || !e.Timeout() {
					t.Fatal(err)
				}
				came := make(chan net.Conn, 1)
				go func() {
					conn, err := net.DialTimeout("tcp", to, 30*time.Second)
					if err != nil {
						t.Error(err)
					}
					came <- conn
				}()
				shared := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
					return raw.Control(func(fd uintptr) {
						if err := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
							t.Error(err)
						}
					})
				}}
				ln, err := shared.Listen(context.Background(), "tcp", to)
				if err != nil {
					t.Fatal(err)
				}
				defer ln.Close()
				c.letGo()
				go func() {
					if peer, err := ln.Accept(); err == nil {
						peer.Write([]byte("x"))
						peer.Close()
					}
				}()
				conn := <-came
				if conn == nil {
					return
				}
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(30 * time.Second))
				if n, err := conn.Read(make([]byte, 1)); n != 1 {
					t.Errorf("read %d bytes, %v", n, err)
				}
			})
		}
	}
}
