package perip

import (
	"net"
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

// Without a limit, or an IP address, everything comes in and nothing is kept.
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
