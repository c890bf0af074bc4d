package engine

import (
	"net"
	"net/netip"
	"sync"
)

// perIP counts connections of each address, where that is limited.
type perIP struct {
	mu sync.Mutex
	m  map[netip.Addr]int // guarded by mu
}

func ipOf(a net.Addr) (netip.Addr, bool) {
	t, ok := a.(*net.TCPAddr)
	if !ok {
		return netip.Addr{}, false
	}
	ip, ok := netip.AddrFromSlice(t.IP)
	return ip.Unmap(), ok
}

func (p *perIP) enter(a net.Addr, limit int) bool {
	if limit == 0 {
		return true
	}
	ip, ok := ipOf(a)
	if !ok {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.m[ip] >= limit {
		return false
	}
	p.m[ip]++
	return true
}

func (p *perIP) leave(a net.Addr) {
	ip, ok := ipOf(a)
	if !ok {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := p.m[ip]; n > 1 {
		p.m[ip] = n - 1
	} else {
		delete(p.m, ip)
	}
}
