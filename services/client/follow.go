package client

import "strings"

// follow is where a GOAWAY that says to sends a client of the address at: "" if it names
// nothing, or would have a client of an encrypted connection go on in the clear. A bare
// HOST:PORT is reached as at is: with its scheme and, of a WebSocket, its path.
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

// encrypted tells whether a connection to an address, or of a scheme, is.
func encrypted(addr string) bool {
	scheme, _, _ := strings.Cut(addr, "://")
	scheme = strings.TrimSuffix(scheme, "+unix")
	return scheme == "tls" || scheme == "wss"
}
