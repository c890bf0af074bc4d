package door

import (
	"bytes"
	"slices"
)

// quickUpgrade reads a request that is plain and right, as nearly all are, without memory of
// its own. It returns the key, and whether the client offers Subprotocol. Not ok: the long way
// must look at it, which knows what all the others may be and says what is wrong with them.
// The key is a part of head.
func quickUpgrade(head []byte, cfg *Config, path string, secure bool) (key []byte, offered, ok bool) {
	line, rest, _ := bytes.Cut(head, crlf)
	if !plainPath(path) || len(line) != len(path)+13 || string(line[:4]) != "GET " || string(line[4:4+len(path)]) != path || string(line[4+len(path):]) != " HTTP/1.1" {
		return nil, false, false
	}
	var host, origin, version []byte
	connection, upgrade := false, false
	for {
		if line, rest, ok = bytes.Cut(rest, crlf); !ok || len(line) == 0 {
			break
		}
		name, value, found := bytes.Cut(line, []byte(":"))
		value = bytes.Trim(value, " \t")
		if !found || !plainName(name) || !plainValue(value) {
			return nil, false, false
		}
		once := (*[]byte)(nil)
		switch {
		case fold(name, "host"):
			once = &host
		case fold(name, "origin"):
			once = &origin
		case fold(name, "sec-websocket-key"):
			once = &key
		case fold(name, "sec-websocket-version"):
			once = &version
		case fold(name, "connection"):
			connection = connection || lists(value, "upgrade")
		case fold(name, "upgrade"):
			upgrade = upgrade || lists(value, "websocket")
		case fold(name, "sec-websocket-protocol"):
			offered = offered || lists(value, Subprotocol)
		case fold(name, "sec-websocket-extensions") && cfg.Deflate,
			fold(name, "content-length"), fold(name, "transfer-encoding"), fold(name, "trailer"):
			return nil, false, false
		}
		if once != nil {
			if *once != nil || len(value) == 0 {
				return nil, false, false
			}
			*once = value
		}
	}
	ok = ok && len(rest) == 0 && connection && upgrade && host != nil && string(version) == "13" && len(key) == 24 && validKey(string(key)) &&
		(origin == nil || slices.Contains(cfg.Origins, "*") || ownOrigin(origin, host, secure))
	return key, offered, ok
}

var crlf = []byte("\r\n")

// ownOrigin tells whether the page is the host's own, and both say it in the same words.
func ownOrigin(origin, host []byte, secure bool) bool {
	scheme := "http://"
	if secure {
		scheme = "https://"
	}
	if !bytes.HasPrefix(origin, []byte(scheme)) || !bytes.Equal(origin[len(scheme):], host) {
		return false
	}
	name, port, found := bytes.Cut(host, []byte(":"))
	return plainHost(name) && (!found || plainPort(port))
}

func plainHost(b []byte) bool {
	for _, c := range b {
		if !letterOrDigit(c) && c != '-' && c != '.' {
			return false
		}
	}
	return len(b) > 0
}

func plainPort(b []byte) bool {
	for _, c := range b {
		if c < '0' || c > '9' {
			return false
		}
	}
	return len(b) > 0
}

// lists tells whether a list has an item, whatever its case.
func lists(value []byte, item string) bool {
	for more := true; more; {
		var one []byte
		if one, value, more = bytes.Cut(value, []byte(",")); fold(bytes.Trim(one, " \t"), item) {
			return true
		}
	}
	return false
}

// fold tells whether b is s, which is in lower case, whatever b's case. Only ASCII.
func fold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != s[i] {
			return false
		}
	}
	return true
}

func letterOrDigit(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func plainPath(path string) bool {
	for i := range len(path) {
		if c := path[i]; !letterOrDigit(c) && c != '/' && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

func plainName(b []byte) bool {
	for _, c := range b {
		if !letterOrDigit(c) && c != '-' {
			return false
		}
	}
	return len(b) > 0
}

func plainValue(b []byte) bool {
	for _, c := range b {
		if c != '\t' && (c < ' ' || c > '~') {
			return false
		}
	}
	return true
}
