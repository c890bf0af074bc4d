package engine

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// bareConn is the client's end of a connection, with no more memory behind it than its
// descriptor. It blocks.
type bareConn int

func (c bareConn) Read(p []byte) (int, error) {
	n, err := syscall.Read(int(c), p)
	for err == syscall.EINTR {
		n, err = syscall.Read(int(c), p)
	}
	if n == 0 && err == nil {
		err = io.EOF
	}
	return max(n, 0), err
}
func (c bareConn) Write(p []byte) (int, error) {
	n, err := syscall.Write(int(c), p)
	for err == syscall.EINTR {
		n, err = syscall.Write(int(c), p)
	}
	return n, err
}
func (c bareConn) Close() error                   { return syscall.Close(int(c)) }
func (bareConn) LocalAddr() net.Addr              { return nil }
func (bareConn) RemoteAddr() net.Addr             { return nil }
func (bareConn) SetDeadline(time.Time) error      { return nil }
func (bareConn) SetReadDeadline(time.Time) error  { return nil }
func (bareConn) SetWriteDeadline(time.Time) error { return nil }

func dialBare(t testing.TB, addr net.Addr) bareConn {
	t.Helper()
	a := addr.(*net.TCPAddr)
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	wait := syscall.Timeval{Sec: 20}
	syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &wait)
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Port: a.Port, Addr: [4]byte(a.IP.To4())}); err != nil {
		t.Fatal(err)
	}
	return bareConn(fd)
}

// heap is what is in use, in bytes, once nothing else is let go of any more.
func heap() int {
	var m runtime.MemStats
	last := 0
	for range 50 {
		runtime.GC()
		runtime.GC() // what the first one has only found
		runtime.ReadMemStats(&m)
		now := int(m.HeapAlloc)
		if last-now < 1<<10 && now-last < 1<<10 {
			return now
		}
		last = now
		<-time.After(10 * time.Millisecond)
	}
	return last
}

// A connection that waits holds little, whatever it came through: behind WebSocket what is
// known of the stream, and nothing of its upgrade.
func TestIdleConnectionsAreSmall(t *testing.T) {
	srv := serve(t, Config{Loops: 1, Dispatch: Inline, Doors: Doors{TLS: serverTLS()}, Addrs: []string{"tcp://127.0.0.1:0", "ws://127.0.0.1:0", "tls://127.0.0.1:0", "wss://127.0.0.1:0"}}, &funcs{read: echo})
	one := frame(1, 1, "hello")
	secure := func(scheme string) bool { return scheme == "tls" || scheme == "wss" }
	open := func(door int, scheme string) bareConn {
		c := dialBare(t, srv.Addrs()[door])
		var in net.Conn = c
		if secure(scheme) {
			in = tls.Client(c, clientTLS)
		}
		ask, answer := one, one
		if strings.HasPrefix(scheme, "ws") {
			if _, err := io.WriteString(in, askUpgrade+"\r\n"); err != nil {
				t.Fatal(err)
			}
			head := []byte(nil)
			for b := make([]byte, 1<<10); !bytes.HasSuffix(head, []byte("\r\n\r\n")); {
				n, err := in.Read(b)
				if head = append(head, b[:n]...); err != nil {
					t.Fatalf("%q, %v", head, err)
				}
			}
			ask, answer = wsFrame(0x82, one), append([]byte{0x82, byte(len(one))}, one...)
		}
		if _, err := in.Write(ask); err != nil {
			t.Fatal(err)
		}
		expect(t, in, answer)
		return c
	}
	cost := map[string]int{}
	for door, scheme := range []string{"tcp", "ws", "tls", "wss"} {
		conns := 300
		if secure(scheme) {
			conns = 30 // handshakes take their time
		}
		for range 4 { // what a loop has once for all
			defer open(door, scheme).Close()
		}
		// What earlier tests have left may go meanwhile: then it is less than a session alone.
		for try := 0; try < 5 && cost[scheme] < int(unsafe.Sizeof(Session{})); try++ {
			fds := make([]bareConn, 0, conns)
			before := heap()
			for range conns {
				fds = append(fds, open(door, scheme))
			}
			cost[scheme] = (heap() - before) / conns
			for _, c := range fds {
				c.Close()
			}
			waitFor(t, "the closes", func() bool { return srv.Stats().Conns <= 4*(door+1) })
		}
	}
	t.Logf("bytes for a connection: %v", cost)
	plain := cost["tcp"]
	for _, c := range []struct {
		scheme string
		most   int
	}{{"tcp", 530}, {"ws", plain + 200}, {"tls", 11 << 10}, {"wss", 11 << 10}} {
		if cost[c.scheme] > c.most {
			t.Errorf("%s: %d bytes, want %d at most", c.scheme, cost[c.scheme], c.most)
		}
	}
}
