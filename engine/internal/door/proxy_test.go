package door

import (
	"bufio"
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/pires/go-proxyproto"
)

// readBeside reads the header at the start of b with another implementation: the TCP source
// that it names, and its size; 0: it is refused.
func readBeside(b []byte) (addr netip.AddrPort, size int) {
	in := bytes.NewReader(b)
	r := bufio.NewReaderSize(in, max(16, len(b)))
	h, err := proxyproto.Read(r)
	if err != nil {
		return addr, 0
	}
	if src, ok := h.SourceAddr.(*net.TCPAddr); ok && h.Command.IsProxy() {
		a := src.AddrPort()
		addr = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	return addr, len(b) - in.Len() - r.Buffered()
}

// Headers that another implementation writes are read as what they say.
func TestProxyHeadersOfAnotherWriter(t *testing.T) {
	tcp := func(s string) net.Addr { return net.TCPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	for _, c := range []struct {
		from, to net.Addr
		proto    proxyproto.AddressFamilyAndProtocol
	}{
		{tcp("192.0.2.1:1"), tcp("192.0.2.2:65535"), proxyproto.TCPv4},
		{tcp("[2001:db8::1]:443"), tcp("[::1]:2"), proxyproto.TCPv6},
		{&net.UnixAddr{Name: "/a", Net: "unix"}, &net.UnixAddr{Name: "/b", Net: "unix"}, proxyproto.UnixStream},
	} {
		for version := byte(1); version <= 2; version++ {
			if version == 1 && c.proto == proxyproto.UnixStream {
				continue
			}
			h := &proxyproto.Header{Version: version, Command: proxyproto.PROXY, TransportProtocol: c.proto, SourceAddr: c.from, DestinationAddr: c.to}
			if version == 2 && c.proto != proxyproto.UnixStream { // there it counts them out of the length
				if err := h.SetTLVs([]proxyproto.TLV{{Type: proxyproto.PP2_TYPE_AUTHORITY, Value: []byte("a.example")}}); err != nil {
					t.Fatal(err)
				}
			}
			b, err := h.Format()
			if err != nil {
				t.Fatal(err)
			}
			addr, size, err := parseProxy(append(b, "rest"...))
			want := ""
			if _, ok := c.from.(*net.TCPAddr); ok {
				want = c.from.String()
			}
			if got := addr.String(); err != nil || size != len(b) || addr.IsValid() != (want != "") || want != "" && got != want {
				t.Errorf("version %d from %v: %v, %d of %d bytes, %v", version, c.from, addr, size, len(b), err)
			}
		}
	}
}

// What two implementations both take for a header, they read the same.
func FuzzProxyBesideAnother(f *testing.F) {
	f.Add([]byte("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n"))
	f.Add([]byte("PROXY TCP6 2001:db8::1 ::1 65535 2\r\nrest"))
	f.Add([]byte("PROXY TCP6 ::ffff:1.2.3.4 ::1 65535 2\r\nrest"))
	f.Add([]byte("PROXY UNKNOWN whatever\r\n"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x00\x02"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		addr, size, err := parseProxy(b)
		theirs, n := readBeside(b)
		if err != nil || size == 0 || n == 0 {
			return
		}
		if size != n || addr.IsValid() && theirs.IsValid() && addr != theirs {
			t.Fatalf("%q: %v in %d bytes, beside %v in %d", b, addr, size, theirs, n)
		}
	})
}
