package bench

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"golang.org/x/sys/unix"
)

// conn is one client connection of a loop.
type conn struct {
	id      uint32 // unique over all processes of a run
	index   int32
	life    uint32 // grows with each dial of the slot
	fd      int    // -1 while closed
	dialing bool
	greeted bool
	armed   bool // EPOLLOUT is set
	part    []byte
	out     []byte
	outAt   int // bytes of out that are written

	next   uint64 // number of the next request
	want   uint64 // number of the next reply
	got    int    // replies since the last call of after
	cast   uint64 // number of the next broadcast
	sent   runList
	born   int64  // churn: when this life began
	role   driver // mixed: who owns this connection
	member int    // groups: its group
	token  uint64 // locks: what the last lock gave
	refuse int    // mixed: ERRORs still to come for a part that is not served
}

func (l *loop) newConn() *conn {
	c := &conn{fd: -1, id: l.spec.First + uint32(len(l.conns)), index: int32(len(l.byIndex))}
	l.conns = append(l.conns, c)
	l.byIndex = append(l.byIndex, c)
	return c
}

// outstanding requests of c.
func (c *conn) outstanding() int { return int(c.next - c.want) }

// sockaddr resolves tcp://HOST:PORT, HOST:PORT or unix:///path.
func sockaddr(addr string) (unix.Sockaddr, int, error) {
	if path, ok := strings.CutPrefix(addr, "unix://"); ok {
		return &unix.SockaddrUnix{Name: path}, unix.AF_UNIX, nil
	}
	a, err := net.ResolveTCPAddr("tcp", strings.TrimPrefix(addr, "tcp://"))
	if err != nil {
		return nil, 0, fmt.Errorf("bench: address: %w", err)
	}
	if ip := a.IP.To4(); ip != nil {
		return &unix.SockaddrInet4{Port: a.Port, Addr: [4]byte(ip)}, unix.AF_INET, nil
	}
	if ip := a.IP.To16(); ip != nil {
		return &unix.SockaddrInet6{Port: a.Port, Addr: [16]byte(ip)}, unix.AF_INET6, nil
	}
	return nil, 0, fmt.Errorf("bench: address %q has no host", addr)
}

// dialSome starts dials for closed slots, a bounded number at once.
func (l *loop) dialSome() error {
	for len(l.spare) > 0 && l.pending < maxDials && l.phase < draining {
		c := l.spare[len(l.spare)-1]
		l.spare = l.spare[:len(l.spare)-1]
		if err := l.dial(c); err != nil {
			return err
		}
	}
	return nil
}

func (l *loop) dial(c *conn) error {
	fd, err := unix.Socket(l.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bench: socket %d: %w", c.id, err)
	}
	c.fd, c.dialing, c.greeted, c.armed = fd, true, false, true
	c.life++
	c.next, c.want, c.got = 0, 0, 0
	c.part, c.out, c.outAt = c.part[:0], c.out[:0], 0
	l.pending++
	l.setOptions(fd)
	err = unix.Connect(fd, l.addr)
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return l.lose(c, fmt.Errorf("bench: connect: %w", err))
	}
	ev := unix.EpollEvent{Events: unix.EPOLLOUT, Fd: c.index, Pad: int32(c.life)}
	if err := unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("bench: epoll add: %w", err)
	}
	return nil
}

