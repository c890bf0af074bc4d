package door

import (
	"net"
	"net/netip"
	"time"

	"millrace/engine/internal/perip"
)

// accounts tell whose handshakes don't end. A handshake that has been computed and not ended, as its client was silent
// or went away, is wasted, and one that has ended makes good for one of those. The lock of the handshakes guards them.
//
// An address that has wasted wasteFlood more than it has ended is suspect until it has wasted none for wasteAge. When
// many addresses waste some each, all are.
type accounts struct {
	key perip.Counter // counts nothing: it says what is one address
	of  map[netip.Addr]account
	all account // of those that are not suspect

	purged time.Time // when purge looked last
}

// account is how many handshakes were wasted, beyond those that ended, from 0 to wasteMost, and when the last was.
type account struct {
	waste int
	at    time.Time
}

const (
	wasteMost  = 64
	wasteFlood = 16
	wasteAge   = 10 * time.Second
	wasteAll   = 64          // of all addresses together
	wasteBrief = time.Second // and without one for so long that is forgotten
	// mostAccounts is how many addresses are remembered; those beyond it count among all only.
	mostAccounts = 4096
	// purgeEvery keeps a flood of new addresses from having all of them looked at each time.
	purgeEvery = 100 * time.Millisecond
)

// address is what a peer is counted as; without an IP address, as on a unix socket, all are one.
func (a *accounts) address(of net.Addr) netip.Addr {
	ip, _ := a.key.Key(of)
	return ip
}

// suspect tells whether handshakes from ip had better not be paid for in advance.
func (a *accounts) suspect(ip netip.Addr, now time.Time) bool {
	return a.of[ip].over(wasteFlood, wasteAge, now) || a.all.over(wasteAll, wasteBrief, now)
}

func (c account) over(limit int, age time.Duration, now time.Time) bool {
	return c.waste >= limit && now.Sub(c.at) < age
}

// wasted notes a handshake of ip's that was computed for nothing.
func (a *accounts) wasted(ip netip.Addr, now time.Time) {
	c, known := a.of[ip]
	if !c.over(wasteFlood, wasteAge, now) {
		a.all.add(wasteBrief, now)
	}
	if !known && len(a.of) >= mostAccounts && !a.purge(now) {
		return
	}
	c.add(wasteAge, now)
	if a.of == nil {
		a.of = map[netip.Addr]account{}
	}
	a.of[ip] = c
}

func (c *account) add(age time.Duration, now time.Time) {
	if now.Sub(c.at) >= age {
		c.waste = 0
	}
	c.waste, c.at = min(c.waste+1, wasteMost), now
}

// ended notes a handshake of ip's that was not in vain.
func (a *accounts) ended(ip netip.Addr) {
	a.all.waste = max(a.all.waste-1, 0)
	c, known := a.of[ip]
	if !known {
		return
	}
	if c.waste--; c.waste <= 0 {
		delete(a.of, ip)
		return
	}
	a.of[ip] = c
}

// purge drops the accounts that are too old to count; false: there are none.
func (a *accounts) purge(now time.Time) bool {
	if now.Sub(a.purged) < purgeEvery {
		return false
	}
	a.purged = now
	before := len(a.of)
	for ip, c := range a.of {
		if now.Sub(c.at) >= wasteAge {
			delete(a.of, ip)
		}
	}
	return len(a.of) < before
}
