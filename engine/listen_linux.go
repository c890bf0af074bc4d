package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// bind finds out whether an address is free, which SO_REUSEPORT would hide, and turns
// port 0 into a real one.
func (srv *Server) bind(a addr) (*bound, error) {
	if a.unix() {
		return bindUnix(a)
	}
	probe := net.ListenConfig{}
	ln, err := probe.Listen(context.Background(), a.network, a.host)
	if err != nil {
		return nil, fmt.Errorf("engine: listen %s: %w", a, err)
	}
	real := ln.Addr()
	_ = ln.Close()
	b := &bound{addr: a.String(), real: real}
	host, port, _ := net.SplitHostPort(a.host)
	if port != "0" {
		return b, nil
	}
	// Each loop binds by itself, so port 0 would give each a port of its own: bind one
	// port now, not listening, and let them share it.
	free, err := hold(a, host, srv.cfg.Accept != AcceptSingle)
	if err != nil {
		return nil, fmt.Errorf("engine: listen %s: %w", a, err)
	}
	b.real = free.addr
	_, p, _ := net.SplitHostPort(free.addr.String())
	b.addr = addr{a.network, net.JoinHostPort(host, p)}.String()
	b.close = free.close
	if srv.cfg.Accept == AcceptSingle {
		free.close()
		b.close = nil
	}
	return b, nil
}

type held struct {
	addr  net.Addr
	close func()
}

// hold binds a free port with SO_REUSEPORT and does not listen on it.
func hold(a addr, host string, reuse bool) (*held, error) {
	tcp, err := net.ResolveTCPAddr(a.network, net.JoinHostPort(host, "0"))
	if err != nil {
		return nil, err
	}
	family, sa := unix.AF_INET6, unix.Sockaddr(nil)
	if ip4 := tcp.IP.To4(); ip4 != nil || a.network == "tcp4" {
		in4 := &unix.SockaddrInet4{}
		copy(in4.Addr[:], ip4)
		family, sa = unix.AF_INET, in4
	} else {
		in6 := &unix.SockaddrInet6{}
		copy(in6.Addr[:], tcp.IP.To16())
		if tcp.Zone != "" {
			ifi, err := net.InterfaceByName(tcp.Zone)
			if err != nil {
				return nil, err
			}
			in6.ZoneId = uint32(ifi.Index)
		}
		sa = in6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if family == unix.AF_INET6 && a.network == "tcp" && tcp.IP == nil {
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0)
	}
	if reuse {
		err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
	}
	if err == nil {
		err = unix.Bind(fd, sa)
	}
	var got unix.Sockaddr
	if err == nil {
		got, err = unix.Getsockname(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, os.NewSyscallError("bind", err)
	}
	h := &held{close: func() { _ = unix.Close(fd) }}
	switch x := got.(type) {
	case *unix.SockaddrInet4:
		h.addr = &net.TCPAddr{IP: append(net.IP(nil), x.Addr[:]...), Port: x.Port}
	case *unix.SockaddrInet6:
		h.addr = &net.TCPAddr{IP: append(net.IP(nil), x.Addr[:]...), Port: x.Port, Zone: tcp.Zone}
	}
	return h, nil
}

// bindUnix looks before gnet binds, since gnet removes whatever stands at the path.
func bindUnix(a addr) (*bound, error) {
	b := &bound{addr: a.String(), real: &net.UnixAddr{Name: a.host, Net: "unix"}, unix: true}
	st, err := os.Lstat(a.host)
	if errors.Is(err, os.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return nil, fmt.Errorf("engine: listen %s: %w", a, err)
	}
	if st.Mode()&os.ModeSocket == 0 {
		return nil, &ConfigError{"Addrs", a, "the path is taken by something that is not a socket: name another path"}
	}
	c, err := net.DialTimeout("unix", a.host, time.Second)
	if err == nil {
		_ = c.Close()
		return nil, fmt.Errorf("engine: listen %s: %w", a, syscall.EADDRINUSE)
	}
	return b, nil // left behind by a server that has died
}
