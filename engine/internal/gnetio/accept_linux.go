package gnetio

import (
	"bytes"
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
type listening struct{ epfd, fd int }

// acceptFailed is called on the goroutine that accepts. The connection stays in the
// backlog. The listeners are masked until the guard's next look, or the poller might
// report them again at once.
func (n *Network) acceptFailed() {
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
			n.ears.listening = append(n.ears.listening, listening{epfd, fd})
		}
	}
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
