package perip

import (
	"net"
	"net/netip"
	"time"
)

// Rate limits the events of each address to Most in a second; after a pause as many may come at once
// (the generic cell rate algorithm, ITU-T I.371). What has no IP address, such as a unix socket, is
// not limited. It is not safe for concurrent use.
type Rate struct {
	Most int // events in a second; 0: no limit
	Bits int // of an IPv6 address that count; 0: DefaultBits

	due    map[netip.Addr]time.Time
	purged time.Time // when purge looked last
}

const (
	// maxRated is how many addresses are remembered; further ones are not limited.
	maxRated = 1 << 16
	// purgeEvery is the shortest time between two purges, so that a flood of new addresses does not
	// make each event scan all of them.
	purgeEvery = 100 * time.Millisecond
)

// Next counts one event of a, and returns how long it has to wait.
func (r *Rate) Next(a net.Addr, now time.Time) time.Duration {
	ip, at, ok := r.find(a, now)
	if !ok {
		return 0
	}
	every := time.Second / time.Duration(r.Most)
	r.due[ip] = at.Add(every)
	return r.wait(at, now)
}

// Allow counts one event of a; false, and it is not counted, if it would have to wait.
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

// wait returns how long an event that is due at at has to wait, when a second's worth may come at once.
func (r *Rate) wait(at, now time.Time) time.Duration {
	return max(at.Sub(now)-(time.Second-time.Second/time.Duration(r.Most)), 0)
}

// find returns when a's next event is due; false if it is not limited.
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

// purge drops the addresses whose next event need not wait; false if it dropped none.
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

// Len returns how many addresses are remembered.
func (r *Rate) Len() int { return len(r.due) }
