package gnetio

import (
	"bytes"
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/panjf2000/gnet/v2/pkg/socket"
	"golang.org/x/sys/unix"
)

// acceptPause is how long the accepting goroutine waits after an error where its
// listener is not known.
const acceptPause = 20 * time.Millisecond

// ears are the listening descriptors in gnet's epoll sets, so that accepting can stop.
type ears struct {
	mu        sync.Mutex
	deaf      bool      // guarded by mu; the listeners are masked for want of files
	warned    time.Time // guarded by mu; when that was logged
	listening []listening
}

// listening is one listening descriptor in an epoll set.
type listening struct {
	epfd, fd int
	alone    bool // a goroutine of its own accepts from it, for all loops
}

// acceptFailed is called on the goroutine that accepts. The connection stays in the
// backlog. The listeners are masked until the guard's next look, or the poller might
// report them again at once.
func (n *Network) acceptFailed(r *reactor) {
	select {
	case <-n.quit: // and so it should
		select {
		case r.acceptEnd <- struct{}{}:
		default:
		}
		return
	default:
	}
	n.host.AcceptFailed()
	if !n.deafen() {
		time.Sleep(acceptPause)
	}
}

// discoverAcceptor finds the epoll set of an accepting goroutine by the addresses that
// it alone listens on, as getsockname says them.
func (n *Network) discoverAcceptor(addrs []net.Addr) {
	eachEpoll(func(epfd int, members []int) bool {
		n.noteListeners(epfd, members, func(fd int) bool {
			sa, err := unix.Getsockname(fd)
			if err != nil {
				return false
			}
			at := socket.SockaddrToTCPOrUnixAddr(sa)
			return at != nil && slices.ContainsFunc(addrs, func(a net.Addr) bool { return sameAddr(a, at) })
		})
		return true
	})
}

// sameAddr compares addresses that are bound.
func sameAddr(a, b net.Addr) bool {
	x, ok := a.(*net.TCPAddr)
	y, tcp := b.(*net.TCPAddr)
	if ok && tcp {
		return x.Port == y.Port && x.IP.Equal(y.IP)
	}
	return ok == tcp && a.String() == b.String()
}

// noteListeners notes the listeners in an epoll set; ours may be nil for all.
func (n *Network) noteListeners(epfd int, members []int, ours func(fd int) bool) {
	n.ears.mu.Lock()
	defer n.ears.mu.Unlock()
	for _, fd := range members {
		on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if err == nil && on == 1 && (ours == nil || ours(fd)) {
			n.ears.listening = append(n.ears.listening, listening{epfd, fd, ours != nil})
		}
	}
}

// acceptEnding is how long the goroutines that accept may take to notice their end: they run nobody
// else's code, but the machine may stand still.
const acceptEnding = 10 * time.Second

// endAccept ends accepting where a goroutine of its own does it. What it has accepted is with its
// loop when this returns: one that came to a loop that has ended would be closed by nobody.
func (n *Network) endAccept(reactors []*reactor) {
	n.ears.mu.Lock()
	all := slices.Clone(n.ears.listening)
	n.ears.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), acceptEnding)
	defer cancel()
	for _, r := range reactors {
		if !r.single || r.hasEnded() {
			continue
		}
		epfd := -1
		for _, l := range all {
			if l.alone && n.shutListener(l.fd, r.unix) {
				epfd = l.epfd
			}
		}
		if epfd >= 0 {
			r.passBy(ctx, epfd)
		}
	}
}

// passBy waits until the goroutine that accepts has come by, behind everything that it has accepted
// before: its epoll set gets a descriptor from which nothing can be accepted, and acceptFailed tells
// that it was tried.
func (r *reactor) passBy(ctx context.Context, epfd int) {
	for len(r.acceptEnd) > 0 {
		<-r.acceptEnd
	}
	fd, err := unix.Eventfd(1, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return
	}
	defer unix.Close(fd)
	if unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLONESHOT, Fd: int32(fd)}) != nil {
		return
	}
	select {
	case <-r.acceptEnd:
	case <-r.ended:
	case <-ctx.Done():
	}
}

// shutListener shuts a listener of one kind down and closes what waits; false: it is none, or of
// the other kind. The descriptor may be somebody else's by now: what is looked at is a copy, and so
// is what is shut.
func (n *Network) shutListener(fd int, onUnix bool) bool {
	fd, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
	if err != nil || on != 1 {
		return false
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return false
	}
	at := socket.SockaddrToTCPOrUnixAddr(sa)
	if _, is := at.(*net.UnixAddr); is != onUnix || !n.isBound(at) || unix.Shutdown(fd, unix.SHUT_RDWR) != nil {
		return false
	}
	for {
		c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		switch err {
		case nil:
			_ = unix.Close(c)
		case unix.EINTR, unix.ECONNABORTED:
		default:
			return true // there is none, or accepting fails for ever
		}
	}
}

// isBound says whether one of the addresses is bound there.
func (n *Network) isBound(at net.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.claims, func(c *claim) bool { return c.bound != nil && sameAddr(c.bound, at) })
}

// listeners are those in one epoll set, and whether accepting is stopped.
func (n *Network) listeners(epfd int) (fds []int, deaf bool) {
	n.ears.mu.Lock()
	defer n.ears.mu.Unlock()
	for _, l := range n.ears.listening {
		if l.epfd == epfd {
			fds = append(fds, l.fd)
		}
	}
	return fds, n.ears.deaf
}

// Guard stops accepting while hardly a file is left, goes on when there are some again,
// and closes refused connections that have had their time. It is to be called each tick,
// and when files are seen to be short. Any goroutine.
//
// The limit may have been changed meanwhile (prlimit).
func (n *Network) Guard() {
	low := lowestFree() >= OpenFileLimit()-8
	n.ears.mu.Lock()
	if low != n.ears.deaf {
		n.maskEars(low)
	}
	n.ears.mu.Unlock()
	for _, r := range n.running() {
		r.eachLoop((*loop).askSweep)
	}
}

// deafen masks the listeners until the guard's next look; false: they are not known.
func (n *Network) deafen() bool {
	n.ears.mu.Lock()
	defer n.ears.mu.Unlock()
	if len(n.ears.listening) > 0 && !n.ears.deaf {
		n.maskEars(true)
	}
	return len(n.ears.listening) > 0
}

// maskEars stops accepting, or goes on with it. ears.mu is held.
func (n *Network) maskEars(stop bool) {
	n.ears.deaf = stop
	for _, l := range n.ears.listening {
		_ = setEvents(l.epfd, l.fd, stop)
	}
	if time.Since(n.ears.warned) > time.Second {
		n.ears.warned = time.Now()
		n.cfg.Logger.Warn("open files", "accepting", !stop, "limit", OpenFileLimit())
	}
}

// lowestFree is the number that the next descriptor will get; more than any limit when
// there is none.
func lowestFree() int {
	fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		if errors.Is(err, unix.EMFILE) {
			return 1 << 30
		}
		return 0 // descriptor 0 is closed, so 0 is free
	}
	_ = unix.Close(fd)
	return fd
}

// OpenFileLimit is how many descriptors the process may have now.
func OpenFileLimit() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 1024
	}
	return int(min(r.Cur, 1<<30))
}

// Backlog is how many connections the kernel may hold for one listener.
func Backlog() int {
	b, err := os.ReadFile("/proc/sys/net/core/somaxconn")
	if err != nil {
		return 4096
	}
	n, err := strconv.Atoi(string(bytes.TrimSpace(b)))
	if err != nil {
		return 4096
	}
	return n
}
