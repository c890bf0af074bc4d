package gnetio

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// claim is a listen address that no other process can take: what gnet is told to bind, and what was
// bound.
type claim struct {
	addr  Addr
	gnet  string   // the address given to gnet
	real  net.Addr // for Addrs: with the real port, or the configured path
	bound net.Addr // as getsockname returns it

	at    netip.AddrPort // of TCP; without a valid Addr: all addresses of IPv4 and IPv6
	guard int            // a listening socket that keeps others off the port; -1: none
	plug  int            // a connection to the guard that fills its backlog; -1: none
	path  *unixPath
}

func (c *claim) unix() bool { return c.addr.Unix() }

// letGo closes the guard, when gnet listens on the port or the start has failed.
func (c *claim) letGo() {
	if c.guard >= 0 {
		_ = unix.Close(c.guard)
		c.guard = -1
	}
	if c.plug >= 0 {
		_ = unix.Close(c.plug)
		c.plug = -1
	}
}

// claim reserves every address of the Config. The claims it returns must be let go, also those it
// returns with an error.
func (n *Network) claim(ctx context.Context) ([]*claim, error) {
	var claims []*claim
	var errs []error
	n.names = map[string]net.Addr{}
	for _, s := range n.cfg.Addrs {
		a, err := ParseAddr(s)
		if err != nil {
			return claims, &AddrError{s, err.Error()}
		}
		c := &claim{addr: a, guard: -1, plug: -1}
		if a.Unix() {
			err = c.prepare(ctx, n.names)
		} else {
			c.at, err = resolve(ctx, a)
		}
		if err != nil {
			errs = append(errs, refusal(a, err))
			continue
		}
		claims = append(claims, c)
	}
	if n.cfg.Single {
		if err := overlap(claims); err != nil {
			return claims, err
		}
	}
	errs = append(errs, n.guardAll(ctx, claims))
	return claims, errors.Join(errs...)
}

func refusal(a Addr, err error) error {
	var bad *AddrError
	if errors.As(err, &bad) {
		return err
	}
	return &ListenError{a.String(), err}
}

// resolve returns the IP address and port of an address. For all addresses of both IPv4 and IPv6
// the IP is the invalid netip.Addr.
func resolve(ctx context.Context, a Addr) (netip.AddrPort, error) {
	host, service, err := net.SplitHostPort(a.Host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	p, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil {
		return netip.AddrPort{}, err
	}
	at := func(ip netip.Addr) (netip.AddrPort, error) { return netip.AddrPortFrom(ip, uint16(p)), nil }
	switch {
	case host != "":
	case a.Network == "tcp6":
		return at(netip.IPv6Unspecified())
	case a.Network == "tcp4" || !haveIPv6():
		return at(netip.IPv4Unspecified())
	default:
		return at(netip.Addr{})
	}
	ips := []netip.Addr{}
	if ip, err := netip.ParseAddr(host); err == nil {
		ips = append(ips, ip)
	} else if ips, err = net.DefaultResolver.LookupNetIP(ctx, "ip", host); err != nil {
		return netip.AddrPort{}, err
	}
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	slices.SortStableFunc(ips, func(a, b netip.Addr) int { return a.BitLen() - b.BitLen() }) // IPv4 first
	for _, ip := range ips {
		if a.Network == "tcp" || ip.Is4() == (a.Network == "tcp4") {
			return at(ip)
		}
	}
	return netip.AddrPort{}, &net.AddrError{Err: "no suitable address", Addr: host}
}

func haveIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	_ = unix.Close(fd)
	return true
}

// covers reports whether a listener on a accepts every connection that one on b would.
func covers(a, b netip.AddrPort) bool {
	if a.Port() != b.Port() || a.Port() == 0 {
		return false
	}
	x, y := a.Addr(), b.Addr()
	return !x.IsValid() || x == y || y.IsValid() && x.IsUnspecified() && x.Is4() == y.Is4()
}

// overlap finds two addresses of which one takes what the other would.
func overlap(claims []*claim) error {
	for i, b := range claims {
		for _, a := range claims[:i] {
			if !a.unix() && !b.unix() && (covers(a.at, b.at) || covers(b.at, a.at)) {
				return &AddrError{b.addr.String(), fmt.Sprintf("it overlaps %s: with a single acceptor leave one out, or give it another port", a.addr)}
			}
		}
	}
	return nil
}

