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

// acceptPause is how long the accepting goroutine sleeps after a failed accept where its
// listeners are not known, so that they can't be masked.
const acceptPause = 20 * time.Millisecond

// ears are the listening descriptors in gnet's epoll sets, which are masked to pause accepting.
type ears struct {
	mu        sync.Mutex
	deaf      bool        // guarded by mu; the listeners are masked, as few descriptors are free
	warned    time.Time   // guarded by mu; when a pause was logged last
	said      bool        // guarded by mu; this pause was logged
	listening []listening // guarded by mu; it only grows
}

// listening is one listening descriptor in an epoll set.
type listening struct {
	epfd, fd int
	alone    bool // a goroutine that only accepts does so from it, for all loops
}

// acceptFailed is called by the goroutine whose accept has failed. The connection stays in the
// backlog, so the poller would report the listeners again at once: they are masked until the
// next Guard.
func (n *Network) acceptFailed(r *reactor) {
	select {
	case <-n.quit: // endAccept has shut the listeners down: see passBy
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

// discoverAcceptor finds the epoll sets of goroutines that only accept, by the addresses of
// their listeners as getsockname returns them.
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

// sameAddr compares two bound addresses.
func sameAddr(a, b net.Addr) bool {
	x, ok := a.(*net.TCPAddr)
	y, tcp := b.(*net.TCPAddr)
	if ok && tcp {
		return x.Port == y.Port && x.IP.Equal(y.IP)
	}
	return ok == tcp && a.String() == b.String()
}

// noteListeners adds the listeners among members of an epoll set to ears: those for which ours
// returns true, or all if ours is nil.
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

// acceptEnding is how long Stop waits for the goroutines that accept. They run no callbacks, so
// only a stalled machine makes them take long.
const acceptEnding = 10 * time.Second

// endAccept ends accepting where a goroutine does nothing else. When it returns, that goroutine has
// given every connection that it accepted to a loop: after the loop's end nobody would close it.
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

// passBy waits until the goroutine that accepts has handed over everything it has accepted. It adds
// an eventfd, which is readable, to that goroutine's epoll set: accepting from it fails, and
// acceptFailed then sends on acceptEnd.
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

// shutListener shuts a listener down and closes the connections in its backlog; false if fd is no
// listener of this network, or of the other kind. As fd may have been closed and used again by
// others, a duplicate is checked, and the same duplicate is shut down.
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
			return true // the backlog is empty, or accept fails for good
		}
	}
}

// isBound reports whether at is one of the bound addresses.
func (n *Network) isBound(at net.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.ContainsFunc(n.claims, func(c *claim) bool { return c.bound != nil && sameAddr(c.bound, at) })
}

// listeners returns the listeners in one epoll set, and whether accepting is paused.
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

// Guard pauses accepting while only the last 8 descriptors below the limit are free, resumes it
// when others are,
// and closes refused connections older than Linger. It is to be called each tick, and when
// descriptors are found to be short. Any goroutine.
//
// It reads the limit each time, as prlimit may have changed it.
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

// deafen masks the listeners until the next Guard; false if none are known.
func (n *Network) deafen() bool {
	n.ears.mu.Lock()
	defer n.ears.mu.Unlock()
	if len(n.ears.listening) > 0 && !n.ears.deaf {
		n.maskEars(true)
	}
	return len(n.ears.listening) > 0
}

// maskEars pauses accepting, or resumes it. A pause is logged once a second at most, and its
// end whenever its beginning was. ears.mu is held.
func (n *Network) maskEars(stop bool) {
	e := &n.ears
	e.deaf = stop
	for _, l := range e.listening {
		_ = setEvents(l.epfd, l.fd, stop)
	}
	switch {
	case stop && time.Since(e.warned) > time.Second:
		e.warned, e.said = time.Now(), true
		n.cfg.Logger.Warn("accepting is paused: few file descriptors are left; raise the limit (ulimit -n, LimitNOFILE)", "limit", OpenFileLimit())
	case !stop && e.said:
		e.said = false
		n.cfg.Logger.Warn("accepting goes on: file descriptors are free again", "limit", OpenFileLimit())
	}
}

// lowestFree returns the number of the next descriptor that is opened; more than any limit if
// none is free.
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

// OpenFileLimit returns RLIMIT_NOFILE, how many descriptors the process may have now; 1024 if
// it can't be read.
func OpenFileLimit() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 1024
	}
	return int(min(r.Cur, 1<<30))
}

// Backlog returns net.core.somaxconn, how many connections the kernel may queue for one
// listener; 4096 if it can't be read.
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
