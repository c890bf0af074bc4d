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

// reader reads a loop's connections instead of gnet, on the same goroutine. gnet calls
// read(2), with the kernel's file layer and the Go runtime's bookkeeping for blocking system
// calls; and asking a gnet loop for a turn costs a write(2) and two allocations each time.
// The reader calls recvfrom(2) without either, and a turn asked for costs a write(2) only if
// the loop sleeps.
//
// Its epoll set contains the connections, and gnet's epoll set as one member. gnet still listens
// and accepts; then own makes it drop the connection. The reader gets the goroutine through a
// socket pair, the ring, that is registered with gnet: when a byte arrives on it, gnet calls
// OnTraffic, and run stays in there until gnet's own set has an event. Then run writes a byte to
// the ring, so that gnet calls it again after that event, and returns.
//
// If a reader can't be made, gnet reads; it also reads the connections that were opened before
// the ring was registered, until begin takes them over.
type reader struct {
	l      *loop
	epfd   int          // -1: closed
	bell   int          // the reader's end of the ring
	tasks  *int32       // gnet's wakeupCall: not 0 while tasks wait for its loop
	buf    []byte       // for recvfrom
	events []epollEvent // for epoll_wait
	waits  waits

	asked  atomic.Bool // a turn has been asked for
	asleep atomic.Bool // run is about to enter, or in, a wait without timeout

	mu     sync.Mutex
	wakefd int // guarded by mu; an eventfd in epfd, edge-triggered; -1: closed

	ring  gnet.Conn       // gnet's end of the ring, while it is open; loop goroutine
	begun <-chan struct{} // closed when gnet has registered the ring, or failed to
}

// epollEvent is epoll_event. Its data is the descriptor, and in Pad the connection's index in
// loop.conns, or -1.
type epollEvent = unix.EpollEvent

// maxEvents is how many events one epoll_wait returns at most.
const maxEvents = 256

// newReader makes a loop's reader, which begins when gnet has registered the ring; nil if that
// is not possible. Loop goroutine.
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
	rd.begun, err = rd.l.enroll(gnet.NewContext(context.Background(), rd), conn, nil)
	return err
}

// rings makes gnet call OnTraffic of the ring, once more.
func (rd *reader) rings() error {
	_, err := unix.Write(rd.bell, []byte{0})
	return err
}

func (rd *reader) add(fd, place int, events uint32) error {
	return unix.EpollCtl(rd.epfd, unix.EPOLL_CTL_ADD, fd, &epollEvent{Events: events, Fd: int32(fd), Pad: int32(place)})
}

// begin starts the reader, which takes over the connections opened before. Loop goroutine.
func (rd *reader) begin(ring gnet.Conn) {
	rd.ring = ring
	rd.l.reader.Store(rd)
	for _, c := range rd.l.conns {
		if c != nil {
			rd.take(c, false) // gnet may have an event of it that it has not handled yet
		}
	}
}

// take makes the reader read a connection, and with mayOwn makes gnet drop it. Refused connections
// stay gnet's. Loop goroutine.
func (rd *reader) take(c *conn, mayOwn bool) {
	if _, refused := c.sink.(*refused); refused || c.sink == nil || c.hands != gnetReads || c.ending {
		return
	}
	if mayOwn && rd.own(c) {
		return
	}
	if rd.add(int(c.fd), int(c.place), c.events()) != nil {
		return // gnet goes on with it
	}
	_ = unix.EpollCtl(rd.l.epfd, unix.EPOLL_CTL_DEL, int(c.fd), nil)
	c.hands = loopReads
}

