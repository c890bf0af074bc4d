package door

import (
	"net"
	"net/netip"
	"time"

	"millrace/engine/internal/perip"
)

// accounts record which addresses don't complete their handshakes. A handshake that was answered and
// not completed, as its client was silent or went away, is wasted; a completed one makes up for one
// that was wasted. handshakes.mu guards them.
//
// An address with wasteFlood more wasted than completed handshakes is suspect until none of its was
// wasted for wasteAge. If many addresses together waste wasteAll, all addresses are suspect.
type accounts struct {
	key perip.Counter // only for its Key: which addresses count as one
	of  map[netip.Addr]account
	all account // of those that are not suspect

	purged time.Time // when purge looked last
}

// account is the number of wasted handshakes minus completed ones, from 0 to wasteMost, and the time of the last wasted one.
type account struct {
	waste int
	at    time.Time
}

const (
	wasteMost  = 64
	wasteFlood = 16
	wasteAge   = 10 * time.Second
	wasteAll   = 64          // of all addresses together
	wasteBrief = time.Second // wasteAge for all addresses together
	// mostAccounts is how many addresses are remembered; further ones count only for all together.
	mostAccounts = 4096
	// purgeEvery is the shortest time between two purges, so that a flood of new addresses does not
	// make each handshake scan all of them.
	purgeEvery = 100 * time.Millisecond
)

// address returns the address that a peer is counted under; all peers without an IP address, such as those of unix
// sockets, count as one.
func (a *accounts) address(of net.Addr) netip.Addr {
	ip, _ := a.key.Key(of)
	return ip
}

// suspect reports whether handshakes of ip should wait for their turn (see slow).
func (a *accounts) suspect(ip netip.Addr, now time.Time) bool {
	return a.of[ip].over(wasteFlood, wasteAge, now) || a.all.over(wasteAll, wasteBrief, now)
}

func (c account) over(limit int, age time.Duration, now time.Time) bool {
	return c.waste >= limit && now.Sub(c.at) < age
}

// wasted counts a handshake of ip that was answered and not completed.
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

// ended counts a handshake of ip that was completed.
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

// purge drops the accounts that are too old to count; false if it dropped none.
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
