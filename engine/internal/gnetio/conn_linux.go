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

// conn is one connection: a descriptor that the loop reads from, unless it is detached, and the
// Host writes to. Loop goroutine only, but for what netio.Conn says. There are many, so it is kept
// to 64 bytes.
type conn struct {
	*local // shared by the connections of a loop to one address
	sink   netio.Sink
	ip     [16]byte   // the peer's, an IPv4 address in its IPv6 form; not used with local.peer
	mu     sync.Mutex // held while fd changes and while RawConn.Control uses it
	fd     int32      // -1: closed
	place  int32      // index in loop.conns; it does not change
	port   uint16     // the peer's

	hands   hands
	call    call
	ends    uint8 // netio.End plus 1 if end was called: then gnet's error does not say why; shutWrite if CloseWrite was; else 0
	watched bool  // fd is in the watcher's epoll set
	paused  bool
	ending  bool // Sink.Closed has been called, or is running
}

// hands says who has a connection's descriptor, and who reads from it.
type hands uint8

const (
	gnetReads hands = iota // gnet has it and reads
	loopReads              // gnet has it, the loop's reader reads
	own                    // the conn has it, the loop's reader reads
	nobodys                // the conn is detached, and has it, or is closed; nobody reads
)

// call says whether a call of the Host or Sink is running: Close is put off until it returns.
type call uint8

const (
	outside call = iota
	inside
	doomed // Close was called inside: close when that call returns
)

// shutWrite is conn.ends after CloseWrite.
const shutWrite = 255

// local is an address that connections on l came to.
type local struct {
	l    *loop
	addr net.Addr
	peer net.Addr // the address of their peers; nil: each conn has its own
}

var (
	_ netio.Conn   = (*conn)(nil)
	_ netio.Joiner = (*conn)(nil)
)

// newConn adds a connection of gnet's to the loop. Loop goroutine.
func (l *loop) newConn(g gnet.Conn) *conn {
	fd := g.Fd()
	c := &conn{local: l.localAddr(g, fd), fd: int32(fd)}
	c.from(g.RemoteAddr())
	l.keep(c, g)
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
	if c.hands == nobodys || c.ending {
		return true // nothing is read any more
	}
	if c.hands != gnetReads {
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

func (c *conn) CloseWrite() {
	if c.ends == 0 {
		c.ends = shutWrite
	}
	_ = unix.Shutdown(int(c.fd), unix.SHUT_WR)
}

func (c *conn) Abort() {
	_ = unix.SetsockoptLinger(int(c.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// Detach takes a duplicate of a descriptor that is gnet's, which gnet closes in any case.
func (c *conn) Detach() bool {
	if c.hands == nobodys || !c.ending {
		return false
	}
	if c.hands == own {
		c.unwatch()
		c.hands = nobodys
		return true
	}
	fd, err := unix.FcntlInt(uintptr(c.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return false
	}
	c.unwatch()
	c.hands = nobodys
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
	case c.hands == nobodys: // detached
		c.unwatch()
		c.shut()
	case c.ending: // it is being closed
	case c.call != outside:
		c.call = doomed
	default:
		c.end(netio.EndReset)
	}
}

// shut closes the descriptor.
func (c *conn) shut() {
	fd := c.fd
	c.setFD(-1)
	_ = unix.Close(int(fd))
}

// end closes the connection, or makes gnet close it; closed is called before it returns.
func (c *conn) end(how netio.End) {
	if c.hands == own {
		c.closed(how)
		return
	}
	c.ends = uint8(how) + 1
	g := c.l.gnets[c.place]
	_ = g.EventLoop().Close(g)
}

// closed is called when a connection ends, by end, by gnet or by bury. It closes the descriptor
// unless gnet has it: gnet then closes it next.
func (c *conn) closed(how netio.End) {
	if c.ends != 0 && c.ends != shutWrite {
		how = netio.End(c.ends - 1)
	}
	l := c.l
	if c.hands != gnetReads {
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
	switch c.hands {
	case nobodys: // detached
		return
	case own:
		c.unwatch()
		c.shut()
	default:
		c.unwatch()
		c.setFD(-1)
	}
	c.hands = nobodys
}

func (c *conn) LocalAddr() net.Addr { return c.addr }

// from stores the peer's address.
func (c *conn) from(a net.Addr) {
	if t, ok := a.(*net.TCPAddr); ok && t.Zone == "" {
		if ip := t.IP.To16(); ip != nil {
			c.ip, c.port = [16]byte(ip), uint16(t.Port)
			return
		}
	}
	if a == nil {
		a = unnamed
	}
	if c.peer != nil && c.peer.String() == a.String() {
		return
	}
	c.local = &local{c.l, c.addr, ownAddr(a)}
}

// RemoteAddr returns a new copy of the address each time: it is seldom needed.
func (c *conn) RemoteAddr() net.Addr {
	if u, ok := c.peer.(*net.UnixAddr); ok {
		same := *u
		return &same
	} else if c.peer != nil {
		return c.peer
	}
	a := &struct {
		net.TCPAddr
		ip [16]byte
	}{ip: c.ip}
	a.IP, a.Port = a.ip[:], int(c.port)
	if v4 := a.IP.To4(); v4 != nil {
		a.IP = v4
	}
	return &a.TCPAddr
}

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
