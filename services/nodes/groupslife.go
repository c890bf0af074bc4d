package nodes

import (
	"time"

	"millrace/services/cluster"
)

// sweeper is the goroutine that removes unused groups without members here, and publishes what
// could not be sent before.
func (gs *groups) sweeper() {
	for sleep(gs.n.run, gs.n.cfg.GroupIdle/4) {
		gs.sweep(time.Now().Add(-gs.n.cfg.GroupIdle))
		if gs.n.bus != nil && gs.n.bus.Up() {
			gs.tellThose(gs.n.run, func(*group) bool { return false })
		}
	}
}

func (gs *groups) sweep(before time.Time) {
	gs.mu.Lock()
	var idle []*group
	for _, g := range gs.all {
		if gs.idle(g, before) {
			idle = append(idle, g)
		}
	}
	gs.mu.Unlock()
	for _, g := range idle {
		gs.letGo(g, before)
	}
}

// letGo ends a group's subscriptions if it has not been used meanwhile, and then removes it. A
// concurrent user waits for joining, and makes new ones.
func (gs *groups) letGo(g *group, before time.Time) {
	g.joining.Lock()
	defer g.joining.Unlock()
	gs.mu.Lock()
	idle := gs.idle(g, before)
	var subs [2]*cluster.Subscription
	if idle {
		g.mu.Lock()
		subs = [2]*cluster.Subscription{g.frames, g.news}
		g.frames, g.news, g.stands, g.sure = nil, nil, false, false
		g.mu.Unlock()
	}
	gs.mu.Unlock()
	for _, sub := range subs {
		if sub != nil {
			sub.End() // it may wait, as subscribe may
		}
	}
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if gs.idle(g, before) {
		gs.remove(g)
	}
}

// remove removes a group. mu is held.
func (gs *groups) remove(g *group) {
	delete(gs.all, g.name)
	if last := g.out.at(); last > 0 {
		gs.ended.set(g.name, last, func() map[string]bool { return nil })
	}
}

// idle reports whether the group has no members here and is not used. Caller holds mu.
func (gs *groups) idle(g *group, before time.Time) bool {
	return g.pins.Load() == 0 && g.used.Load() < before.UnixNano() && !g.isUntold() && gs.members(g.name) == 0
}

// goneFor is how many leases a process still counts when it is not known to live. A process that
// was suspended publishes its counts before it takes its name again, and has the name within a
// lease.
const goneFor = 3

// maxGone limits the processes that have members but are not known to live.
const maxGone = 4096

// heard records that a process reports members; it returns false if there are too many processes
// that are not known to live.
func (gs *groups) heard(process uint64) bool {
	lives := gs.n.lives(process)
	gs.mu.Lock()
	defer gs.mu.Unlock()
	if lives {
		delete(gs.gone, process)
		return true
	}
	if _, known := gs.gone[process]; !known && len(gs.gone) >= maxGone {
		return false
	}
	gs.gone[process] = time.Now()
	return true
}

// died records that processes are not known to live any more: nobody waits for their answers.
func (gs *groups) died(dead []uint64) {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for _, p := range dead {
		gs.gone[p] = time.Now()
	}
	for _, g := range gs.all {
		g.mu.Lock()
		for _, p := range dead {
			if g.ask != nil {
				g.ask.answered(p)
			}
		}
		g.mu.Unlock()
	}
}

// forget deletes what was known of processes that have not lived for some leases.
func (gs *groups) forget(lives func(process uint64) bool) {
	before := time.Now().Add(-goneFor * gs.n.cache.Lease())
	gs.mu.Lock()
	defer gs.mu.Unlock()
	var dead []uint64
	for p, since := range gs.gone {
		switch {
		case lives(p):
			delete(gs.gone, p)
		case since.Before(before):
			delete(gs.gone, p)
			dead = append(dead, p)
		}
	}
	if len(dead) == 0 {
		return
	}
	for _, g := range gs.all {
		g.mu.Lock()
		for _, p := range dead {
			delete(g.counts, p)
		}
		g.mu.Unlock()
	}
}

// stop deletes everything: the subscriptions have ended with the bus.
func (gs *groups) stop() {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for _, g := range gs.all {
		gs.remove(g)
	}
	clear(gs.gone)
}
