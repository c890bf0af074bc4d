package gnetio

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/panjf2000/gnet/v2"
	"golang.org/x/sys/unix"

	"millrace/engine/internal/netio"
)

// loop is one of gnet's loops.
type loop struct {
	r      *reactor
	n      *Network
	el     gnet.EventLoop
	turner netio.Turner
	epfd   int // gnet's epoll set; -1: not found

	// Loop goroutine only.
	conns   []*conn             // by conn.place; nil: the index is free
	free    []int32             // free indexes of conns
	gnets   map[int32]gnet.Conn // by conn.place: the connections that gnet still has
	buried  bool                // gnet has ended, and closed its epoll set
	refused []*refused
	locals  map[netip.AddrPort]*local // local addresses of its TCP connections, at most maxLocals
	named   map[string]*local         // those of unix sockets, by path

	refusals atomic.Int32 // len(refused)
	sweepDue atomic.Bool  // sweepRefused has been asked for
	given    atomic.Int32 // connections that stand-ins of other loops gave to this one, ever
	standIn  atomic.Pointer[standIn]
	reader   atomic.Pointer[reader] // nil: gnet reads
	made     *reader                // the same, also before it has begun; nil: there is none
}

// discover finds the epoll set that g is in, which is the loop's, and the listeners in it.
func (l *loop) discover(g gnet.Conn) {
	fd := g.Fd()
	eachEpoll(func(epfd int, members []int) bool {
		if !slices.Contains(members, fd) {
			return true
		}
		l.epfd = epfd
		l.n.noteListeners(epfd, members, nil)
		return false
	})
	if l.epfd < 0 || !l.mask(fd, true) || !l.mask(fd, false) {
		l.n.pausable.Store(false)
	}
}

// mask stops or resumes reading of one descriptor in gnet's epoll set.
func (l *loop) mask(fd int, stop bool) bool {
	return l.epfd >= 0 && l.n.pausable.Load() && setEvents(l.epfd, fd, stop) == nil
}

// Kind is what the loop is.
func (l *loop) Kind() netio.LoopKind {
	switch {
	case l.r.reserve:
		return netio.LoopReserve
	case l.r.single:
		return netio.LoopGiven
	}
	return netio.LoopAccepts
}

func (l *loop) Execute() error {
	if si := l.standIn.Load(); si != nil {
		si.asked.Store(true)
		si.wake()
		if l.standIn.Load() == si {
			return nil // it sees asked, or giveBack asks gnet
		}
	}
	return l.ask()
}

// ask is Execute while nobody stands in.
func (l *loop) ask() error {
	if rd := l.reader.Load(); rd != nil {
		rd.ask()
		return nil
	}
	return l.el.Execute(context.Background(), l)
}

// Run is called by gnet on the loop goroutine.
func (l *loop) Run(context.Context) error {
	l.turner.Turn()
	return nil
}

// Idle tells whether nothing is ready in the loop's epoll set, where gnet's own wake-ups
// arrive too. It takes no event away: the set itself is polled.
func (l *loop) Idle() bool {
	if si := l.standIn.Load(); si != nil {
		return idle(si.epfd)
	}
	if rd := l.reader.Load(); rd != nil {
		return idle(rd.epfd)
	}
	return l.epfd >= 0 && idle(l.epfd)
}

// keep gives a new connection an index in conns; g is gnet's connection.
func (l *loop) keep(c *conn, g gnet.Conn) {
	if last := len(l.free) - 1; last >= 0 {
		c.place = l.free[last]
		l.free = l.free[:last]
		l.conns[c.place] = c
	} else {
		c.place = int32(len(l.conns))
		l.conns = append(l.conns, c)
	}
	l.gnets[c.place] = g
}

// at returns the connection at an index if its descriptor is fd, else nil: an event may come
// after its connection has been closed.
func (l *loop) at(place int, fd int32) *conn {
	if place < len(l.conns) {
		if c := l.conns[place]; c != nil && c.fd == fd {
			return c
		}
	}
	return nil
}

// forget removes a connection that closes.
func (l *loop) forget(c *conn) {
	l.conns[c.place] = nil
	delete(l.gnets, c.place)
	l.free = append(l.free, c.place)
}

// endOwn closes the connections that gnet no longer has, when gnet closes those it has.
func (l *loop) endOwn() {
	for i := 0; i < len(l.conns); i++ {
		if c := l.conns[i]; c != nil && c.hands == own {
			c.end(netio.EndReset)
		}
	}
}

// bury closes the connections that are left when gnet has ended: a loop whose goroutine was
// ended inside a callback, by runtime.Goexit, has closed none.
func (l *loop) bury() {
	l.buried = true
	for i := 0; i < len(l.conns); i++ {
		if c := l.conns[i]; c != nil {
			fd, gnets := c.fd, c.hands != own
			c.closed(netio.EndReset)
			if gnets {
				_ = unix.Close(int(fd))
			}
		}
	}
	if l.made != nil {
		l.made.release()
	}
}

// maxLocals limits loop.locals. Connections to further addresses have a local of their own.
const maxLocals = 64

// localAddr returns the local address of a connection. gnet returns the listener's address,
// which may be unspecified (all addresses): then the kernel is asked.
func (l *loop) localAddr(g gnet.Conn, fd int) *local {
	if a, ok := g.LocalAddr().(*net.TCPAddr); ok && a.Port != 0 && a.Zone == "" && len(a.IP) > 0 && !a.IP.IsUnspecified() {
		at := a.AddrPort()
		return l.tcp(netip.AddrPortFrom(at.Addr().Unmap(), at.Port()))
	}
	sa, err := unix.Getsockname(fd)
	var at netip.AddrPort
	zone := ""
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		at = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		ip := netip.AddrFrom16(sa.Addr)
		if sa.ZoneId != 0 {
			if ifi, err := net.InterfaceByIndex(int(sa.ZoneId)); err == nil {
				zone = ifi.Name
			}
		}
		at = netip.AddrPortFrom(ip.Unmap().WithZone(zone), uint16(sa.Port))
	case *unix.SockaddrUnix:
		if p := l.path(sa.Name); p != nil {
			return p
		}
	}
	if err != nil || !at.IsValid() {
		return &local{l: l, addr: ownAddr(g.LocalAddr())}
	}
	return l.tcp(at)
}

// tcp returns the local shared by the connections to at.
func (l *loop) tcp(at netip.AddrPort) *local {
	if p, ok := l.locals[at]; ok {
		return p
	}
	p := &local{l: l, addr: net.TCPAddrFromAddrPort(at)}
	if l.locals == nil {
		l.locals = map[netip.AddrPort]*local{}
	}
	if len(l.locals) < maxLocals {
		l.locals[at] = p
	}
	return p
}

// unnamed is the peer's address of unix clients that are bound to no path, as most are.
var unnamed = &net.UnixAddr{Name: "@", Net: "unix"}

// path returns the local shared by the connections to a unix socket; nil if no listener has
// that path.
func (l *loop) path(name string) *local {
	if p, ok := l.named[name]; ok {
		return p
	}
	a := l.n.names[name]
	if a == nil {
		return nil
	}
	if l.named == nil {
		l.named = map[string]*local{}
	}
	p := &local{l: l, addr: a, peer: unnamed}
	l.named[name] = p
	return p
}

// ownAddr returns an address that holds no memory of gnet's: gnet uses a zone's bytes again.
func ownAddr(a net.Addr) net.Addr {
	if t, ok := a.(*net.TCPAddr); ok && t.Zone != "" {
		return &net.TCPAddr{IP: t.IP, Port: t.Port, Zone: strings.Clone(t.Zone)}
	}
	return a
}
