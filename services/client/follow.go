package client

import "strings"

// follow returns the address that a client connected to at uses next after a GOAWAY with the
// address to: "" if to is empty, or would replace an encrypted connection by an unencrypted one. A
// bare HOST:PORT is used with the scheme of at and, for a WebSocket, its path.
func follow(at, to string) string {
	scheme, rest, ok := strings.Cut(at, "://")
	if !ok {
		scheme, rest = "tcp", at
	}
	scheme, onUnix := strings.CutSuffix(scheme, "+unix")
	if to == "" || strings.Contains(to, "://") {
		if encrypted(scheme) && !encrypted(to) {
			return ""
		}
		return to
	}
	path := ""
	switch {
	case scheme == "unix":
		scheme = "tcp"
	case scheme != "ws" && scheme != "wss" || strings.Contains(to, "/"):
	case onUnix:
		_, path, _ = strings.Cut(rest, ":")
	default:
		if i := strings.IndexByte(rest, '/'); i >= 0 {
			path = rest[i:]
		}
	}
	return scheme + "://" + to + path
}

// encrypted reports whether connections to an address, or with a scheme, are encrypted.
func encrypted(addr string) bool {
	scheme, _, _ := strings.Cut(addr, "://")
	scheme = strings.TrimSuffix(scheme, "+unix")
	return scheme == "tls" || scheme == "wss"
}
