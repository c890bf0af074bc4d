package admin

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// ownPeer reports whether the other end of a TCP connection on this machine is a socket of this
// process's user or of root. The kernel lists the owner of each socket.
func ownPeer(peer, here netip.AddrPort) error {
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		f, err := os.Open(name)
		if err != nil {
			continue // a kernel without IPv6
		}
		uid, err := socketOwner(f, peer, here)
		f.Close()
		if err != nil {
			continue
		}
		if uid != 0 && uid != os.Geteuid() {
			return fmt.Errorf("the client runs as user %d", uid)
		}
		return nil
	}
	return errors.New("the owner of the connection can't be determined")
}

// socketOwner finds the socket with these addresses in a list in the format of /proc/net/tcp.
func socketOwner(list io.Reader, from, to netip.AddrPort) (uid int, err error) {
	in := bufio.NewScanner(list)
	for in.Scan() {
		f := strings.Fields(in.Text())
		if len(f) < 8 || !sameEnd(f[1], from) || !sameEnd(f[2], to) {
			continue
		}
		return strconv.Atoi(f[7])
	}
	return 0, errors.Join(in.Err(), errors.New("no such socket"))
}

// sameEnd reports whether text, an address in host byte order and a port, both in hexadecimal, is
// a.
func sameEnd(text string, a netip.AddrPort) bool {
	words, port, ok := strings.Cut(text, ":")
	b, err := hex.DecodeString(words)
	if n, perr := strconv.ParseUint(port, 16, 16); !ok || err != nil || perr != nil || uint16(n) != a.Port() {
		return false
	}
	for i := 0; i+4 <= len(b); i += 4 {
		binary.NativeEndian.PutUint32(b[i:], binary.BigEndian.Uint32(b[i:]))
	}
	ip, ok := netip.AddrFromSlice(b)
	return ok && ip.Unmap() == a.Addr().Unmap()
}