// own makes gnet drop a connection, on which gnet spends 380 bytes: the conn goes on with a
// duplicate of the descriptor, and gnet closes the original. It returns false, and changes nothing,
// if no descriptor is free for the duplicate or the original is in the watcher's epoll set.
func (rd *reader) own(c *conn) bool {
	if c.watched {
		return false
	}
	fd, err := unix.FcntlInt(uintptr(c.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return false
	}
	if rd.add(fd, int(c.place), c.events()) != nil {
		_ = unix.Close(fd)
		return false
	}
	g := rd.l.gnets[c.place]
	delete(rd.l.gnets, c.place)
	g.SetContext(nil) // so that OnClose does nothing
	c.setFD(fd)
	c.hands = own
	_ = rd.l.el.Close(g)
	return true
}

// mayOwn reports whether gnet may drop the loop's connections: not if it balances by their number.
func (l *loop) mayOwn() bool { return !l.r.single || l.n.cfg.Balance != LeastConnections }

// events returns the events to register for a connection in the reader's epoll set.
func (c *conn) events() uint32 {
	if c.paused {
		return 0
	}
	return unix.EPOLLIN | unix.EPOLLPRI
}

// forget removes a connection that closes from the reader's set: closing the descriptor does not,
// if somebody has a duplicate of it. One that gnet has moves back to gnet's set: gnet removes it from
// there, and if it were not in it, would make an error, which costs more.
func (rd *reader) forget(c *conn) {
	_ = unix.EpollCtl(rd.epfd, unix.EPOLL_CTL_DEL, int(c.fd), nil)
	if c.hands == own {
		return
	}
	if !rd.l.buried {
		_ = unix.EpollCtl(rd.l.epfd, unix.EPOLL_CTL_ADD, int(c.fd), &epollEvent{Fd: c.fd})
	}
}

// mask stops or resumes reading a connection.
func (rd *reader) mask(c *conn, stop bool) error {
	ev := epollEvent{Fd: c.fd, Pad: c.place}
	if !stop {
		ev.Events = unix.EPOLLIN | unix.EPOLLPRI
	}
	return arm(rd.epfd, int(c.fd), &ev)
}

// ask makes run call Turn. Any goroutine.
func (rd *reader) ask() {
	rd.asked.Store(true)
	if !rd.asleep.Load() || !rd.asleep.CompareAndSwap(true, false) {
		return // wait checks asked after it has set asleep
	}
	rd.mu.Lock()
	defer rd.mu.Unlock()
	if rd.wakefd >= 0 {
		_, _ = unix.Write(rd.wakefd, next)
	}
}

// next adds 1 to the eventfd. As nobody reads it, its 64-bit sum must not overflow.
var next = binary.NativeEndian.AppendUint64(nil, 1)

// run reads until gnet has something to do. Loop goroutine, inside OnTraffic of the ring.
//
// gnet's epoll_wait may have returned other events together with the ring's, which gnet has
// yet to handle. Those of sockets are level-triggered and come again. The one of gnet's task
// queue is edge-triggered, so while tasks wait run must not sleep. It polls once even then:
// otherwise a loop that is given tasks all the time would never read.
func (rd *reader) run() {
	for gnets := false; !gnets; {
		gnets = atomic.LoadInt32(rd.tasks) != 0
		events := rd.wait(gnets)
		for i := range events {
			ev := &events[i]
			switch place := int(ev.Pad); {
			case place >= 0:
				if c := rd.l.at(place, ev.Fd); c != nil && c.hands != gnetReads {
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

// wait returns the events that are ready. If there are none it sleeps until there are, unless
// only is set or a turn has been asked for. Before it sleeps it yields the processor once: the
// goroutines that answer what has just been read may then ask for a turn without a wake-up.
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
	n := rd.sleep()
	rd.asleep.Store(false)
	return rd.events[:max(n, 0)]
}

// look is epoll_wait(2) with timeout 0, without the runtime's bookkeeping for blocking calls.
func (rd *reader) look() int {
	n, _, err := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(rd.epfd), uintptr(unsafe.Pointer(&rd.events[0])), uintptr(len(rd.events)), 0, 0, 0)
	if err != 0 {
		return 0
	}
	return int(n)
}

// release closes the reader's descriptors after its loop has ended.
func (rd *reader) release() {
	rd.mu.Lock()
	defer rd.mu.Unlock()
	if rd.waits.set != nil {
		_ = rd.waits.set.Close()
		rd.epfd = -1
	}
	for _, fd := range []*int{&rd.wakefd, &rd.epfd, &rd.bell} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
	if rd.ring != nil { // runtime.Goexit in a callback has ended the loop's goroutine
		_ = unix.Close(rd.ring.Fd())
		rd.ring = nil
	}
}

// read handles a connection's events: it reads once, and calls the Sink or closes. Loop
// goroutine, or its stand-in's.
func (l *loop) read(c *conn, events uint32, buf []byte) {
	switch {
	case events&(unix.EPOLLIN|unix.EPOLLPRI) != 0:
	case events&unix.EPOLLERR != 0 && isReset(int(c.fd)):
		c.end(netio.EndReset)
		return
	case c.paused && c.hands != gnetReads && c.ends != shutWrite:
		l.ignore(c)
		return
	case c.paused:
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
		if c.receive(buf[:n:n]) {
			c.end(netio.EndReset)
		}
	}
}

// ignore removes a paused connection from the epoll sets, until reading resumes. The close of a unix
// peer is a hang-up, and so is the reset behind the FIN of a TCP peer: they are reported also while
// reading is paused, but are behind what the peer has sent, for which there is no room now. (Behind
// CloseWrite there is no more to do.)
func (l *loop) ignore(c *conn) {
	_ = unix.EpollCtl(l.reader.Load().epfd, unix.EPOLL_CTL_DEL, int(c.fd), nil)
	if si := l.standIn.Load(); si != nil {
		_ = unix.EpollCtl(si.epfd, unix.EPOLL_CTL_DEL, int(c.fd), nil)
	}
}

// receive calls Sink.Received, and reports whether the connection must be closed now.
func (c *conn) receive(b []byte) (ends bool) {
	c.call = inside
	c.sink.Received(b)
	ends = c.call == doomed
	c.call = outside
	return ends
}