func (l *loop) setOptions(fd int) {
	if l.family == unix.AF_UNIX {
		return
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // without it only slower
	a, ok := l.addr.(*unix.SockaddrInet4)
	if !ok || a.Addr[0] != 127 {
		return
	}
	// A failed bind leaves the kernel's own choice, which lasts for some 28,000 connections.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	_ = unix.Bind(fd, &unix.SockaddrInet4{Addr: randomSource()})
}

// dialed finishes a dial that epoll says is over.
func (l *loop) dialed(c *conn) error {
	code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err != nil {
		return l.lose(c, fmt.Errorf("bench: connect: %w", err))
	}
	c.dialing = false
	l.pending--
	if err := l.interest(c, false); err != nil {
		return err
	}
	l.progress = l.now
	if l.spec.Kind == Idle || l.spec.Kind == Churn {
		c.greeted = true
		return l.drv.open(l, c)
	}
	// One echo shows that the server's side of the connection is up, so that a broadcast finds it.
	c.out = appendFrame(c.out, handleEcho, greeting)
	if err := l.flush(c); err != nil {
		return l.lose(c, err)
	}
	return nil
}

// interest sets whether epoll reports that c is writable; readable it always does.
func (l *loop) interest(c *conn, out bool) error {
	if c.armed == out {
		return nil
	}
	c.armed = out
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.index, Pad: int32(c.life)}
	if out {
		ev.Events |= unix.EPOLLOUT
	}
	if err := unix.EpollCtl(l.ep, unix.EPOLL_CTL_MOD, c.fd, &ev); err != nil {
		return fmt.Errorf("bench: epoll mod: %w", err)
	}
	return nil
}

// flush writes what c has to send. The descriptor never blocks, so the plain system call without
// the scheduler's bookkeeping is right.
func (l *loop) flush(c *conn) error {
	for c.outAt < len(c.out) {
		n, err := rawWrite(c.fd, c.out[c.outAt:])
		if errors.Is(err, unix.EAGAIN) {
			return l.interest(c, true)
		}
		if err != nil {
			return fmt.Errorf("bench: write to connection %d: %w", c.id, err)
		}
		c.outAt += n
	}
	c.out, c.outAt = c.out[:0], 0
	return l.interest(c, false)
}

// send writes unless earlier bytes wait for the socket.
func (l *loop) send(c *conn) error {
	if c.armed || len(c.out) == 0 {
		return nil
	}
	return l.flush(c)
}

// readable takes one read's worth of frames.
func (l *loop) readable(c *conn) error {
	held := copy(l.buf, c.part)
	n, err := rawRead(c.fd, l.buf[held:])
	if errors.Is(err, unix.EAGAIN) {
		return nil
	}
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return l.lose(c, err)
	}
	l.now = l.nanos()
	l.progress = l.now
	rest, err := l.frames(c, l.buf[:held+n])
	if err != nil || c.fd < 0 {
		return err
	}
	c.part = append(c.part[:0], rest...)
	return l.drv.after(l, c)
}

// frames hands over every whole frame in b and returns what is left.
func (l *loop) frames(c *conn, b []byte) ([]byte, error) {
	for len(b) >= frameHeader {
		n := int(binary.BigEndian.Uint32(b))
		if n < keyLen || n > maxFrame(l.spec) {
			return nil, fmt.Errorf("bench: connection %d got a frame of length %d", c.id, n)
		}
		if len(b) < 4+n {
			break
		}
		if err := l.oneFrame(c, binary.BigEndian.Uint32(b[4:]), b[frameHeader:4+n]); err != nil {
			return nil, err
		}
		if c.fd < 0 {
			return nil, nil
		}
		b = b[4+n:]
	}
	return b, nil
}

func (l *loop) oneFrame(c *conn, handle uint32, body []byte) error {
	if handle == handlePing {
		c.out = appendFrame(c.out, handlePong, body)
		return l.send(c)
	}
	if c.greeted {
		l.verified++
		return l.drv.frame(l, c, handle, body)
	}
	if handle == handleBroadcast || handle == handleGoaway {
		return nil // of someone who was here before
	}
	if handle != handleEcho || string(body) != string(greeting) {
		return fmt.Errorf("bench: the first echo of connection %d was answered by %s %q", c.id, handleName(handle), clip(body))
	}
	c.greeted = true
	return l.drv.open(l, c)
}

// hangUp closes c without a word to the driver.
func (l *loop) hangUp(c *conn) {
	if c.fd < 0 {
		return
	}
	_ = unix.Close(c.fd) // leaves epoll's set with it
	if c.dialing {
		l.pending--
	}
	c.fd, c.dialing = -1, false
}

// lose closes c and lets the driver judge.
func (l *loop) lose(c *conn, why error) error {
	l.hangUp(c)
	return l.drv.closed(l, c, why)
}
