package gnetio

import (
	"context"
	"encoding/binary"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/panjf2000/gnet/v2"
	"golang.org/x/sys/unix"

	"millrace/engine/internal/netio"
)

// reader reads a loop's connections in gnet's place, on the same goroutine. gnet's read(2)
// goes through the file layer and the runtime's bookkeeping for calls that block; and to
// ask a loop of gnet's for a turn takes a write(2) and two allocations each time. Here
// reading is recvfrom(2) without either, and who asks for a turn writes only to a loop
// that sleeps.
//
// It has an epoll set of its own, in which the connections are, and gnet's set as a whole.
// gnet still listens, accepts, and closes. To give the goroutine to the reader, gnet is
// shown a socket pair, the ring: when it has a byte in it, gnet calls OnTraffic, in which
// the reader stays until something happens in gnet's set. Then it rings, so that it is
// called again behind that, and returns.
//
// Where a reader can't be had, gnet reads: it does so too for connections that come before
// the ring does.
type reader struct {
	l      *loop
	epfd   int          // -1: closed
	bell   int          // our end of the ring
	tasks  *int32       // gnet's: not 0 while tasks wait for its loop
	buf    []byte       // what is read
	events []epollEvent // what epoll_wait tells

	asked  atomic.Bool // for a turn
	asleep atomic.Bool // in an epoll_wait that ends only when something happens

	mu     sync.Mutex
	wakefd int // guarded by mu; an eventfd in epfd, edge-triggered; -1: closed

	ring  gnet.Conn       // gnet's end of the ring, while it is there; loop goroutine
	begun <-chan struct{} // closed once gnet has taken the ring or not
}

// epollEvent is epoll_event; data is the descriptor, and in the upper half a connection's place.
type epollEvent = unix.EpollEvent

// maxEvents is how many events one epoll_wait may tell.
const maxEvents = 256

// newReader makes a loop's reader, which begins when gnet has taken the ring; nil: it can't
// be had. Loop goroutine.
func (l *loop) newReader() *reader {
	tasks := tasksOf(l.el)
	if l.epfd < 0 || tasks == nil || l.n.cfg.ReadByGnet {
		return nil
	}
	rd := &reader{l: l, epfd: -1, bell: -1, wakefd: -1, tasks: tasks}
	if err := rd.open(); err != nil {
		rd.release()
		return nil
	}
	return rd
}

func (rd *reader) open() (err error) {
	if rd.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if rd.wakefd, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		return err
	}
	if err := rd.add(rd.wakefd, -1, unix.EPOLLIN|unix.EPOLLET); err != nil {
		return err
	}
	if err := rd.add(rd.l.epfd, -1, unix.EPOLLIN); err != nil {
		return err
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return err
	}
	rd.bell = fds[0]
	theirs := os.NewFile(uintptr(fds[1]), "ring")
	defer theirs.Close()
	conn, err := net.FileConn(theirs)
	if err != nil {
		return err
	}
	if err := rd.rings(); err != nil {
		_ = conn.Close()
		return err
	}
	rd.buf = make([]byte, max(rd.l.n.cfg.ReadBuffer, 1<<10))
	rd.events = make([]epollEvent, maxEvents)
	rd.begun, err = rd.l.enroll(gnet.NewContext(context.Background(), rd), conn)
	return err
}

// rings has gnet call OnTraffic of the ring.
func (rd *reader) rings() error {
	_, err := unix.Write(rd.bell, []byte{0})
	return err
}

func (rd *reader) add(fd, place int, events uint32) error {
	return unix.EpollCtl(rd.epfd, unix.EPOLL_CTL_ADD, fd, &epollEvent{Events: events, Fd: int32(fd), Pad: int32(place)})
}

// begin takes over the connections that came before. Loop goroutine.
func (rd *reader) begin(ring gnet.Conn) {
	rd.ring = ring
	rd.l.reader.Store(rd)
	for _, c := range rd.l.conns {
		if c != nil {
			rd.take(c)
		}
	}
}

// take moves a connection from gnet's set to the reader's. What is turned away stays there.
func (rd *reader) take(c *conn) {
	if _, refused := c.sink.(*refused); refused || c.sink == nil || c.c == nil || c.ending || c.read {
		return
	}
	events := uint32(unix.EPOLLIN | unix.EPOLLPRI)
	if c.paused {
		events = 0
	}
	if rd.add(int(c.fd), int(c.place), events) != nil {
		return // gnet goes on with it
	}
	_ = unix.EpollCtl(rd.l.epfd, unix.EPOLL_CTL_DEL, int(c.fd), nil)
	c.read = true
}

