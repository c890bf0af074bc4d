package perip

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// Of an address so many come in a second, and as many at once behind a pause; the addresses
// of one IPv6 network are one, others have nothing to do with it.
func TestRateLetsSoManyComeInASecond(t *testing.T) {
	r := Rate{Most: 10}
	now := time.Unix(1000, 0)
	took := func(ip string, n int) (allowed int) {
		for range n {
			if r.Allow(tcp(ip), now) {
				allowed++
			}
		}
		return allowed
	}
	if n := took("10.0.0.1", 50); n != 10 {
		t.Errorf("%d of 50 at once, want 10", n)
	}
	if n := took("10.0.0.2", 50); n != 10 {
		t.Errorf("%d of another address, want 10", n)
	}
	if n := took("2001:db8::1", 5) + took("2001:db8::ffff:1", 50); n != 10 {
		t.Errorf("%d of one network of 64 bits, want 10", n)
	}
	if n := took("2001:db8:0:1::1", 50); n != 10 {
		t.Errorf("%d of the next network, want 10", n)
	}
	if wide := (Rate{Most: 1, Bits: 48}); !wide.Allow(tcp("2001:db8::1"), now) || wide.Allow(tcp("2001:db8:0:ffff::1"), now) || !wide.Allow(tcp("2001:db8:1::1"), now) {
		t.Error("networks of 48 bits are not told apart so")
	}
	now = now.Add(300 * time.Millisecond)
	if n := took("10.0.0.1", 50); n != 3 {
		t.Errorf("%d after 300 ms, want 3: who is refused is not counted", n)
	}
	now = now.Add(time.Hour)
	if n := took("10.0.0.1", 50); n != 10 {
		t.Errorf("%d after an hour, want 10", n)
	}
	for range 100 {
		if !r.Allow(&net.UnixAddr{Name: "x"}, now) || !r.Allow(nil, now) {
			t.Fatal("what has no address was refused")
		}
	}
	if wait := r.Next(tcp("10.0.0.1"), now); wait != 100*time.Millisecond {
		t.Errorf("the next one waits for %v, want 100ms", wait)
	}
}

// However many addresses come, few are remembered.
func TestRateForgets(t *testing.T) {
	r := Rate{Most: 1}
	now := time.Unix(1000, 0)
	for i := range 2 * maxRated {
		if i%1000 == 0 {
			now = now.Add(50 * time.Millisecond)
		}
		if !r.Allow(tcp(fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255)), now) {
			t.Fatal("refused")
		}
	}
	if r.Len() > maxRated {
		t.Errorf("%d addresses are remembered", r.Len())
	}
}
