package door

import (
	"errors"
	"net"
	"strings"
)

// Addr is one listen address: what is listened on, and what stands in front of it.
type Addr struct {
	Socket string // for the network below: tcp://host:port or unix:///path
	TLS    bool   // TLS comes first
	WS     bool   // WebSocket comes then
	Auto   bool   // the first bytes decide, for TLS and for what is inside it
	Path   string // of the WebSocket upgrade, such as /

	scheme string
}

// schemes are what this package adds to tcp, tcp4, tcp6 and unix.
var schemes = map[string]Addr{
	"tls": {TLS: true}, "ws": {WS: true}, "wss": {TLS: true, WS: true}, "auto": {Auto: true},
}

// ParseAddr reads scheme://rest. Where the scheme is none of this package's the address is
// plain, and the network below says whether it can be. A scheme with +unix in front of the
// :// is for a unix socket; the path of its WebSocket follows a colon.
func ParseAddr(s string) (Addr, error) {
	scheme, rest, _ := strings.Cut(s, "://")
	base, onUnix := strings.CutSuffix(scheme, "+unix")
	a, ok := schemes[base]
	if !ok {
		if onUnix {
			return Addr{}, errors.New("unknown scheme; write tls+unix, ws+unix, wss+unix or auto+unix before :///path")
		}
		return Addr{Socket: s}, nil
	}
	a.scheme = scheme
	network, path, found := "tcp", "", false
	switch {
	case onUnix:
		network = "unix"
		rest, path, found = strings.Cut(rest, ":")
	default:
		if rest, path, found = strings.Cut(rest, "/"); found {
			path = "/" + path
		}
	}
	a.Socket = network + "://" + rest
	switch {
	case found && a.TLS && !a.WS:
		return Addr{}, errors.New("a TLS address has no path")
	case !found:
		path = "/"
	case !strings.HasPrefix(path, "/") || strings.ContainsAny(path, " ?#") || !printable(path):
		return Addr{}, errors.New("the WebSocket path must begin with / and have no space, ? or #")
	}
	if a.WS || a.Auto {
		a.Path = path
	}
	return a, nil
}

func printable(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) < 0
}

// Plain tells whether nothing stands in front of the address.
func (a Addr) Plain() bool { return a.scheme == "" }

// URL is the address as ParseAddr takes it, with what was really bound.
func (a Addr) URL(bound net.Addr) string {
	scheme := a.scheme
	if scheme == "" {
		scheme = bound.Network()
	}
	url := scheme + "://" + bound.String()
	switch {
	case a.Path == "" || a.Path == "/":
		return url
	case strings.HasSuffix(scheme, "unix"):
		return url + ":" + a.Path
	}
	return url + a.Path
}

// methodByte tells whether an HTTP request's method may begin with b.
func methodByte(b byte) bool { return b >= 'A' && b <= 'Z' }

// tlsByte is the first byte of a TLS handshake.
const tlsByte = 0x16

// Ambiguous tells whether a frame that begins with b could not be told from TLS or from an
// HTTP request.
func Ambiguous(b byte) bool { return b == tlsByte || methodByte(b) }
