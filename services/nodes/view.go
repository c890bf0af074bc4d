package nodes

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"millrace/services/cluster"
)

// view is the set of living nodes other than this one. It is immutable, since every send reads it,
// and replaced when a node joins, leaves or changes its state.
type view struct {
	from  []cluster.Member // the list it was made from
	beats uint64           // number of heartbeats at that time
	all   []Member         // in no order
	ups   []Member         // those of all that don't drain
	at    map[uint64]int   // in all, by process
	named map[string]int   // in all, by name
}

var nobody = &view{}

// view returns the current one; an empty one while other nodes can't be reached.
func (n *Node) view() *view {
	if !n.reachesOthers() {
		return nobody
	}
	from, beats := n.cache.Members(), n.heardBeats.Load()
	if v := n.viewed.Load(); v != nil && v.beats == beats && sameMembers(v.from, from) {
		return v
	}
	v := n.newView(from, beats)
	n.viewed.Store(v)
	return v
}

// reachesOthers reports whether the bus and the cache are connected, as far as known.
func (n *Node) reachesOthers() bool { return n.bus != nil && n.bus.Up() && n.cache.Running() }

// sameMembers reports whether two immutable lists are the same slice.
func sameMembers(a, b []cluster.Member) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0])
}

func (n *Node) newView(from []cluster.Member, beats uint64) *view {
	v := &view{from: from, beats: beats, at: map[uint64]int{}, named: map[string]int{}}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range from {
		process := parseProcess(c.Process)
		if process == 0 || process == n.process || !IsName(c.Name) {
			continue
		}
		m := Member{Name: c.Name, Process: process, Token: c.Token, State: Up, asks: askSubject(process)}
		if b, ok := n.beats[process]; ok {
			m.State, m.Sessions, m.Addrs, m.handles = b.State, b.Sessions, b.Addrs, b.Handles
		}
		v.at[process], v.named[m.Name] = len(v.all), len(v.all)
		v.all = append(v.all, m)
		if m.State == Up {
			v.ups = append(v.ups, m)
		}
	}
	return v
}

func (v *view) find(process uint64) (Member, bool) {
	i, ok := v.at[process]
	if !ok {
		return Member{}, false
	}
	return v.all[i], true
}

func parseProcess(s string) uint64 {
	p, _ := strconv.ParseUint(s, 16, 64) // 0 is not a process
	return p
}

// List returns the living nodes that can be reached as far as this process knows, always including
// this one, sorted by name. A node that has died stays on it for up to 1.1 leases.
func (n *Node) List() []Member {
	all := append(slices.Clone(n.others()), n.self())
	slices.SortFunc(all, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// others returns the living nodes other than this one, in no order. The list must not be modified.
func (n *Node) others() []Member { return n.view().all }

// ups returns the other nodes that don't drain. The list must not be modified.
func (n *Node) ups() []Member { return n.view().ups }

func (n *Node) byProcess(process uint64) (Member, bool) { return n.view().find(process) }

func (n *Node) byName(name string) (Member, bool) {
	if name == n.cfg.Name {
		return n.self(), true
	}
	v := n.view()
	i, ok := v.named[name]
	if !ok {
		return Member{}, false
	}
	return v.all[i], true
}

// lives reports whether a process has a name, whether it can be reached now or not.
func (n *Node) lives(process uint64) bool {
	return slices.ContainsFunc(n.cache.Members(), func(m cluster.Member) bool { return parseProcess(m.Process) == process })
}

// living returns the processes that have a name.
func (n *Node) living() map[uint64]bool { return processes(n.cache.Members()) }

func processes(of []cluster.Member) map[uint64]bool {
	living := map[uint64]bool{}
	for _, m := range of {
		living[parseProcess(m.Process)] = true
	}
	return living
}

// watch is the goroutine that detects dead nodes: what waits for one is notified at most a tenth of
// a lease later. It also detects that the server drains or stops draining, which is published at
// once.
func (n *Node) watch() {
	every := max(min(n.cache.Lease()/10, 200*time.Millisecond), 10*time.Millisecond)
	from := n.cache.Members()
	before := processes(from) // from the same list: otherwise a node that dies in between would not be noticed until the next change
	var dead map[uint64]time.Time
	state := n.stateNow()
	for sleep(n.run, every) {
		if now := n.stateNow(); now != state {
			state = now
			n.hurry()
		}
		if !n.cache.Running() {
			continue // nothing is known of any node
		}
		if now := n.cache.Members(); !sameMembers(now, from) {
			from = now
			living := processes(now)
			dead = n.died(before, living, dead)
			before = living
		}
		n.bury(before, dead)
	}
}

// died processes the current set of living processes, and returns those that have died in the last
// leases.
func (n *Node) died(before, living map[uint64]bool, dead map[uint64]time.Time) map[uint64]time.Time {
	var died []uint64
	for p := range before {
		if !living[p] && p != n.process {
			died = append(died, p)
		}
	}
	if len(died) == 0 {
		return dead
	}
	if dead == nil {
		dead = map[uint64]time.Time{}
	}
	for _, p := range died {
		dead[p] = time.Now()
	}
	n.groups.died(died)
	return dead
}

// bury ends the requests to dead processes, repeatedly for a while, as a request may have been sent
// when its receiver was still considered alive.
func (n *Node) bury(living map[uint64]bool, dead map[uint64]time.Time) {
	n.groups.forget(func(p uint64) bool { return living[p] })
	lost := map[string]bool{}
	for p, at := range dead {
		if living[p] || time.Since(at) > 2*n.cache.Lease() {
			delete(dead, p)
			continue
		}
		lost[askSubject(p)], lost[nodeSubject(p)] = true, true
	}
	if len(lost) > 0 {
		n.bus.Lose(func(subject string) bool { return lost[subject] })
	}
}
