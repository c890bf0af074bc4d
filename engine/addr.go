package engine

import (
	"errors"
	"net"
	"strings"
)

// addr is one parsed listen address.
type addr struct {
	network string // tcp, tcp4, tcp6 or unix
	host    string // host:port or a path
}

func (a addr) String() string { return a.network + "://" + a.host }
func (a addr) unix() bool     { return a.network == "unix" }

// parseAddr reads scheme://rest. The error says what to write instead.
func parseAddr(s string) (addr, error) {
	network, host, ok := strings.Cut(s, "://")
	if !ok {
		return addr{}, errors.New("write it as tcp://host:port or unix:///path")
	}
	switch network {
	case "tcp", "tcp4", "tcp6":
		h, port, err := net.SplitHostPort(host)
		if err != nil {
			return addr{}, errors.New("needs host:port, such as tcp://127.0.0.1:7000")
		}
		if _, err := net.LookupPort("tcp", port); err != nil || port == "" {
			return addr{}, errors.New("the port must be 0 to 65535")
		}
		if strings.ContainsAny(h, "/") {
			return addr{}, errors.New("a TCP address has no path")
		}
		return addr{network, net.JoinHostPort(h, port)}, nil
	case "unix":
		if host == "" {
			return addr{}, errors.New("needs a path, such as unix:///run/millrace.sock")
		}
		if len(host) > 107 {
			return addr{}, errors.New("a unix socket's path has at most 107 bytes")
		}
		return addr{network, host}, nil
	case "udp", "udp4", "udp6":
		return addr{}, errors.New("UDP has no sessions; only tcp:// and unix:// are served")
	default:
		return addr{}, errors.New("unknown scheme; write tcp://host:port or unix:///path")
	}
}
