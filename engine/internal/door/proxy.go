package door

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

const (
	maxProxyV1 = 107
	maxProxyV2 = 4 << 10 // with its 16 bytes of header
)

var (
	proxyV1 = []byte("PROXY ")
	proxyV2 = []byte("\r\n\r\n\x00\r\nQUIT\n")

	errProxy = errors.New("no PROXY header, or a broken one")
)

// parseProxy reads the header of the PROXY protocol, version 1 or 2, at the start of b
// (https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt). size 0 without an error:
// more must come. addr is not valid where the header names no TCP source.
func parseProxy(b []byte) (addr netip.AddrPort, size int, err error) {
	switch {
	case begins(b, proxyV2):
		return parseProxyV2(b)
	case begins(b, proxyV1):
		return parseProxyV1(b)
	}
	return addr, 0, errProxy
}

// begins tells whether b begins with prefix, as far as b goes.
func begins(b, prefix []byte) bool { return bytes.HasPrefix(prefix, b[:min(len(b), len(prefix))]) }

func parseProxyV2(b []byte) (addr netip.AddrPort, size int, err error) {
	if len(b) < 16 {
		return addr, 0, nil
	}
	size = 16 + int(binary.BigEndian.Uint16(b[14:]))
	local := b[12]&15 == 0 // the proxy's own connection, such as a health check: its family means nothing
	if b[12]>>4 != 2 || b[12]&15 > 1 || size > maxProxyV2 {
		return addr, 0, errProxy
	}
	if !local && (b[13]>>4 > 3 || b[13]&15 > 2) {
		return addr, 0, errProxy
	}
	if len(b) < size {
		return addr, 0, nil
	}
	if local {
		return addr, size, nil
	}
	at := b[16:size]
	switch family, stream := b[13]>>4, b[13]&15 == 1; {
	case family == 1 && len(at) < 12, family == 2 && len(at) < 36, family == 3 && len(at) < 216:
		return addr, 0, errProxy
	case family == 1 && stream:
		addr = netip.AddrPortFrom(netip.AddrFrom4([4]byte(at)), binary.BigEndian.Uint16(at[8:]))
	case family == 2 && stream:
		addr = netip.AddrPortFrom(netip.AddrFrom16([16]byte(at)).Unmap(), binary.BigEndian.Uint16(at[32:]))
	}
	return addr, size, nil
}

func parseProxyV1(b []byte) (addr netip.AddrPort, size int, err error) {
	end := bytes.IndexByte(b[:min(len(b), maxProxyV1)], '\n') - 1
	if end < 0 {
		if len(b) >= maxProxyV1 {
			return addr, 0, errProxy
		}
		return addr, 0, nil
	}
	if b[end] != '\r' { // a line feed by itself, wherever it is
		return addr, 0, errProxy
	}
	words := strings.Split(string(b[len(proxyV1):end]), " ")
	if words[0] == "UNKNOWN" {
		return addr, end + 2, nil
	}
	if len(words) != 5 || words[0] != "TCP4" && words[0] != "TCP6" {
		return addr, 0, errProxy
	}
	var at [2]netip.AddrPort
	for i := range at {
		ip, err := netip.ParseAddr(words[1+i])
		port, portErr := parsePort(words[3+i])
		if err != nil || portErr != nil || ip.Zone() != "" || ip.Is4() != (words[0] == "TCP4") {
			return addr, 0, errProxy
		}
		at[i] = netip.AddrPortFrom(ip.Unmap(), port)
	}
	return at[0], end + 2, nil
}

// parsePort reads a decimal port as the header has it: no sign, no leading zero.
func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || len(s) > 1 && s[0] == '0' {
		return 0, errProxy
	}
	return uint16(n), nil
}

// Sources are the peers that a header about somebody else is believed of.
type Sources struct {
	Prefixes []netip.Prefix
	Unix     bool // whoever connects to a unix socket
}

// None tells whether nobody is believed.
func (s Sources) None() bool { return len(s.Prefixes) == 0 && !s.Unix }

// Has tells whether a is one of them.
func (s Sources) Has(a net.Addr) bool {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return s.Unix
	}
	return s.HasIP(t.AddrPort().Addr())
}

// HasIP tells whether ip is in one of the networks.
func (s Sources) HasIP(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	for _, p := range s.Prefixes {
		if p.Contains(ip) {
			return true
		}
	}
	return false
}
