// Package perip counts connections by their source address. An IPv6 network counts as one address,
// since a client usually has a whole network.
package perip

import (
	"net"
	"net/netip"

	"millrace/internal/tally"
)

// DefaultBits is how many bits of an IPv6 address count by default: the smallest network that a site
// is given.
const DefaultBits = 64

// Counter counts the connections of each IP address. What has none, such as a unix
// socket, is not counted. The zero Counter is ready; any goroutine may use it.
type Counter struct {
	Bits int // of an IPv6 address that count, set before use; 0: DefaultBits

	mu    tally.Mutex
	m     map[netip.Addr]int // guarded by mu
	sizes []int              // guarded by mu; sizes[n] is how many addresses have n connections; no zeros at the end
}

// resizeLocked updates sizes for an address that had was connections and now has now.
func (c *Counter) resizeLocked(was, now int) {
	for len(c.sizes) <= now {
		c.sizes = append(c.sizes, 0)
	}
	c.sizes[was]--
	c.sizes[now]++
	c.sizes[0] = 0 // addresses without connections are not counted
	for n := len(c.sizes); n > 0 && c.sizes[n-1] == 0; n-- {
		c.sizes = c.sizes[:n-1]
	}
}

// Most returns the largest number of connections of one address.
func (c *Counter) Most() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(len(c.sizes)-1, 0)
}

// Key returns the address under which connections from a are counted; false if they are not counted.
func (c *Counter) Key(a net.Addr) (netip.Addr, bool) { return key(a, c.Bits) }

// key is an IPv4 address whole, also where it is written as an IPv6 one (::ffff:192.0.2.1),
// and of an IPv6 address the first bits.
func key(a net.Addr, bits int) (netip.Addr, bool) {
	t, ok := a.(*net.TCPAddr)
	if !ok || t == nil {
		return netip.Addr{}, false
	}
	ip, ok := netip.AddrFromSlice(t.IP)
	if ip = ip.Unmap(); !ok || ip.Is4() {
		return ip, ok
	}
	if bits == 0 {
		bits = DefaultBits
	}
	p, err := ip.Prefix(bits)
	return p.Addr(), err == nil
}

// Enter counts a connection from a; false, and it is not counted, if there are limit already. With a
// limit of 0 it returns true and counts nothing.
func (c *Counter) Enter(a net.Addr, limit int) bool {
	if limit == 0 {
		return true
	}
	ip, ok := c.Key(a)
	if !ok {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m[ip] >= limit {
		return false
	}
	if c.m == nil {
		c.m = map[netip.Addr]int{}
	}
	c.m[ip]++
	c.resizeLocked(c.m[ip]-1, c.m[ip])
	return true
}

// Leave undoes one Enter that returned true.
func (c *Counter) Leave(a net.Addr) {
	ip, ok := c.Key(a)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.m[ip]
	switch {
	case n == 0:
		return
	case n == 1:
		delete(c.m, ip)
	default:
		c.m[ip] = n - 1
	}
	c.resizeLocked(n, n-1)
}

// Count returns how many connections there are from a's address or network; 0 if they are not counted.
func (c *Counter) Count(a net.Addr) int {
	ip, ok := c.Key(a)
	if !ok {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[ip]
}

// Len returns how many addresses and networks have connections.
func (c *Counter) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.m)
}