// guardAll makes the guards of the TCP addresses. One that another covers needs none.
func (n *Network) guardAll(ctx context.Context, claims []*claim) error {
	var errs []error
	for i, c := range claims {
		if c.unix() {
			continue
		}
		covered := slices.ContainsFunc(claims, func(o *claim) bool { return !o.unix() && o != c && covers(o.at, c.at) && !covers(c.at, o.at) }) ||
			slices.ContainsFunc(claims[:i], func(o *claim) bool { return !o.unix() && o.at == c.at && covers(o.at, c.at) })
		if !covered {
			if err := c.hold(ctx); err != nil {
				errs = append(errs, &ListenError{c.addr.String(), err})
				continue
			}
		}
		ip := c.at.Addr()
		if !ip.IsValid() {
			c.gnet = fmt.Sprintf("tcp://:%d", c.at.Port())
			ip = netip.IPv6Unspecified()
		} else {
			c.gnet = "tcp://" + c.at.String()
		}
		c.real = net.TCPAddrFromAddrPort(netip.AddrPortFrom(ip, c.at.Port()))
		c.bound = c.real
	}
	return errors.Join(errs...)
}

// hold makes the guard, and chooses a port if the address has port 0.
//
// SO_REUSEPORT, with which each loop binds, lets any number of servers of one user share
// a port. So the guard first listens without it, which the kernel allows one socket only, and
// then sets it, so that gnet's listeners can bind too. While the guard listens it drops incoming
// connections, so that a client sends its SYN again and reaches gnet's listener: by a socket
// filter, or, where a filter needs root, by a full backlog.
func (c *claim) hold(ctx context.Context) error {
	for try := 0; ; try++ {
		fd, plug, contended, err := listenAlone(c.at)
		if err == nil {
			c.guard, c.plug = fd, plug
			return c.learnPort()
		}
		if !contended || try >= 50 {
			return err
		}
		// Two sockets bound to the port called listen at the same moment, and both failed.
		select {
		case <-time.After(time.Duration(1+rand.IntN(1+try)) * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// listenAlone listens on an address that nobody else listens on. contended: another process that
// tried the same at the same moment may have failed too.
func listenAlone(at netip.AddrPort) (fd, plug int, contended bool, err error) {
	family, sa, err := sockaddr(at)
	if err != nil {
		return -1, -1, false, err
	}
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1, -1, false, os.NewSyscallError("socket", err)
	}
	plug, contended, err = listenOn(fd, at, family, sa)
	if err != nil {
		_ = unix.Close(fd)
		if plug >= 0 {
			_ = unix.Close(plug)
		}
		return -1, -1, contended, err
	}
	return fd, plug, false, nil
}

func listenOn(fd int, at netip.AddrPort, family int, sa unix.Sockaddr) (plug int, contended bool, err error) {
	v6only := 1
	if !at.Addr().IsValid() {
		v6only = 0
	}
	if family == unix.AF_INET6 {
		err = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, v6only)
	}
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) // beside TIME_WAIT
	}
	if err != nil {
		return -1, false, os.NewSyscallError("setsockopt", err)
	}
	none := []unix.SockFilter{{Code: unix.BPF_RET | unix.BPF_K, K: 0}}
	filtered := unix.SetsockoptSockFprog(fd, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &none[0]}) == nil
	if err = unix.Bind(fd, sa); err != nil {
		return -1, false, os.NewSyscallError("bind", err)
	}
	if err = unix.Listen(fd, 0); err != nil { // one connection fills it
		return -1, errors.Is(err, unix.EADDRINUSE), os.NewSyscallError("listen", err)
	}
	plug = -1
	if !filtered {
		plug = fill(fd, family)
	}
	if err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return plug, false, os.NewSyscallError("setsockopt", err)
	}
	return plug, false, nil
}

// fill connects to a listening socket whose backlog holds one connection, so that the kernel drops
// all others. It returns the connection; -1 if it failed. If a client took the place first, it is
// reset when the guard is closed.
func fill(guard, family int) int {
	to, err := unix.Getsockname(guard) // connect takes an unspecified address for loopback
	if err != nil {
		return -1
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return -1
	}
	if err := unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS {
		_ = unix.Close(fd)
		return -1
	}
	ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	for end := time.Now().Add(100 * time.Millisecond); time.Now().Before(end); {
		if _, err := unix.Poll(ready, 10); err != unix.EINTR && ready[0].Revents != 0 {
			break
		}
	}
	return fd
}

func sockaddr(at netip.AddrPort) (family int, sa unix.Sockaddr, err error) {
	ip := at.Addr()
	if ip.Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: ip.As4(), Port: int(at.Port())}, nil
	}
	in6 := &unix.SockaddrInet6{Port: int(at.Port())}
	if ip.IsValid() {
		in6.Addr = ip.As16()
	}
	if zone := ip.Zone(); zone != "" {
		ifi, err := net.InterfaceByName(zone)
		if err != nil {
			return 0, nil, err
		}
		in6.ZoneId = uint32(ifi.Index)
	}
	return unix.AF_INET6, in6, nil
}

// learnPort stores the guard's port in at.
func (c *claim) learnPort() error {
	sa, err := unix.Getsockname(c.guard)
	if err != nil {
		return os.NewSyscallError("getsockname", err)
	}
	port := 0
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		port = sa.Port
	case *unix.SockaddrInet6:
		port = sa.Port
	}
	c.at = netip.AddrPortFrom(c.at.Addr(), uint16(port))
	return nil
}
