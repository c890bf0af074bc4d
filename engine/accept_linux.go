package engine

import (
	"bytes"
	"errors"
	"math"
	"net"
	"os"
	"slices"
	"strconv"
	"time"

	gneterr "github.com/panjf2000/gnet/v2/pkg/errors"
	"github.com/panjf2000/gnet/v2/pkg/socket"
	"golang.org/x/sys/unix"
)

// An error of accept, for want of files or memory, ends all of gnet's loops and with
// them every connection: they look for gnet's ErrAcceptSocket with errors.Is and leave.
// No error is this one, as it is not even equal to itself, so they go on. It is set
// before anything can read it.
var _ = func() bool {
	gneterr.ErrAcceptSocket = survivable(math.NaN())
	return true
}()

type survivable float64

func (survivable) Error() string { return "gnet: accept a new connection error" }

// acceptPause is how long the accepting goroutine waits after an error where its
// listener is not known.
const acceptPause = 20 * time.Millisecond

// acceptFailed is called where gnet logs that accept failed: on the goroutine that
// accepts. The connection stays in the backlog. The listeners are masked until the
// guard's next look, or the poller might report them again at once.
func (r *reactor) acceptFailed() {
	r.srv.acceptErrors.Add(1)
	if !r.srv.plat.deafen(r.srv) {
		time.Sleep(acceptPause)
	}
}

// discoverAcceptor finds the epoll set of an accepting goroutine by the addresses that
// it alone listens on.
func (p *platform) discoverAcceptor(addrs []net.Addr) {
	eachEpoll(func(epfd int, members []int) bool {
		p.listen(epfd, members, func(fd int) bool {
			sa, err := unix.Getsockname(fd)
			if err != nil {
				return false
			}
			at := socket.SockaddrToTCPOrUnixAddr(sa)
			return slices.ContainsFunc(addrs, func(a net.Addr) bool { return at != nil && sameAddr(a, at) })
		})
		return true
	})
}

// sameAddr compares addresses that are bound; 0.0.0.0 and [::] may be one.
func sameAddr(a, b net.Addr) bool {
	x, ok := a.(*net.TCPAddr)
	y, tcp := b.(*net.TCPAddr)
	if ok && tcp {
		return x.Port == y.Port && (x.IP.Equal(y.IP) || x.IP.IsUnspecified() && y.IP.IsUnspecified())
	}
	return ok == tcp && a.String() == b.String()
}

// listen notes the listeners in an epoll set; ours may be nil for all.
func (p *platform) listen(epfd int, members []int, ours func(fd int) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fd := range members {
		on, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ACCEPTCONN)
		if err == nil && on == 1 && (ours == nil || ours(fd)) {
			p.listening = append(p.listening, listening{epfd, fd})
		}
	}
}

// guard stops accepting while hardly a file is left, and goes on when there are some
// again. The limit may have been changed meanwhile (prlimit).
func (p *platform) guard(srv *Server) {
	limit := openFileLimit()
	srv.shedAt(limit)
	low := lowestFree() >= limit-8
	p.mu.Lock()
	defer p.mu.Unlock()
	if low != p.deaf {
		p.mask(srv, low)
	}
}

// deafen masks the listeners until the guard's next look; false: they are not known.
func (p *platform) deafen(srv *Server) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.listening) > 0 && !p.deaf {
		p.mask(srv, true)
	}
	return len(p.listening) > 0
}

// mask stops accepting, or goes on with it. mu is held.
func (p *platform) mask(srv *Server, stop bool) {
	p.deaf = stop
	for _, l := range p.listening {
		_ = setEvents(l.epfd, l.fd, stop)
	}
	if time.Since(p.warned) > time.Second {
		p.warned = time.Now()
		srv.cfg.Logger.Warn("open files", "accepting", !stop, "limit", openFileLimit())
	}
}

// lowestFree is the number that the next descriptor will get; the limit when there is none.
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

func openFileLimit() int {
	var r unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &r); err != nil {
		return 1024
	}
	return int(min(r.Cur, 1<<30))
}

// listenBacklog is how many connections the kernel may hold for one listener.
func listenBacklog() int {
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
