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
	route   *route
	door    *door // nil: plain
	half    bool  // a half-open handshake of the flood workload
	dialing bool
	outside bool // counted in loop.pending: still connecting or in a handshake
	greeted bool
	armed   bool // EPOLLOUT is set
	part    []byte
	out     []byte // frames
	outAt   int    // bytes of out, or of the door's wire, already written

	next   uint64 // number of the next request
	want   uint64 // number of the next reply
	got    int    // replies since the last call of after
	cast   uint64 // number of the next broadcast
	sent   runList
	born   int64  // churn: when this connection was dialed
	role   driver // mixed: who owns this connection
	member int    // groups: its group
	token  uint64 // locks: the token of the last lock
	refuse int    // mixed: ERRORs still expected from a service that the target lacks
}

func (l *loop) newConn() *conn {
	c := &conn{fd: -1, id: l.spec.First + uint32(len(l.conns)), index: int32(len(l.byIndex))}
	c.route = &l.routes[int(c.id-1)%len(l.routes)]
	l.conns = append(l.conns, c)
	l.byIndex = append(l.byIndex, c)
	return c
}

// outstanding returns the number of c's outstanding requests.
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

// dialSome dials closed slots, with a limit on concurrent dials.
func (l *loop) dialSome() error {
	most := maxDials
	if l.tlsConfig != nil {
		most = maxKnocks
	}
	for len(l.spare) > 0 && l.pending < most && l.phase < draining {
		c := l.spare[len(l.spare)-1]
		l.spare = l.spare[:len(l.spare)-1]
		if err := l.dial(c); err != nil {
			return err
		}
	}
	return nil
}

func (l *loop) dial(c *conn) error {
	fd, err := unix.Socket(c.route.family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bench: socket %d: %w", c.id, err)
	}
	c.fd, c.dialing, c.outside, c.greeted, c.armed = fd, true, true, false, true
	c.door = l.newDoor(c.route)
	c.life++
	c.next, c.want, c.got = 0, 0, 0
	c.part, c.out, c.outAt = c.part[:0], c.out[:0], 0
	l.pending++
	c.route.setOptions(fd)
	err = unix.Connect(fd, c.route.addr)
	if err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return l.lose(c, fmt.Errorf("%w: %w", errConnect, err))
	}
	ev := unix.EpollEvent{Events: unix.EPOLLOUT, Fd: c.index, Pad: int32(c.life)}
	if err := unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		return fmt.Errorf("bench: epoll add: %w", err)
	}
	return nil
}

func (r *route) setOptions(fd int) {
	if r.family == unix.AF_UNIX {
		return
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // a failure only makes it slower
	a, ok := r.addr.(*unix.SockaddrInet4)
	if !ok || a.Addr[0] != 127 {
		return
	}
	// If bind fails, the kernel chooses the address, which suffices for some 28,000 connections.
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
	_ = unix.Bind(fd, &unix.SockaddrInet4{Addr: randomSource()})
}

// errConnect is that of a connection that was never made.
var errConnect = errors.New("bench: connect")

// dialed completes a dial when epoll reports the socket.
func (l *loop) dialed(c *conn) error {
	code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	if err != nil {
		return l.lose(c, fmt.Errorf("%w: %w", errConnect, err))
	}
	c.dialing = false
	if err := l.interest(c, false); err != nil {
		return err
	}
	if !c.half {
		l.progress = l.now
	}
	if c.door != nil {
		return l.knock(c)
	}
	return l.entered(c)
}

// entered is called when c's handshakes, if any, are complete.
func (l *loop) entered(c *conn) error {
	l.inside(c)
	if c.half {
		return l.drv.open(l, c)
	}
	if l.spec.Kind == Idle || l.spec.Kind == Churn {
		c.greeted = true
		return l.drv.open(l, c)
	}
	// One echo proves that the server has accepted the connection, so that it gets broadcasts.
	c.out = appendFrame(c.out, handleEcho, greeting)
	if err := l.flush(c); err != nil {
		return l.lose(c, err)
	}
	return nil
}

// inside marks c as no longer connecting.
func (l *loop) inside(c *conn) {
	if c.outside {
		c.outside = false
		l.pending--
	}
}

// interest sets whether epoll reports that c is writable; it always reports readability.
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

// flush writes c's pending bytes. The descriptor never blocks, so a raw system call without
// notifying the scheduler is sufficient.
func (l *loop) flush(c *conn) error {
	wire := &c.out
	if c.door != nil {
		if err := c.door.seal(c.out); err != nil {
			return fmt.Errorf("bench: TLS of connection %d: %w", c.id, err)
		}
		c.out = c.out[:0]
		wire = &c.door.wire
	}
	for c.outAt < len(*wire) {
		n, err := rawWrite(c.fd, (*wire)[c.outAt:])
		if errors.Is(err, unix.EAGAIN) {
			return l.interest(c, true)
		}
		if err != nil {
			return fmt.Errorf("bench: write to connection %d: %w", c.id, err)
		}
		c.outAt += n
	}
	*wire, c.outAt = (*wire)[:0], 0
	return l.interest(c, false)
}

// send writes, unless earlier bytes are waiting for the socket.
func (l *loop) send(c *conn) error {
	if c.armed || len(c.out) == 0 {
		return nil
	}
	return l.flush(c)
}

// readable reads once and processes the frames.
func (l *loop) readable(c *conn) error {
	if c.half {
		return l.overhear(c)
	}
	held := copy(l.buf, c.part)
	into := l.buf[held:]
	kept := 0
	if c.door != nil {
		kept = copy(into, c.door.kept)
		if into = into[kept:]; c.door.tls != nil {
			into = l.records
		}
	}
	n, err := rawRead(c.fd, into)
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
	if c.door != nil {
		b, err := l.pass(c, into[:n], l.buf[held:], kept)
		if err != nil {
			return l.lose(c, err)
		}
		if n = len(b); c.outside || c.fd < 0 {
			return nil
		}
	}
	rest, err := l.frames(c, l.buf[:held+n])
	if err != nil || c.fd < 0 {
		return err
	}
	c.part = append(c.part[:0], rest...)
	if err := l.drv.after(l, c); err != nil || c.door == nil || c.fd < 0 {
		return err
	}
	return l.afterDoor(c)
}

// overhear discards what a half-open handshake receives.
func (l *loop) overhear(c *conn) error {
	n, err := rawRead(c.fd, l.buf)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil && !errors.Is(err, unix.EAGAIN) {
		return l.lose(c, err)
	}
	return nil
}

// frames processes every complete frame in b and returns the rest.
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
		return nil // for an earlier connection
	}
	if handle != handleEcho || string(body) != string(greeting) {
		return fmt.Errorf("bench: the first echo of connection %d was answered by %s %q", c.id, handleName(handle), clip(body))
	}
	c.greeted = true
	return l.drv.open(l, c)
}

// hangUp closes c without notifying the driver.
func (l *loop) hangUp(c *conn) {
	if c.fd < 0 {
		return
	}
	_ = unix.Close(c.fd) // leaves epoll's set with it
	if c.door != nil && c.door.tls != nil {
		c.door.tls.end()
	}
	l.inside(c)
	c.fd, c.dialing = -1, false
}

// lose closes c and lets the driver decide whether that is an error.
func (l *loop) lose(c *conn, why error) error {
	l.hangUp(c)
	return l.drv.closed(l, c, why)
}
