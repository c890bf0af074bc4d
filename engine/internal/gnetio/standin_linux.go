package gnetio

import (
	"context"
	"iter"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"millrace/engine/internal/netio"
)

// standIn does a loop's work while the loop's goroutine is held up. It has an epoll set
// of its own: gnet's holds a descriptor whose events are told once only, and one taken
// from it would be lost to gnet.
type standIn struct {
	l       *loop
	busy    *conn
	epfd    int
	mu      sync.Mutex
	wakefd  int // guarded by mu; an eventfd in epfd; -1: closed
	asked   atomic.Bool
	stop    atomic.Bool
	done    chan struct{}
	conns   map[int]*conn // by descriptor
	hearing []int         // the loop's listeners, while they are in epfd
}

func (l *loop) StandIn(busy netio.Conn, conns iter.Seq[netio.Conn]) (giveBack func(), ok bool) {
	si := &standIn{l: l, done: make(chan struct{}), conns: map[int]*conn{}}
	si.busy, _ = busy.(*conn)
	var err error
	if si.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, false
	}
	if si.wakefd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err == nil {
		err = si.watch(si.wakefd, false)
	} else {
		si.wakefd = -1
	}
	if err != nil || !l.standIn.CompareAndSwap(nil, si) {
		si.release()
		return nil, false
	}
	si.asked.Store(true) // what was asked of gnet does not come until giveBack
	go si.run(conns)
	return sync.OnceFunc(si.giveBack), true
}

func (si *standIn) giveBack() {
	si.l.standIn.Store(nil)
	si.stop.Store(true)
	si.wake()
	<-si.done
	si.release()
	si.l.sweepDue.Store(false) // if the stand-in ended before a sweep it was asked for, the next Guard asks again
	_ = si.l.ask()             // a turn that was asked for and not done
}

func (si *standIn) release() {
	_ = unix.Close(si.epfd)
	si.mu.Lock()
	defer si.mu.Unlock()
	if si.wakefd >= 0 {
		_ = unix.Close(si.wakefd)
		si.wakefd = -1
	}
}

var one = []byte{1, 1, 1, 1, 1, 1, 1, 1} // whatever the byte order

// wake has run look at what it was asked for. Any goroutine.
func (si *standIn) wake() {
	si.mu.Lock()
	defer si.mu.Unlock()
	if si.wakefd >= 0 {
		_, _ = unix.Write(si.wakefd, one)
	}
}

// run is the stand-in's goroutine.
func (si *standIn) run(conns iter.Seq[netio.Conn]) {
	defer close(si.done)
	for c := range conns {
		if c, ok := c.(*conn); ok {
			si.add(c)
		}
	}
	for _, x := range si.l.refused {
		si.add(x.c)
	}
	si.watchBusy()
	wakefd := si.wakefd
	buf := make([]byte, max(si.l.n.cfg.ReadBuffer, 1<<10))
	events := make([]unix.EpollEvent, 128)
	for !si.stop.Load() {
		si.listen()
		si.l.sweepRefused()
		if si.asked.Swap(false) {
			si.l.turner.Turn()
		}
		n, _ := unix.EpollWait(si.epfd, events, -1)
		for _, ev := range events[:max(n, 0)] {
			fd := int(ev.Fd)
			switch c := si.conns[fd]; {
			case fd == wakefd:
				var b [8]byte
				_, _ = unix.Read(wakefd, b[:])
			case c != nil:
				si.l.read(c, ev.Events, buf)
			case si.busy != nil && fd == int(si.busy.fd):
				si.busy.sink.HungUp(ev.Events&(unix.EPOLLHUP|unix.EPOLLERR) != 0)
			case slices.Contains(si.hearing, fd):
				si.accept(fd)
			} // else its connection was closed by an earlier event of this batch
		}
	}
}

