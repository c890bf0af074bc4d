// Package perip counts connections by the address they come from.
package perip

import (
	"net"
	"net/netip"
	"sync"
)

// Counter counts the connections of each IP address. What has none, such as a unix
// socket, is not counted. The zero Counter is ready; any goroutine may use it.
type Counter struct {
	mu sync.Mutex
	m  map[netip.Addr]int // guarded by mu
}

func ipOf(a net.Addr) (netip.Addr, bool) {
	t, ok := a.(*net.TCPAddr)
	if !ok || t == nil {
		return netip.Addr{}, false
	}
	ip, ok := netip.AddrFromSlice(t.IP)
	return ip.Unmap(), ok
}

// Enter counts a connection from a; false, and not counted, when limit are there
// already. A limit of 0 is none, and counts nothing.
func (c *Counter) Enter(a net.Addr, limit int) bool {
	if limit == 0 {
		return true
	}
	ip, ok := ipOf(a)
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
	return true
}

// Leave undoes one Enter that was true.
func (c *Counter) Leave(a net.Addr) {
	ip, ok := ipOf(a)
	if !ok {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := c.m[ip]; n > 1 {
		c.m[ip] = n - 1
	} else {
		delete(c.m, ip)
	}
}

// Count is how many connections come from a's address; 0 where they are not counted.
func (c *Counter) Count(a net.Addr) int {
	ip, ok := ipOf(a)
	if !ok {
		return 0
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[ip]
}

// Len is how many addresses have connections.
func (c *Counter) Len() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.m)
}
