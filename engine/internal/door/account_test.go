package door

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"
)

// An address is suspect once it has wasted enough more handshakes than it has ended, until it has wasted none for a while;
// others are not, unless many waste some.
func TestAccountsOfHandshakes(t *testing.T) {
	now := time.Now()
	one, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	var a accounts
	waste := func(ip netip.Addr, n int) {
		for range n {
			a.wasted(ip, now)
		}
	}
	check := func(what string, ip netip.Addr, want bool) {
		t.Helper()
		if got := a.suspect(ip, now); got != want {
			t.Errorf("%s: %v is suspect: %v, want %v", what, ip, got, want)
		}
	}
	waste(one, wasteFlood-1)
	check("one too few", one, false)
	waste(one, 1)
	check("enough", one, true)
	check("of the other", other, false)
	a.ended(one)
	check("one made good", one, false)
	waste(one, 10*wasteMost)
	for range wasteMost - wasteFlood {
		a.ended(one)
	}
	check("as many as are remembered, not all made good", one, true)
	a.ended(one)
	check("made good", one, false)
	waste(one, 1)
	now = now.Add(wasteAge)
	check("long ago", one, false)
	waste(one, 1)
	check("one more", one, false)
	for range 2 {
		a.ended(one)
	}
	if len(a.of) != 0 {
		t.Errorf("%d accounts are left, want none", len(a.of))
	}

	waste(one, 10*wasteAll)
	check("a flood of one address", other, false)
	for i := range wasteAll {
		waste(netip.MustParseAddr(fmt.Sprint("198.51.100.", i)), 1)
	}
	check("a flood of many", other, true)
	for range wasteAll {
		a.ended(other)
	}
	check("a flood of which most is ended", other, false)
	for i := range wasteAll {
		waste(netip.MustParseAddr(fmt.Sprint("198.51.101.", i)), 1)
	}
	now = now.Add(wasteBrief)
	check("a flood of many, some time ago", other, false)
}

// Only so many addresses are remembered; those that are too old to count make room.
func TestAccountsAreBounded(t *testing.T) {
	var a accounts
	now := time.Now()
	ip := netip.MustParseAddr("10.0.0.0")
	for range 2 * mostAccounts {
		ip = ip.Next()
		a.wasted(ip, now)
	}
	if n := len(a.of); n != mostAccounts {
		t.Errorf("%d addresses are remembered, want %d", n, mostAccounts)
	}
	now = now.Add(wasteAge)
	a.wasted(ip, now)
	if n := len(a.of); n != 1 {
		t.Errorf("then %d, want 1", n)
	}
}

// Peers of one IPv6 network are one, and so are those without an IP address.
func TestAccountsAreOfNetworks(t *testing.T) {
	var a accounts
	a.key.Bits = 48
	addr := func(s string) netip.Addr { return a.address(&net.TCPAddr{IP: net.ParseIP(s)}) }
	if addr("2001:db8:1::1") != addr("2001:db8:1:ffff::2") || addr("2001:db8:1::1") == addr("2001:db8:2::1") {
		t.Error("want /48 to be one address")
	}
	if a.address(&net.UnixAddr{Name: "a"}) != a.address(&net.UnixAddr{Name: "b"}) {
		t.Error("want unix sockets to be one")
	}
}
