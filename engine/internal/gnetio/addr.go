package gnetio

import (
	"errors"
	"net"
	"strings"
)

// Addr is one parsed listen address.
type Addr struct {
	Network string // tcp, tcp4, tcp6 or unix
	Host    string // host:port or a path
}

func (a Addr) String() string { return a.Network + "://" + a.Host }

// Unix reports whether the address is that of a unix socket.
func (a Addr) Unix() bool { return a.Network == "unix" }

// ParseAddr parses scheme://rest. The error says what is wrong and how to write it, without
// repeating s.
func ParseAddr(s string) (Addr, error) {
	network, host, ok := strings.Cut(s, "://")
	if !ok {
		return Addr{}, errors.New("write it as tcp://host:port or unix:///path")
	}
	switch network {
	case "tcp", "tcp4", "tcp6":
		h, port, err := net.SplitHostPort(host)
		if err != nil {
			if strings.Count(host, ":") > 1 {
				return Addr{}, errors.New("write an IPv6 address in brackets, such as tcp://[::1]:7000")
			}
			return Addr{}, errors.New("needs host:port, such as tcp://127.0.0.1:7000")
		}
		if _, err := net.LookupPort("tcp", port); err != nil || port == "" {
			return Addr{}, errors.New("the port must be 0 to 65535")
		}
		if strings.ContainsAny(h, "/") {
			return Addr{}, errors.New("a TCP address has no path")
		}
		return Addr{network, net.JoinHostPort(h, port)}, nil
	case "unix":
		if host == "" {
			return Addr{}, errors.New("needs a path, such as unix:///run/millrace.sock")
		}
		if len(host) > 107 {
			return Addr{}, errors.New("a unix socket's path has at most 107 bytes")
		}
		return Addr{network, host}, nil
	case "udp", "udp4", "udp6":
		return Addr{}, errors.New("UDP has no sessions; only tcp:// and unix:// are served")
	default:
		return Addr{}, errors.New("unknown scheme; write tcp://host:port, tls://, ws://, wss:// or auto://, or unix:///path")
	}
}

// AddrError is an address that can never be listened on, such as a malformed one.
type AddrError struct {
	Addr string
	Why  string // what is wrong, and what to write instead
}

func (e *AddrError) Error() string { return e.Addr + ": " + e.Why }

// ListenError is an address that can't be listened on now: it is in use, this machine does
// not have it, or the process may not use it.
type ListenError struct {
	Addr string
	Err  error // the system's error; syscall.EADDRINUSE if the address is in use
}

func (e *ListenError) Error() string { return "listen " + e.Addr + ": " + e.Err.Error() }
func (e *ListenError) Unwrap() error { return e.Err }