// forget gives a connection that closes back to gnet, whose error would cost more if it
// were not there. In the reader's set a duplicate of the descriptor would keep it.
func (rd *reader) forget(c *conn) {
	c.read = false
	_ = unix.EpollCtl(rd.epfd, unix.EPOLL_CTL_DEL, int(c.fd), nil)
	if !rd.l.buried {
		_ = unix.EpollCtl(rd.l.epfd, unix.EPOLL_CTL_ADD, int(c.fd), &epollEvent{Fd: c.fd})
	}
}

// mask stops or resumes the reading of a connection.
func (rd *reader) mask(c *conn, stop bool) error {
	ev := epollEvent{Fd: c.fd, Pad: c.place}
	if !stop {
		ev.Events = unix.EPOLLIN | unix.EPOLLPRI
	}
	return unix.EpollCtl(rd.epfd, unix.EPOLL_CTL_MOD, int(c.fd), &ev)
}

// ask has run call for a turn. Any goroutine.
func (rd *reader) ask() {
	rd.asked.Store(true)
	if !rd.asleep.Load() || !rd.asleep.CompareAndSwap(true, false) {
		return // it looks at asked before it sleeps
	}
	rd.mu.Lock()
	defer rd.mu.Unlock()
	if rd.wakefd >= 0 {
		_, _ = unix.Write(rd.wakefd, next)
	}
}

// next adds 1 to an eventfd: nobody reads it, so the sum must not come to its end.
var next = binary.NativeEndian.AppendUint64(nil, 1)

// run reads until there is something for gnet to do. Loop goroutine, within OnTraffic of
// the ring.
//
// Of the events that gnet got together with the ring's, some may be to come. That is no
// matter with sockets, whose events are told again. Those of gnet's tasks are told once, so
// while there are tasks it does not wait. It looks once all the same: a loop may be given
// tasks without end.
func (rd *reader) run() {
	for gnets := false; !gnets; {
		gnets = atomic.LoadInt32(rd.tasks) != 0
		events := rd.wait(gnets)
		for i := range events {
			ev := &events[i]
			switch place := int(ev.Pad); {
			case place >= 0:
				if c := rd.l.at(place, ev.Fd); c != nil && c.read {
					rd.l.read(c, ev.Events, rd.buf)
				}
			case int(ev.Fd) == rd.l.epfd:
				gnets = true
			}
		}
		if rd.asked.Load() && rd.asked.Swap(false) {
			rd.l.turner.Turn()
		}
	}
	_ = rd.rings()
}

// wait returns what has happened, and first waits until something has, unless it is only to
// look; nothing, if it was asked for a turn. Between looking and sleeping it lets others
// run: who answers what has just been read may ask, and who has a task for gnet may not have
// woken it yet.
func (rd *reader) wait(only bool) []epollEvent {
	if n := rd.look(); n > 0 || rd.asked.Load() {
		return rd.events[:n]
	}
	runtime.Gosched()
	if only || rd.asked.Load() {
		return nil
	}
	rd.asleep.Store(true)
	if rd.asked.Load() {
		rd.asleep.Store(false)
		return nil
	}
	n, _ := unix.EpollWait(rd.epfd, rd.events, -1)
	rd.asleep.Store(false)
	return rd.events[:max(n, 0)]
}

// look is epoll_wait(2) that does not wait, without the runtime's bookkeeping.
func (rd *reader) look() int {
	n, _, err := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(rd.epfd), uintptr(unsafe.Pointer(&rd.events[0])), uintptr(len(rd.events)), 0, 0, 0)
	if err != 0 {
		return 0
	}
	return int(n)
}

// release closes what is the reader's, once the loop has ended.
func (rd *reader) release() {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	for _, fd := range []*int{&rd.wakefd, &rd.epfd, &rd.bell} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
	if rd.ring != nil { // the loop's goroutine has died inside a callback
		_ = unix.Close(rd.ring.Fd())
		rd.ring = nil
	}
}

// read does what gnet does for a connection with these events. Loop goroutine, or the one
// that stands in.
func (l *loop) read(c *conn, events uint32, buf []byte) {
	if events&(unix.EPOLLIN|unix.EPOLLPRI) == 0 {
		c.end(netio.EndHangup)
		return
	}
	n, err := recv(int(c.fd), buf)
	switch {
	case err == unix.EAGAIN || err == unix.EINTR:
	case err != 0:
		c.end(netio.EndReset)
	case n == 0:
		c.end(netio.EndFIN)
	default:
		c.within = true
		c.sink.Received(buf[:n:n])
		c.within = false
		if c.doomed {
			c.end(netio.EndReset)
		}
	}
}