// watch adds a descriptor to the set, with its end only if none.
func (si *standIn) watch(fd int, none bool) error {
	ev := unix.EpollEvent{Fd: int32(fd)}
	if !none {
		ev.Events = unix.EPOLLIN | unix.EPOLLPRI
	}
	return unix.EpollCtl(si.epfd, unix.EPOLL_CTL_ADD, fd, &ev)
}

// watchBusy has the end of the busy connection heard, which is not read meanwhile.
func (si *standIn) watchBusy() {
	if c := si.busy; c != nil && c.c != nil && c.sink != nil && !c.ending {
		ev := unix.EpollEvent{Fd: c.fd, Events: unix.EPOLLRDHUP | unix.EPOLLONESHOT}
		_ = unix.EpollCtl(si.epfd, unix.EPOLL_CTL_ADD, int(c.fd), &ev)
	}
}

// add takes a connection over, unless it is busy or detached.
func (si *standIn) add(c *conn) {
	if c == si.busy || c.c == nil || c.ending || si.conns[int(c.fd)] != nil {
		return
	}
	if si.watch(int(c.fd), c.paused) == nil {
		si.conns[int(c.fd)] = c
	}
}

// mask follows PauseReading.
func (si *standIn) mask(c *conn) {
	if si.conns[int(c.fd)] == c {
		_ = setEvents(si.epfd, int(c.fd), c.paused)
	}
}

// forget drops a connection that closes. The set would keep the socket of one that is
// detached.
func (si *standIn) forget(fd int) {
	if si.conns[fd] != nil {
		delete(si.conns, fd)
		_ = unix.EpollCtl(si.epfd, unix.EPOLL_CTL_DEL, fd, nil)
	}
}

// listen hears the loop's own listeners while there is a loop to give connections to.
func (si *standIn) listen() {
	fds, deaf := si.l.n.listeners(si.l.epfd)
	hear := !deaf && len(fds) > 0 && si.other() != nil
	if hear == (len(si.hearing) > 0) {
		return
	}
	si.hearing = nil
	if hear {
		si.hearing = fds
	}
	for _, fd := range fds {
		if hear {
			_ = si.watch(fd, false)
		} else {
			_ = unix.EpollCtl(si.epfd, unix.EPOLL_CTL_DEL, fd, nil)
		}
	}
}

// other is a loop that nobody stands in for, the one that was given the fewest, or else the
// reserve; nil when there is none.
func (si *standIn) other() (best *loop) {
	si.l.r.eachLoop(func(l *loop) {
		if l != si.l && l.standIn.Load() == nil && (best == nil || l.given.Load() < best.given.Load()) {
			best = l
		}
	})
	if best == nil && !si.l.r.single {
		return si.l.n.reserved()
	}
	return best
}

// accept takes a connection from a listener of the loop and gives it to another. If there
// is none any more the connection stays in the backlog, and listen hears no further one.
func (si *standIn) accept(fd int) {
	to := si.other()
	if to == nil {
		return
	}
	nfd, _, err := unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	switch err {
	case nil:
	case unix.EAGAIN, unix.EINTR, unix.ECONNABORTED, unix.ECONNRESET:
		return
	default:
		si.l.n.acceptFailed(si.l.r)
		return
	}
	c, err := si.l.n.netConn(nfd)
	if err != nil {
		return
	}
	to.given.Add(1)
	_, _ = to.enroll(context.Background(), c)
}

// netConn makes an accepted descriptor a net.Conn, as Enroll wants it, with the options
// that it had from its listener. It takes fd over.
func (n *Network) netConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "accepted")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok { // it has gone already
		_ = c.Close()
		return nil, net.ErrClosed
	}
	a.Zone = strings.Clone(a.Zone) // gnet takes its memory
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetNoDelay(!n.cfg.Delay)
		_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: n.cfg.KeepAlive > 0, Idle: n.cfg.KeepAlive,
			Interval: n.cfg.KeepAliveEvery, Count: n.cfg.KeepAliveCount})
	}
	return c, nil
}
