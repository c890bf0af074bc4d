package gnetio

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"millrace/engine/internal/netio"
)

// Over TCP and unix sockets, whoever accepts: what is sent comes back, and what was not
// taken by the peer yet follows when the peer reads.
func TestEchoes(t *testing.T) {
	path := t.TempDir() + "/s"
	for name, cfg := range map[string]Config{
		"reuseport": {}, "single": {Single: true}, "least": {Single: true, Balance: LeastConnections}, "source": {Single: true, Balance: SourceHash},
		"unix": {Addrs: []string{"unix://" + path}}, "delay": {Delay: true, UserTimeout: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.SocketSendBuffer = 128 << 10
			n := listen(t, cfg, &echoHost{})
			for range 4 {
				c := dial(t, n.Addrs()[0])
				c.says("hello")
				big := strings.Repeat("x", 1<<20)
				go c.send(big) // and reads nothing at first
				time.Sleep(time.Millisecond)
				c.gets(big)
			}
		})
	}
}

// A peer that half-closes gets all that is owed, through a descriptor of the network's
// own, and then an end.
func TestHalfCloseIsAnsweredInFull(t *testing.T) {
	ends := make(chan netio.End, 1)
	h := &echoHost{closed: func(_ *echo, how netio.End) { ends <- how }}
	n := listen(t, Config{SocketSendBuffer: 128 << 10}, h)
	c := dial(t, n.Addrs()[0])
	big := strings.Repeat("y", 4<<20)
	sent := make(chan bool)
	go func() { c.send(big); c.closeWrite(); close(sent) }()
	<-sent
	if how := <-ends; how != netio.EndFIN {
		t.Errorf("ended as %v, want a FIN", how)
	}
	c.gets(big)
	c.getsEOF()
	waitFor(t, "the connection to go", func() bool { return h.count() == 0 })
}

// Each end is told as what it is, paused or not; what a peer sent before it hung up can
// be read, where gnet reads.
func TestEndsAreTold(t *testing.T) {
	for _, tc := range []struct {
		name  string
		pause bool
		how   func(c *client)
		want  netio.End
		rest  string
	}{
		{"fin", false, func(c *client) { c.closeWrite() }, netio.EndFIN, ""},
		{"reset", false, func(c *client) { c.Conn.(*net.TCPConn).SetLinger(0); c.Close() }, netio.EndReset, ""},
		{"unix close while paused and gnet reads", true, func(c *client) { c.send("the rest"); c.Close() }, netio.EndHangup, "the rest"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			type end struct {
				how  netio.End
				rest string
			}
			ends, paused := make(chan end, 1), make(chan bool, 1)
			h := &echoHost{
				received: func(e *echo, b []byte) bool {
					if tc.pause {
						paused <- e.PauseReading(true)
					}
					return false
				},
				closed: func(e *echo, how netio.End) {
					x := end{how: how}
					if how == netio.EndHangup {
						e.ReadRest(func(b []byte) { x.rest += string(b) })
					}
					ends <- x
				},
			}
			cfg := Config{}
			if strings.HasPrefix(tc.name, "unix") {
				cfg.Addrs = []string{"unix://" + t.TempDir() + "/s"}
				cfg.ReadByGnet = strings.HasSuffix(tc.name, "gnet reads")
			}
			c := dial(t, listen(t, cfg, h).Addrs()[0])
			c.says("x")
			if tc.pause && !<-paused {
				t.Fatal("can't be paused")
			}
			tc.how(c)
			got := <-ends
			if tc.want == netio.EndReset && got.how == netio.EndHangup {
				got.how = netio.EndReset // as the poller saw it
			}
			if got != (end{tc.want, tc.rest}) {
				t.Errorf("got %v %q, want %v %q", got.how, got.rest, tc.want, tc.rest)
			}
		})
	}
}

// Nothing is read while reading is paused, and everything afterwards.
func TestPausedReadingHoldsBytesBack(t *testing.T) {
	var got atomic.Int32
	conns := make(chan *echo, 1)
	h := &echoHost{received: func(e *echo, b []byte) bool {
		if got.Add(int32(len(b))) == 1 {
			if !e.PauseReading(true) {
				t.Error("can't be paused")
			}
			conns <- e
		}
		return false
	}}
	n := listen(t, Config{}, h)
	if !n.Pausable() {
		t.Fatal("not pausable")
	}
	c := dial(t, n.Addrs()[0])
	c.says("x")
	e := <-conns
	c.send("held back")
	waitFor(t, "the kernel to have it", func() (has bool) {
		e.l.wait(t, func() { has = e.Unread() == 9 })
		return has
	})
	for range 20 {
		e.l.wait(t, func() {})
	}
	if got.Load() != 1 {
		t.Errorf("%d bytes were read of a paused connection", got.Load()-1)
	}
	e.l.wait(t, func() { e.PauseReading(false) })
	c.gets("held back")
}

// A refused connection gets its goodbye and a FIN, and no reset for what it sends
// meanwhile; it is let go after Linger.
func TestRefusedReadsItsGoodbye(t *testing.T) {
	for _, atOnce := range []bool{false, true} {
		gate := make(chan bool)
		h := &echoHost{}
		h.open = func(*echo) *netio.Refusal {
			<-gate
			return &netio.Refusal{Goodbye: []byte("go away"), AtOnce: atOnce}
		}
		n := listen(t, Config{Loops: 1, MaxRefused: 4}, h)
		var cs []*client
		for range 8 { // more than are kept
			c := dial(t, n.Addrs()[0])
			c.send("already there")
			cs = append(cs, c)
		}
		close(gate)
		for i, c := range cs {
			c.gets("go away")
			c.getsEOF()
			raw, _ := c.Conn.(*net.TCPConn).SyscallConn()
			raw.Control(func(fd uintptr) {
				info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
				if err != nil || info.State != unix.BPF_TCP_CLOSE_WAIT {
					t.Errorf("client %d: TCP state %d, %v, want CLOSE_WAIT", i, info.State, err)
				}
			})
		}
		waitFor(t, "the refused to be let go", func() bool {
			n.Guard()
			left := -1
			h.all()[0].wait(t, func() { l := h.all()[0].n.(*loop); left = len(l.conns) - len(l.free) })
			return left == 0
		})
	}
}

