package engine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/panjf2000/gnet/v2"
	"golang.org/x/sys/unix"
)

// platform is what the engine needs of Linux beside gnet.
type platform struct {
	watcher  watcher
	pausable atomic.Bool // reading can be paused: gnet's epoll set was found and obeys

	mu        sync.Mutex
	deaf      bool      // guarded by mu; the listeners are masked for want of files
	warned    time.Time // guarded by mu; when that was logged
	listening []listening
}

// listening is one listening descriptor in an epoll set.
type listening struct{ epfd, fd int }

func (p *platform) start(srv *Server) error {
	p.pausable.Store(!srv.cfg.EdgeTriggered)
	return p.watcher.start(srv)
}

func (p *platform) stop() { p.watcher.stop() }

// sys is what Linux gives a gnet loop: its epoll set.
type sys struct {
	epfd int // -1: not found
	srv  *Server
}

// discover finds the epoll set of the loop that c is on, and its listeners.
func (y *sys) discover(r *reactor, c gnet.Conn) {
	y.srv = r.srv
	y.epfd = -1
	fd := c.Fd()
	eachEpoll(func(epfd int, members []int) bool {
		if !slices.Contains(members, fd) {
			return true
		}
		r.srv.plat.listen(epfd, members, nil)
		y.epfd = epfd
		return false
	})
	if y.epfd < 0 || r.srv.cfg.EdgeTriggered || !y.mask(fd, true) || !y.mask(fd, false) {
		r.srv.plat.pausable.Store(false)
	}
}

// mask stops or resumes reading of one descriptor in gnet's epoll set. It leans on how
// gnet v2.10 registers connections (level-triggered, the event's data is the
// descriptor), which the probes at start check.
func (y *sys) mask(fd int, stop bool) bool {
	if y.epfd < 0 || !y.srv.plat.pausable.Load() {
		return false
	}
	return setEvents(y.epfd, fd, stop) == nil
}

// idle tells whether nothing is ready in the loop's epoll set, where gnet's own wake-ups
// arrive too. It takes no event away: the set itself is polled.
func (y *sys) idle() bool {
	if y.epfd < 0 {
		return false
	}
	set := [1]unix.PollFd{{Fd: int32(y.epfd), Events: unix.POLLIN}}
	n, err := unix.Poll(set[:], 0)
	return n == 0 && err == nil
}

func setEvents(epfd, fd int, none bool) error {
	ev := unix.EpollEvent{Fd: int32(fd)}
	if !none {
		ev.Events = unix.EPOLLIN | unix.EPOLLPRI
	}
	return unix.EpollCtl(epfd, unix.EPOLL_CTL_MOD, fd, &ev)
}

// eachEpoll calls fn for the epoll sets that /proc knows of, until it returns false.
func eachEpoll(fn func(epfd int, members []int) bool) {
	dir, err := os.ReadDir("/proc/self/fdinfo")
	if err != nil {
		return
	}
	for _, e := range dir {
		b, err := os.ReadFile("/proc/self/fdinfo/" + e.Name())
		if err != nil || !bytes.Contains(b, []byte("tfd:")) {
			continue
		}
		if n, _ := strconv.Atoi(e.Name()); !fn(n, epollMembers(b)) {
			return
		}
	}
}

func epollMembers(fdinfo []byte) (fds []int) {
	lines := bufio.NewScanner(bytes.NewReader(fdinfo))
	for lines.Scan() {
		f := bytes.Fields(lines.Bytes())
		if len(f) >= 2 && string(f[0]) == "tfd:" {
			if n, err := strconv.Atoi(string(f[1])); err == nil {
				fds = append(fds, n)
			}
		}
	}
	return fds
}

// watcher tells sessions when the kernel takes bytes again: an epoll set of the
// engine's own, whose goroutine sleeps in Go's netpoller. Each descriptor is armed once
// for each time it blocks.
type watcher struct {
	srv  *Server
	epfd int
	file *os.File
	done chan struct{}
}

func (w *watcher) start(srv *Server) error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return fmt.Errorf("engine: epoll_create1: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return fmt.Errorf("engine: watcher: %w", err)
	}
	w.srv, w.epfd, w.done = srv, fd, make(chan struct{})
	w.file = os.NewFile(uintptr(fd), "watcher")
	raw, err := w.file.SyscallConn()
	if err != nil {
		_ = w.file.Close()
		return fmt.Errorf("engine: watcher: %w", err)
	}
	go func() {
		defer close(w.done)
		events := make([]unix.EpollEvent, 256)
		for {
			n := 0
			err := raw.Read(func(fd uintptr) bool {
				n, _ = unix.EpollWait(int(fd), events, 0)
				return n > 0
			})
			if err != nil {
				return // closed
			}
			for _, ev := range events[:n] {
				if s := srv.table.lookup(makeID(uint32(ev.Fd), uint32(ev.Pad))); s != nil {
					s.canWrite()
				}
			}
		}
	}()
	return nil
}

