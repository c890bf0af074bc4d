package perip

import (
	"net"
	"net/netip"
	"time"
)

// Rate spaces out what comes from each address: Most in a second, and as many at once where
// there was nothing before (the generic cell rate algorithm, ITU-T I.371). What has no
// address, such as a unix socket, is not limited. The caller's lock guards it.
type Rate struct {
	Most int // in a second; 0: no limit
	Bits int // of an IPv6 address that count; 0: DefaultBits

	due    map[netip.Addr]time.Time
	purged time.Time // when purge looked last
}

const (
	// maxRated is how many addresses are remembered; those beyond it are not limited.
	maxRated = 1 << 16
	// purgeEvery keeps a flood of new addresses from having all of them looked at each time.
	purgeEvery = 100 * time.Millisecond
)

// Next counts one more from a, and tells how long it has to wait.
func (r *Rate) Next(a net.Addr, now time.Time) time.Duration {
	ip, at, ok := r.find(a, now)
	if !ok {
		return 0
	}
	every := time.Second / time.Duration(r.Most)
	r.due[ip] = at.Add(every)
	return r.wait(at, now)
}

// Allow counts one more from a; false, and not counted, if it would have to wait.
func (r *Rate) Allow(a net.Addr, now time.Time) bool {
	ip, at, ok := r.find(a, now)
	if !ok {
		return true
	}
	if r.wait(at, now) > 0 {
		return false
	}
	r.due[ip] = at.Add(time.Second / time.Duration(r.Most))
	return true
}

// wait is how long what is due at that time has to wait, as long as others may come at once.
func (r *Rate) wait(at, now time.Time) time.Duration {
	return max(at.Sub(now)-(time.Second-time.Second/time.Duration(r.Most)), 0)
}

// find is when a's next one is due; false: it is not limited.
func (r *Rate) find(a net.Addr, now time.Time) (ip netip.Addr, at time.Time, ok bool) {
	if r.Most <= 0 {
		return ip, at, false
	}
	if ip, ok = key(a, r.Bits); !ok {
		return ip, at, false
	}
	if r.due == nil {
		r.due = map[netip.Addr]time.Time{}
	}
	at, known := r.due[ip]
	if !known && len(r.due) >= maxRated && !r.purge(now) {
		return ip, at, false
	}
	if at.Before(now) {
		at = now
	}
	return ip, at, true
}

// purge forgets the addresses that need not wait; false: there are none.
func (r *Rate) purge(now time.Time) bool {
	if now.Sub(r.purged) < purgeEvery {
		return false
	}
	r.purged = now
	before := len(r.due)
	for ip, at := range r.due {
		if at.Before(now) {
			delete(r.due, ip)
		}
	}
	return len(r.due) < before
}

// Len is how many addresses are remembered.
func (r *Rate) Len() int { return len(r.due) }