// The address a peer came to, on a listener of every address, and the descriptor while
// it is open.
func TestLocalAddrAndSyscallConn(t *testing.T) {
	conns := make(chan *echo, 8)
	h := &echoHost{received: func(e *echo, _ []byte) bool { conns <- e; return false }}
	n := listen(t, Config{Addrs: []string{"tcp://0.0.0.0:0", "unix://" + t.TempDir() + "/s"}}, h)
	for i, network := range []string{"tcp", "unix"} {
		a := n.Addrs()[i]
		if network == "tcp" {
			a = &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2), Port: a.(*net.TCPAddr).Port}
		}
		c := dial(t, a)
		c.says("x")
		e := <-conns
		if got := e.LocalAddr(); got.String() != a.String() || got.Network() != network {
			t.Errorf("local address %v %v, want %v", got.Network(), got, a)
		}
		if network == "tcp" && e.RemoteAddr().String() != c.LocalAddr().String() {
			t.Errorf("remote address %v, want %v", e.RemoteAddr(), c.LocalAddr())
		}
		raw, err := e.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		size := 0
		if err := raw.Control(func(fd uintptr) { size, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUF) }); err != nil || size <= 0 {
			t.Errorf("SO_SNDBUF %d, %v", size, err)
		}
		if raw.Read(func(uintptr) bool { return true }) == nil {
			t.Error("a RawConn can read, which is the loop's")
		}
		c.Close()
		waitFor(t, "the end", func() bool { return h.count() == 0 })
		waitFor(t, "the descriptor to go", func() bool {
			return errors.Is(raw.Control(func(uintptr) {}), net.ErrClosed)
		})
		if _, err := e.SyscallConn(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("a closed connection: %v", err)
		}
		if got := e.LocalAddr(); got.String() != a.String() {
			t.Errorf("local address %v after the end, want %v", got, a)
		}
	}
}

// What was written and not acknowledged is counted, and nothing else.
func TestUnackedFallsToNothing(t *testing.T) {
	conns := make(chan *echo, 8)
	h := &echoHost{received: func(e *echo, _ []byte) bool { conns <- e; return false }}
	n := listen(t, Config{Addrs: []string{"tcp://127.0.0.1:0", "unix://" + t.TempDir() + "/s"}}, h)
	for _, a := range n.Addrs() {
		c := dial(t, a)
		c.says("x")
		e := <-conns
		unacked := func() (n int) {
			e.l.wait(t, func() { n = e.Unacked() })
			return n
		}
		waitFor(t, "no byte to be out", func() bool { return unacked() == 0 })
		e.l.wait(t, func() { e.send(make([]byte, 8<<20)) })
		if unacked() == 0 {
			t.Errorf("%v: all of 8 MiB that nobody reads is acknowledged", a.Network())
		}
		if _, err := io.CopyN(io.Discard, c, 8<<20); err != nil {
			t.Error(err)
		}
		waitFor(t, "no byte to be out", func() bool { return unacked() == 0 })
	}
}

// Start ends with its context, and leaves nothing behind.
func TestStartHonoursItsContext(t *testing.T) {
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	before := openFiles(t)
	for _, addr := range []string{"tcp://127.0.0.1:0", "unix://" + t.TempDir() + "/s"} {
		n := New(Config{Addrs: []string{addr}, Loops: 1, Logger: quiet}, &echoHost{})
		if err := n.Start(ended); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v, want the context's error", addr, err)
		}
		if err := n.Stop(within(t, 20*time.Second)); err != nil {
			t.Error(err)
		}
		if n.Start(context.Background()) == nil {
			t.Error("started after Stop")
		}
	}
	waitFor(t, "the descriptors to go", func() bool { return openFiles(t) <= before })
}

// A callback that holds its loop up holds Stop up for as long as its context lasts, and
// when it returns everything ends.
func TestStopHangsOnNobody(t *testing.T) {
	in, gate := make(chan bool, 1), make(chan bool)
	h := &echoHost{received: func(*echo, []byte) bool { in <- true; <-gate; return false }}
	n := listen(t, Config{Loops: 1}, h)
	c := dial(t, n.Addrs()[0])
	c.send("x")
	<-in
	for range 2 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		if err := n.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error", err)
		}
		cancel()
	}
	close(gate)
	if err := n.Stop(within(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
	if h.failures.Load() != 0 {
		t.Error("told as a failure")
	}
}

// When gnet ends by itself the Host is told once, and Stop still works.
func TestFailureIsToldOnce(t *testing.T) {
	h := &echoHost{}
	n := listen(t, Config{Addrs: []string{"tcp://127.0.0.1:0", "unix://" + t.TempDir() + "/s"}}, h)
	for _, r := range n.running() {
		r.stop()
	}
	waitFor(t, "the failure", func() bool { return h.failures.Load() > 0 })
	if err := n.Stop(within(t, 20*time.Second)); err != nil {
		t.Error(err)
	}
	if h.failures.Load() != 1 {
		t.Errorf("told %d times", h.failures.Load())
	}
}
