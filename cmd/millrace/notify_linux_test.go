package main

import (
	"net"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// manager is a service manager's socket.
func manager(t *testing.T) (path string, next func() string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "n")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return path, func() string {
		t.Helper()
		b := make([]byte, 4096)
		conn.SetReadDeadline(time.Now().Add(patience))
		n, err := conn.Read(b)
		if err != nil {
			t.Fatal("nothing is told: ", err)
		}
		return string(b[:n])
	}
}

// A service manager is told that the server is ready, that it lives, and that it stops.
func TestTheServiceManagerIsTold(t *testing.T) {
	path, next := manager(t)
	cmd := exec.Command(program, "serve", "--addr=tcp://127.0.0.1:0")
	cmd.Env = environ("NOTIFY_SOCKET="+path, "WATCHDOG_USEC=200000")
	s := launch(t, cmd)
	if got := next(); got != "READY=1" {
		t.Errorf("got %q, want READY=1", got)
	}
	for range 3 {
		if got := next(); got != "WATCHDOG=1" {
			t.Errorf("got %q, want WATCHDOG=1", got)
		}
	}
	c := s.dial()
	c.busy(500)
	s.signal(syscall.SIGTERM)
	got := next()
	for got == "WATCHDOG=1" {
		got = next()
	}
	if then := next(); got != "STOPPING=1" || then != "WATCHDOG=1" { // it lives while it drains
		t.Errorf("got %q and %q, want STOPPING=1 and WATCHDOG=1", got, then)
	}
	for _, err := c.next(); err == nil; _, err = c.next() {
	}
	c.Close()
	if code := s.wait(); code != exitOK {
		t.Errorf("exit code %d, want 0", code)
	}
}

// A server that does not live is not said to; another process's watchdog is none of ours.
func TestWhoDoesNotLiveIsNotSaidTo(t *testing.T) {
	path, next := manager(t)
	n := newNotifier([]string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=20000"})
	var alive atomic.Bool
	asked := make(chan bool)
	stop := n.ready(func() bool {
		select {
		case asked <- true:
		default:
		}
		return alive.Load()
	})
	for range 3 {
		<-asked
	}
	n.say("told nothing else meanwhile")
	alive.Store(true)
	for i, want := range []string{"READY=1", "told nothing else meanwhile", "WATCHDOG=1"} {
		if got := next(); got != want {
			t.Errorf("%d: got %q, want %q", i, got, want)
		}
	}
	stop()
	if n := newNotifier([]string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=20000", "WATCHDOG_PID=1"}); n.every != 0 {
		t.Error("another process's watchdog is fed")
	}
	for _, usec := range []string{"", "0", "-1", "soon", "9223372036854775807", "18446744073709551615"} {
		if n := newNotifier([]string{"NOTIFY_SOCKET=" + path, "WATCHDOG_USEC=" + usec}); n.every != 0 {
			t.Errorf("WATCHDOG_USEC=%s: every %v, want never", usec, n.every)
		}
	}
	newNotifier(nil).ready(func() bool { return true })()
}
