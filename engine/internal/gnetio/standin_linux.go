package gnetio

import (
	"context"
	"errors"
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

// standIn does a loop's work while a callback blocks the loop's goroutine. It has an epoll set of
// its own and can't use gnet's: that contains an edge-triggered eventfd, whose event gnet would
// miss if the stand-in consumed it.
type standIn struct {
	l       *loop
	busy    *conn // whose callback blocks; nil: none's
	epfd    int
	mu      sync.Mutex
	wakefd  int         // guarded by mu; an eventfd in epfd; -1: closed
	asked   atomic.Bool // a turn has been asked for
	stop    atomic.Bool
	done    chan struct{} // closed when run returns
	conns   map[int]*conn // by descriptor; run's goroutine only, as is hearing
	hearing []int         // the loop's listeners, while they are in epfd
}

// StandIn implements netio.Loop. It fails if there is a stand-in already, or no descriptor is free.
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
	si.asked.Store(true) // for turns that the loop's goroutine was asked for and has not taken
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

var one = []byte{1, 1, 1, 1, 1, 1, 1, 1} // a valid eventfd value in either byte order; the sum is read often enough

// wake makes run check what it was asked for. Any goroutine.
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
				si.busy.sink.HungUp(ev.Events&unix.EPOLLERR != 0 && isReset(fd))
			case slices.Contains(si.hearing, fd):
				si.accept(fd)
			} // else its connection was closed by an earlier event of this batch
		}
	}
}

// watch adds a descriptor to the set, for input; with none, for hang-up and error only.
func (si *standIn) watch(fd int, none bool) error {
	ev := unix.EpollEvent{Fd: int32(fd)}
	if !none {
		ev.Events = unix.EPOLLIN | unix.EPOLLPRI
	}
	return unix.EpollCtl(si.epfd, unix.EPOLL_CTL_ADD, fd, &ev)
}

// watchBusy adds the busy connection to the set for its peer's FIN or reset only: it is not read
// meanwhile.
func (si *standIn) watchBusy() {
	if c := si.busy; c != nil && c.hands != nobodys && c.sink != nil && !c.ending {
		ev := unix.EpollEvent{Fd: c.fd, Events: unix.EPOLLRDHUP | unix.EPOLLONESHOT}
		_ = unix.EpollCtl(si.epfd, unix.EPOLL_CTL_ADD, int(c.fd), &ev)
	}
}

// add adds a connection to the set, unless it is the busy one or detached.
func (si *standIn) add(c *conn) {
	if c == si.busy || c.hands == nobodys || c.ending || si.conns[int(c.fd)] != nil {
		return
	}
	if si.watch(int(c.fd), c.paused) == nil {
		si.conns[int(c.fd)] = c
	}
}

// mask applies c.paused.
func (si *standIn) mask(c *conn) {
	if si.conns[int(c.fd)] == c {
		_ = arm(si.epfd, int(c.fd), &unix.EpollEvent{Fd: c.fd, Events: c.events()})
	}
}

// forget removes a connection that closes. It must leave the set here: if Detach keeps a duplicate
// of the descriptor, closing the original does not remove it.
func (si *standIn) forget(fd int) {
	if si.conns[fd] != nil {
		delete(si.conns, fd)
		_ = unix.EpollCtl(si.epfd, unix.EPOLL_CTL_DEL, fd, nil)
	}
}

// listen adds the loop's listeners to the set while there is another loop for their connections,
// and removes them when there is none.
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

// other returns a loop without a stand-in, of several the one that was given the fewest connections;
// if there is none, the reserve, unless one goroutine accepts for all loops; else nil.
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

// accept accepts a connection from a listener of the loop and gives it to another loop. If there
// is none any more the connection stays in the backlog, and listen removes the listeners.
//
// Giving it takes a second descriptor for a moment: without one the connection would be accepted only
// to be closed, so one must be free before.
func (si *standIn) accept(fd int) {
	to := si.other()
	if to == nil {
		return
	}
	second, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		si.l.n.acceptFailed(si.l.r)
		return
	}
	nfd, _, err := unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	_ = unix.Close(second)
	switch err {
	case nil:
	case unix.EAGAIN, unix.EINTR, unix.ECONNABORTED, unix.ECONNRESET:
		return
	default:
		si.l.n.acceptFailed(si.l.r)
		return
	}
	c, err := si.l.n.netConn(nfd)
	if err == nil {
		to.given.Add(1)
		_, err = to.enroll(context.Background(), c, si.gaveUp)
	}
	si.gaveUp(err)
}

// gaveUp counts a connection that was accepted and then closed, as somebody else took the descriptor
// that was free.
func (si *standIn) gaveUp(err error) {
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		si.l.n.acceptFailed(si.l.r)
	}
}

// netConn makes a net.Conn of an accepted descriptor, as Enroll needs one, and sets its socket
// options as gnet would. It owns fd, also on an error.
func (n *Network) netConn(fd int) (net.Conn, error) {
	f := os.NewFile(uintptr(fd), "accepted")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	a, ok := c.RemoteAddr().(*net.TCPAddr)
	if !ok { // the peer has reset it already
		_ = c.Close()
		return nil, net.ErrClosed
	}
	a.Zone = strings.Clone(a.Zone) // gnet recycles the zone's bytes
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetNoDelay(!n.cfg.Delay)
		_ = t.SetKeepAliveConfig(net.KeepAliveConfig{Enable: n.cfg.KeepAlive > 0, Idle: n.cfg.KeepAlive,
			Interval: n.cfg.KeepAliveEvery, Count: n.cfg.KeepAliveCount})
	}
	return c, nil
}
