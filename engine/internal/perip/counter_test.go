package perip

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
)

func tcp(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }

// An address has up to limit connections, in whichever form it is written, and is
// forgotten with its last one; others do not count against it.
func TestCounterHoldsEachAddressToTheLimit(t *testing.T) {
	var c Counter
	four, mapped := tcp("10.0.0.1"), &net.TCPAddr{IP: net.IP{10, 0, 0, 1}}
	if !c.Enter(four, 2) || !c.Enter(mapped, 2) || c.Enter(four, 2) {
		t.Error("want two of three from one address")
	}
	if !c.Enter(tcp("10.0.0.2"), 2) || !c.Enter(tcp("::1"), 2) || c.Len() != 3 {
		t.Errorf("%d addresses, want 3", c.Len())
	}
	c.Leave(mapped)
	if !c.Enter(four, 2) || c.Enter(four, 2) {
		t.Error("one has left, so one more may come")
	}
	for _, a := range []net.Addr{four, four, tcp("10.0.0.2"), tcp("::1")} {
		c.Leave(a)
	}
	if c.Len() != 0 {
		t.Errorf("%d addresses left", c.Len())
	}
	c.Leave(four) // one too many changes nothing
	if !c.Enter(four, 1) || c.Enter(four, 1) {
		t.Error("want one")
	}
}

// Most is the longest count, by a model, through any order of coming and going.
func TestMostIsThatOfTheAddressWithTheMost(t *testing.T) {
	var c Counter
	model := map[string]int{}
	addr := func(i int) net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 0, 0, byte(i))} }
	random := rand.New(rand.NewPCG(1, 2))
	for step := range 20000 {
		a := addr(random.IntN(7))
		if random.IntN(2+step/10000) == 0 { // more come at first, more go later
			if c.Enter(a, 50) {
				model[a.String()]++
			}
		} else if c.Leave(a); model[a.String()] > 0 {
			model[a.String()]--
		}
		want := 0
		for _, n := range model {
			want = max(want, n)
		}
		if got := c.Most(); got != want {
			t.Fatalf("step %d: got %d, want %d", step, got, want)
		}
	}
}

// Without a limit, or an IP address, everything is let in and nothing is kept.
func TestCounterWithoutLimitOrAddress(t *testing.T) {
	var c Counter
	for range 3 {
		if !c.Enter(tcp("10.0.0.1"), 0) || !c.Enter(&net.UnixAddr{Name: "x"}, 1) || !c.Enter(nil, 1) {
			t.Error("refused")
		}
	}
	c.Leave(&net.UnixAddr{Name: "x"})
	if c.Len() != 0 {
		t.Errorf("%d addresses", c.Len())
	}
}

// Of an IPv6 address the first bits count, and of an IPv4 address all, mapped or not.
func TestNetworksAreOne(t *testing.T) {
	for _, x := range []struct {
		bits int
		a, b string
		same bool
	}{
		{0, "2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true}, {0, "2001:db8::1", "2001:db8:0:1::1", false},
		{128, "2001:db8::1", "2001:db8::2", false}, {56, "2001:db8::1", "2001:db8:0:ff::1", true}, {56, "2001:db8::1", "2001:db8:0:100::1", false},
		{1, "10.0.0.1", "10.0.0.2", false}, {1, "10.0.0.1", "::ffff:10.0.0.1", true}, {128, "10.0.0.1", "::ffff:10.0.0.2", false},
		{64, "fe80::1%lo", "fe80::2%eth0", true}, {64, "::1", "10.0.0.1", false},
	} {
		c := Counter{Bits: x.bits}
		addr := func(s string) net.Addr {
			a := netip.MustParseAddr(s)
			return &net.TCPAddr{IP: a.AsSlice(), Zone: a.Zone()}
		}
		a, ok1 := c.Key(addr(x.a))
		b, ok2 := c.Key(addr(x.b))
		if !ok1 || !ok2 || (a == b) != x.same {
			t.Errorf("%s and %s by %d bits: %v and %v, want the same: %v", x.a, x.b, x.bits, a, b, x.same)
		}
		if c.Enter(addr(x.a), 1); c.Enter(addr(x.b), 1) == x.same {
			t.Errorf("%s behind %s by %d bits: let in %v", x.b, x.a, x.bits, !x.same)
		}
	}
}