func (w *watcher) stop() {
	if w.file != nil {
		_ = w.file.Close()
		<-w.done
	}
}

// watch arms fd for one event. The event carries the session's ID, not the descriptor:
// one that comes late finds nothing.
func (w *watcher) watch(fd int, id ID) error {
	ev := unix.EpollEvent{Events: unix.EPOLLOUT | unix.EPOLLONESHOT, Fd: int32(id.Index()), Pad: int32(id.Round())}
	err := unix.EpollCtl(w.epfd, unix.EPOLL_CTL_MOD, fd, &ev)
	if err == unix.ENOENT {
		err = unix.EpollCtl(w.epfd, unix.EPOLL_CTL_ADD, fd, &ev)
	}
	return err
}

func (w *watcher) forget(fd int) { _ = unix.EpollCtl(w.epfd, unix.EPOLL_CTL_DEL, fd, nil) }

// probe checks on a socket pair of its own that a loop's epoll set was found and that
// masking holds a connection's bytes back.
type probe struct {
	l      *loop
	c      gnet.Conn
	peer   net.Conn
	masked bool
	opened chan struct{}
	heard  chan struct{}
}

func (p *probe) open(l *loop, c gnet.Conn) {
	p.l, p.c = l, c
	p.masked = l.exec.(*gloop).mask(c.Fd(), true)
	close(p.opened)
}

func (p *probe) hear() gnet.Action {
	close(p.heard)
	return gnet.Close
}

// probeLoops shows every loop of a reactor a connection, so that it is known before the
// first client comes, and finds out whether reading can be paused.
//
// With one acceptor and round-robin gnet chooses a loop without a lock, so a probe would
// race with the first clients: there each loop is made known by its first connection.
func (r *reactor) probeLoops() error {
	if r.single && r.srv.cfg.Balance == RoundRobin {
		return nil
	}
	var probes []*probe
	defer func() {
		for _, p := range probes {
			_ = p.peer.Close()
		}
	}()
	for range r.srv.cfg.Loops {
		p, err := r.newProbe()
		if err != nil {
			return fmt.Errorf("engine: self-test: %w", err)
		}
		probes = append(probes, p)
	}
	late := time.After(5 * time.Second)
	for _, p := range probes {
		select {
		case <-p.opened:
			_, _ = p.peer.Write([]byte{0})
		case <-late:
			return errors.New("engine: self-test: a loop did not answer within 5 s")
		}
	}
	time.Sleep(5 * time.Millisecond) // a byte that gets through the mask would do so in microseconds
	good := true
	for _, p := range probes {
		good = good && p.check(late)
	}
	if !good {
		r.srv.cfg.Logger.Warn("reading can't be paused here: sessions over their limits will be closed instead", "edge_triggered", r.srv.cfg.EdgeTriggered)
		r.srv.plat.pausable.Store(false)
	}
	return nil
}

func (p *probe) check(late <-chan time.Time) bool {
	good := p.masked
	select {
	case <-p.heard:
		return false
	default:
	}
	if p.masked {
		_ = p.c.EventLoop().Execute(context.Background(), gnet.RunnableFunc(func(context.Context) error {
			p.l.exec.(*gloop).mask(p.c.Fd(), false)
			return nil
		}))
	}
	select {
	case <-p.heard:
		return good
	case <-late:
		return false
	}
}

func (r *reactor) newProbe() (*probe, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "probe"), os.NewFile(uintptr(fds[1]), "probe")
	defer mine.Close()
	defer theirs.Close()
	peer, err := net.FileConn(mine)
	if err != nil {
		return nil, err
	}
	conn, err := net.FileConn(theirs)
	if err != nil {
		_ = peer.Close()
		return nil, err
	}
	p := &probe{peer: peer, opened: make(chan struct{}), heard: make(chan struct{})}
	ctx := gnet.NewContext(gnet.NewNetConnContext(context.Background(), conn), p)
	if _, err := r.eng.Register(ctx); err != nil {
		_ = peer.Close()
		_ = conn.Close()
		return nil, err
	}
	return p, nil
}
