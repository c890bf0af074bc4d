package gnetio

import (
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/panjf2000/gnet/v2"
	"golang.org/x/sys/unix"

	"millrace/engine/internal/netio"
)

// conn is one connection: a descriptor that the loop's reader or gnet reads from, unless it is
// detached, and that the Host writes to. Loop goroutine only, but for what netio.Conn says.
// There are many, so it is kept to 80 bytes.
type conn struct {
	*local           // shared by all connections of the loop with this local address
	c      gnet.Conn // nil once gnet has let the descriptor go
	sink   netio.Sink
	remote net.Addr
	mu     sync.Mutex // held while fd changes and while RawConn.Control uses it
	fd     int32      // -1: closed
	place  int32      // index in loop.conns; it does not change

	watched bool // fd is in the watcher's epoll set
	within  bool // inside a call of the Host or Sink: Close is put off until it returns
	doomed  bool // Close was called within: close when that call returns
	ending  bool // Sink.Closed has been called, or is running
	paused  bool
	read    bool // the loop's reader reads it, not gnet
	ended   bool // closed by this package: how says why, gnet's error does not
	how     netio.End
}

// local is a local address of connections on l.
type local struct {
	l    *loop
	addr net.Addr
}

var (
	_ netio.Conn   = (*conn)(nil)
	_ netio.Joiner = (*conn)(nil)
)

// newConn adds a connection of gnet's to the loop. Loop goroutine.
func (l *loop) newConn(g gnet.Conn) *conn {
	fd := g.Fd()
	c := &conn{local: l.localAddr(g, fd), c: g, fd: int32(fd), remote: ownAddr(g.RemoteAddr())}
	l.keep(c)
	g.SetContext(c)
	if d := l.n.cfg.UserTimeout; d > 0 {
		// The longest time between retransmissions or window probes. Without it, on unix
		// sockets, which need none, and before Linux 6.15, probes come up to 2 min apart
		// once a window has been closed for long, and a death is seen as much later.
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_RTO_MAX_MS, int(min(max(d/3, time.Second), 2*time.Minute).Milliseconds()))
	}
	return c
}

func (c *conn) Write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		m, err := send(int(c.fd), p[n:])
		n += m
		switch err {
		case 0, unix.EINTR:
		case unix.EAGAIN:
			return n, nil
		default:
			return n, err
		}
	}
	return n, nil
}

func (c *conn) WriteJoined(head, body []byte) (int, error) {
	n, err := sendJoined(int(c.fd), head, body)
	switch {
	case err == unix.EINTR:
		return c.WriteJoined(head, body)
	case err == unix.EAGAIN:
		return 0, nil
	case err != 0:
		return 0, err
	case n < len(head):
		return n, nil
	}
	m, rest := c.Write(body[n-len(head):])
	return n + m, rest
}

func (c *conn) NotifyWritable(id uint64) error {
	c.watched = true
	return c.l.n.watcher.watch(int(c.fd), id)
}

func (c *conn) unwatch() {
	if c.watched {
		c.watched = false
		c.l.n.watcher.forget(int(c.fd))
	}
}

func (c *conn) PauseReading(pause bool) bool {
	if c.c == nil {
		return true // nothing is read any more
	}
	if c.read {
		if c.l.reader.Load().mask(c, pause) != nil {
			return false
		}
	} else if !c.l.mask(int(c.fd), pause) {
		return false
	}
	c.paused = pause
	if si := c.l.standIn.Load(); si != nil {
		si.mask(c)
	}
	return true
}

func (c *conn) ReadRest(take func([]byte)) bool { return readRest(int(c.fd), take) }
func (c *conn) Unread() int                     { return queued(int(c.fd), unix.TIOCINQ) }

// Unacked counts the FIN as a byte; on a unix socket it is in bytes of the kernel's
// memory, and 0 exactly when all is read.
func (c *conn) Unacked() int     { return queued(int(c.fd), unix.TIOCOUTQ) }
func (c *conn) Acks() netio.Acks { return acks(int(c.fd)) }

func (c *conn) CloseWrite() { _ = unix.Shutdown(int(c.fd), unix.SHUT_WR) }

func (c *conn) Abort() {
	_ = unix.SetsockoptLinger(int(c.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// Detach takes a duplicate: gnet closes its own descriptor in any case.
func (c *conn) Detach() bool {
	if c.c == nil || !c.ending {
		return false
	}
	fd, err := unix.FcntlInt(uintptr(c.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return false
	}
	c.unwatch()
	c.c = nil
	c.setFD(fd)
	return true
}

func (c *conn) setFD(fd int) {
	c.mu.Lock()
	c.fd = int32(fd)
	c.mu.Unlock()
}

func (c *conn) Close() {
	switch {
	case c.fd < 0:
	case c.c == nil: // detached
		c.unwatch()
		fd := c.fd
		c.setFD(-1)
		_ = unix.Close(int(fd))
	case c.ending: // gnet is closing it
	case c.within:
		c.doomed = true
	default:
		c.end(netio.EndReset)
	}
}

// end makes gnet close the connection, which calls closed before it returns.
func (c *conn) end(how netio.End) {
	c.ended, c.how = true, how
	_ = c.c.EventLoop().Close(c.c)
}

// closed is called by gnet, or by bury, before the descriptor is closed.
func (c *conn) closed(how netio.End) {
	if c.ended {
		how = c.how
	}
	l := c.l
	if c.read {
		l.reader.Load().forget(c)
	}
	l.forget(c)
	if si := l.standIn.Load(); si != nil {
		si.forget(int(c.fd))
	}
	c.ending = true
	if c.sink != nil {
		c.sink.Closed(how)
	}
	if c.c != nil { // not detached
		c.unwatch()
		c.c = nil
		c.setFD(-1)
	}
}

func (c *conn) LocalAddr() net.Addr  { return c.addr }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

func (c *conn) SyscallConn() (syscall.RawConn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fd < 0 {
		return nil, net.ErrClosed
	}
	return rawConn{c}, nil
}

// rawConn gives access to a descriptor, for socket options only: the loop reads and writes.
type rawConn struct{ c *conn }

// Control runs f with the descriptor. The loop can't close it before f returns, so f must not
// wait for the loop or close the connection. It returns net.ErrClosed if it is closed. Any
// goroutine.
func (r rawConn) Control(f func(fd uintptr)) error {
	r.c.mu.Lock()
	defer r.c.mu.Unlock()
	if r.c.fd < 0 {
		return net.ErrClosed
	}
	f(uintptr(r.c.fd))
	return nil
}

func (rawConn) Read(func(uintptr) bool) error  { return syscall.ENOTSUP }
func (rawConn) Write(func(uintptr) bool) error { return syscall.ENOTSUP }
