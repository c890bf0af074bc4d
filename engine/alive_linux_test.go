package engine

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
	"time"

	"millrace/internal/proctest"
)

// A client that lives and does not read keeps its session for many times UserTimeout,
// and then gets every byte.
func TestClosedWindowIsNotDeath(t *testing.T) {
	t.Parallel()
	const limit = 500 * time.Millisecond
	srv := serve(t, Config{Socket: Socket{UserTimeout: limit}, Timeouts: Timeouts{Linger: 100 * time.Millisecond}}, &funcs{read: echo})
	c := dial(t, srv)
	one := frame(1, 1, string(bytes.Repeat([]byte("0123456789abcdef"), 63)))
	n := 20 * mib / len(one)
	sent := make(chan error, 1)
	go func() {
		_, err := c.Write(bytes.Repeat(one, n))
		sent <- err
	}()
	waitFor(t, "the window to close", func() bool { return srv.Stats().Memory > 0 })
	time.Sleep(8 * limit)
	if st := srv.Stats(); st.Conns != 1 || st.Memory == 0 {
		t.Fatalf("%d sessions, %d bytes wait, %v", st.Conns, st.Memory, st.Closes)
	}
	if err := bufioAll(c, n*len(one), one); err != nil {
		t.Error(err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

// die has a connection's kernel throw away all that comes for it, and say nothing.
func die(t testing.TB, c net.Conn) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	drop := syscall.SockFilter{Code: syscall.BPF_RET | syscall.BPF_K}
	raw.Control(func(fd uintptr) {
		//lint:ignore SA1019 what takes its place is a module of its own
		err = syscall.AttachLsf(int(fd), []syscall.SockFilter{drop})
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A peer that has died without a FIN or RST is detected within UserTimeout and a second, whether its
// window is open, is full, or was full long before.
func TestDeathIsSeen(t *testing.T) {
	t.Parallel()
	const limit = 2 * time.Second
	for _, kind := range []string{"a little unacknowledged", "window full", "window full for long"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			closed := make(chan Reason, 1)
			srv := serve(t, Config{Socket: Socket{UserTimeout: limit}, Timeouts: Timeouts{Linger: 100 * time.Millisecond}}, &funcs{
				read:  echo,
				close: func(_ *Session, why Reason) { closed <- why },
			})
			c := dial(t, srv)
			c.send(1, 1, "x")
			c.expect(1, 1, "x")
			var s *Session
			srv.Sessions(func(x *Session) bool { s = x; return false })
			var died time.Time
			if kind == "a little unacknowledged" {
				time.Sleep(100 * time.Millisecond)
				died = time.Now()
				die(t, c.Conn)
				if err := s.Send(1, 1, []byte("into the void")); err != nil {
					t.Fatal(err)
				}
			} else {
				for s.Send(1, 1, make([]byte, 60_000)) == nil {
				}
				if kind == "window full for long" {
					time.Sleep(3 * limit)
				} else {
					time.Sleep(100 * time.Millisecond)
				}
				died = time.Now()
				die(t, c.Conn)
			}
			select {
			case why := <-closed:
				took := time.Since(died)
				t.Logf("seen after %v", took)
				if why != ReasonPeerReset {
					t.Errorf("got %v", why)
				}
				// The last answer came before the death, up to a probe's interval, which grows.
				if took > limit+10*time.Second || took < limit/8 { // a busy machine takes some
					t.Errorf("seen after %v, want %v", took, limit)
				}
			case <-time.After(time.Minute):
				t.Error("not seen")
			}
		})
	}
}

// The same over a link that is taken down, in network namespaces of the test's own.
func TestDeadLinkIsSeen(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to make a network")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		proctest.Missing(t, err)
	}
	t.Parallel()
	const limit = 2 * time.Second
	done := make(chan error, 1)
	go func() { // its thread, which has another network, ends with it
		defer close(done)
		runtime.LockOSThread()
		if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		const later = 3 * time.Second // the link is down by then
		srv := spawn(t, childConfig{Config: Config{Addrs: []string{"tcp://0.0.0.0:7000"}, Socket: Socket{UserTimeout: limit}}, Net: syscall.Gettid(), Sleep: later})
		srv.addr = "10.9.8.2:7000"
		ip("addr add 10.9.8.1/30 dev va")
		ip("link set va up")
		for _, sub := range []uint16{4, 3} { // an answer while the link is down; a window that is full
			c := srv.dial()
			c.send(1, 1, "x")
			c.expect(1, 1, "x")
			before := srv.stats().Closes[ReasonPeerReset]
			down := time.Now().Add(later) // the answer goes out then
			c.send(1, sub, "")
			time.Sleep(250 * time.Millisecond)
			ip("link set va down")
			if sub != 4 {
				down = time.Now()
			}
			for srv.stats().Closes[ReasonPeerReset] == before && time.Since(down) < time.Minute {
				time.Sleep(10 * time.Millisecond)
			}
			took := time.Since(down)
			t.Logf("1/%d: seen after %v", sub, took)
			if took > limit+10*time.Second || took < limit/8 {
				t.Errorf("1/%d: seen after %v, want %v", sub, took, limit)
			}
			ip("link set va up")
			c.Close()
		}
	}()
	if err := <-done; err != nil {
		t.Skip("no network of its own:", err)
	}
}

// BenchmarkAcks is what one look at a session costs.
func BenchmarkAcks(b *testing.B) {
	srv := serve(b, Config{}, &funcs{})
	dial(b, srv)
	var s *Session
	waitFor(b, "the session", func() bool {
		srv.Sessions(func(x *Session) bool { s = x; return false })
		return s != nil
	})
	b.ReportAllocs()
	for b.Loop() {
		s.conn.Acks()
	}
}
