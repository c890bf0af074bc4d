package engine

import (
	"syscall"
	"time"
	"unsafe"

	"github.com/panjf2000/gnet/v2"
	"golang.org/x/sys/unix"
)

// sock is a session's connection: a descriptor that gnet reads from and the engine
// writes to. Loop goroutine only.
type sock struct {
	c       gnet.Conn // nil once gnet has let the descriptor go
	s       *Session
	fd      int32
	watched bool // the watcher knows fd
	reading bool // inside traffic: gnet must not lose the connection under its hands
	doomed  bool // close when traffic returns
}

// newSession makes a session and its sock in one piece.
func newSession(l *loop, c gnet.Conn) *Session {
	both := &struct {
		Session
		sock
	}{}
	s := &both.Session
	both.sock = sock{c: c, s: s, fd: int32(c.Fd())}
	s.wire = &both.sock
	if d := l.srv.cfg.UserTimeout; d > 0 {
		// The longest time between retransmissions or window probes. Without it, on unix
		// sockets, which need none, and before Linux 6.15, probes come up to 2 min apart
		// once a window has been closed for long, and a death is seen as much later.
		_ = unix.SetsockoptInt(c.Fd(), unix.IPPROTO_TCP, unix.TCP_RTO_MAX_MS, int(min(max(d/3, time.Second), 2*time.Minute).Milliseconds()))
	}
	return s
}

func (k *sock) traffic(b []byte) gnet.Action {
	k.reading = true
	k.s.loop.traffic(k.s, b)
	k.reading = false
	if k.doomed {
		return gnet.Close
	}
	return gnet.None
}

func (k *sock) write(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		m, err := send(int(k.fd), p[n:])
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

// maxSend is what one send may take: the kernel copies it while the runtime waits.
const maxSend = 256 << 10

// send is send(2) without the runtime's bookkeeping for system calls that block, which
// one on a non-blocking socket doesn't; beside write(2) it also saves the kernel the
// file layer. Together that is a tenth of a short send to a loopback peer. MSG_NOSIGNAL:
// a peer that has gone is an error, not a SIGPIPE.
func send(fd int, p []byte) (int, syscall.Errno) {
	n, _, err := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&p[0])),
		uintptr(min(len(p), maxSend)), unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if err != 0 {
		return 0, err
	}
	return int(n), 0
}

func (k *sock) watch() error {
	k.watched = true
	return k.s.srv.plat.watcher.watch(int(k.fd), k.s.id)
}

func (k *sock) unwatch() {
	if k.watched {
		k.watched = false
		k.s.srv.plat.watcher.forget(int(k.fd))
	}
}

func (k *sock) mask(stop bool) bool {
	if k.c == nil {
		return true // nothing is read any more
	}
	return k.s.loop.exec.(*gloop).mask(int(k.fd), stop)
}

// acks: a living peer with a closed window answers each probe, so it has at most one
// unanswered; and each retransmission, so its last answer is no older than the timeout.
func (k *sock) acks() (owed, missed bool, ago time.Duration) {
	var i unix.TCPInfo
	size := uint32(unsafe.Sizeof(i))
	_, _, err := syscall.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(k.fd), unix.IPPROTO_TCP, unix.TCP_INFO,
		uintptr(unsafe.Pointer(&i)), uintptr(unsafe.Pointer(&size)), 0)
	if err != 0 {
		return false, false, 0 // a unix socket
	}
	ago = time.Duration(i.Last_ack_recv) * time.Millisecond
	late := ago > time.Duration(i.Rto)*time.Microsecond
	return i.Unacked > 0 || i.Notsent_bytes > 0, i.Probes >= 2 || i.Unacked > 0 && i.Retransmits > 0 && late, ago
}

func (k *sock) reset() {
	_ = unix.SetsockoptLinger(int(k.fd), unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

func (k *sock) fin() { _ = unix.Shutdown(int(k.fd), unix.SHUT_WR) }

func (k *sock) unread() int {
	n, err := unix.IoctlGetInt(int(k.fd), unix.TIOCINQ)
	if err != nil {
		return 0
	}
	return n
}

func (k *sock) rest(take func([]byte)) bool {
	b := make([]byte, 64<<10)
	for {
		n, err := unix.Read(int(k.fd), b)
		switch {
		case err == unix.EINTR:
		case err != nil || n < 0:
			return false
		case n == 0:
			return true
		default:
			take(b[:n])
		}
	}
}

func (k *sock) keep() bool {
	if k.c == nil {
		return true
	}
	fd, err := unix.FcntlInt(uintptr(k.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return false
	}
	blocked := k.watched
	k.unwatch()
	k.c, k.fd = nil, int32(fd)
	if blocked {
		_ = k.watch()
	}
	return true
}

func (k *sock) close() {
	switch {
	case k.c == nil:
		if k.fd >= 0 {
			k.unwatch()
			_ = unix.Close(int(k.fd))
			k.fd = -1
		}
	case k.reading:
		k.doomed = true
	default:
		k.unwatch()
		c := k.c
		k.c, k.fd = nil, -1
		_ = c.EventLoop().Close(c)
	}
}

// emptyInput throws away what has already come, up to lingerExcess: closing would
// otherwise be a reset, which may destroy the ERROR.
func emptyInput(fd int) {
	var b [16 << 10]byte
	for n := 0; n < lingerExcess; {
		m, err := unix.Read(fd, b[:])
		if m <= 0 || err != nil {
			return
		}
		n += m
	}
}

// sayGoodbye writes a refused connection's last frame and a FIN.
func sayGoodbye(fd int, frame []byte) {
	_, _ = unix.Write(fd, frame)
	_ = unix.Shutdown(fd, unix.SHUT_WR)
}
