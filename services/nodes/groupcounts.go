package nodes

import (
	"context"
	"time"

	"millrace/services/nodes/internal/envelope"
)

// hasMembers returns when all other nodes know that the group has members here, or can't be
// reached. If they know already, this costs one message without an answer.
func (gs *groups) hasMembers(ctx context.Context, g *group) {
	known, up := gs.tell(g), gs.n.bus.Up()
	g.mu.Lock()
	ready := known && g.sure && g.stands || g.news != nil && g.frames != nil && !up
	g.mu.Unlock()
	if !ready {
		gs.listenTo(ctx, g, true)
	}
}

// knowOthers returns when all other nodes have reported their number of members, or can't be
// reached.
func (gs *groups) knowOthers(ctx context.Context, g *group) {
	g.mu.Lock()
	ready := g.sure || g.news != nil && !gs.n.bus.Up()
	g.mu.Unlock()
	if !ready {
		gs.listenTo(ctx, g, false)
	}
}

// listenTo subscribes to the other nodes' member counts of the group and, if it has members here,
// to frames sent to it; and requests the counts.
func (gs *groups) listenTo(ctx context.Context, g *group, frames bool) {
	g.mu.Lock()
	asks := g.asks
	g.mu.Unlock()
	g.joining.Lock()
	defer g.joining.Unlock()
	ctx, cancel := gs.n.bounded(ctx)
	defer cancel()
	gs.subscribe(g, frames)
	if gs.n.bus.Flush(ctx) != nil {
		return // the servers are unavailable: the subscriptions reach them on reconnect
	}
	g.mu.Lock()
	g.stands = g.news != nil && g.frames != nil
	asked := g.asks != asks // while this call waited for joining
	g.mu.Unlock()
	if !asked {
		gs.question(ctx, g, frames)
	}
}

// subscribe makes the missing subscriptions. Caller holds g.joining but not mu, since it may wait
// while the servers don't accept data, and sends to this node's own members must not wait.
func (gs *groups) subscribe(g *group, frames bool) {
	g.mu.Lock()
	news, own := g.news, g.frames
	g.mu.Unlock()
	if news == nil {
		news, _ = gs.n.in.Load().Subscribe(newsSubject(g.name), "") // it fails only after Stop
	}
	if frames && own == nil {
		own, _ = gs.n.in.Load().Subscribe(frameSubject(g.name), "")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.news, g.frames = news, own
}

// question requests the member counts of all other nodes and sends them the count of this one. A
// node that has answered sends to the group from then on. Caller holds g.joining.
func (gs *groups) question(ctx context.Context, g *group, frames bool) {
	if !gs.n.member() || !gs.n.reachesOthers() {
		return
	}
	q := gs.begin(g, frames)
	if q == nil {
		return
	}
	whole := false
	select {
	case <-q.all:
		whole = true
	case <-ctx.Done():
	case <-gs.n.run.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ask = nil
	if whole { // otherwise messages are sent to all subscribers
		g.sure, g.told = q.sure, q.told
	}
}

// begin sends the request. Nil: there is nothing to request, or it could not be sent.
func (gs *groups) begin(g *group, frames bool) *asking {
	g.telling.Lock()
	defer g.telling.Unlock()
	count := gs.members(g.name)
	q := &asking{number: gs.asked.Add(1), awaits: map[uint64]bool{}, all: make(chan struct{}), sure: true, told: count > 0}
	for _, m := range gs.n.others() {
		q.awaits[m.Process] = true
	}
	if len(q.awaits) == 0 {
		close(q.all)
	}
	g.mu.Lock()
	if g.sure && (g.told || !frames) {
		g.mu.Unlock()
		return nil
	}
	g.asks++
	g.ask = q
	g.mu.Unlock()
	if gs.say(subjectAll, envelope.Envelope{Kind: envelope.Count, Key: g.name, Number: q.number, Epoch: uint64(count)}) == nil {
		return q
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ask = nil
	return nil
}

// say publishes an envelope about a group.
func (gs *groups) say(subject string, e envelope.Envelope) error {
	b, err := gs.n.seal(e)
	if err == nil {
		err = gs.n.bus.Publish(subject, b)
	}
	gs.n.lose(err)
	return err
}

// tell sends the number of members here to the other nodes, and returns whether all of them have
// confirmed that there are some. It does not block.
func (gs *groups) tell(g *group) (known bool) {
	g.telling.Lock()
	defer g.telling.Unlock()
	count := gs.members(g.name)
	if count == 0 {
		g.mu.Lock()
		g.told = false
		if g.ask != nil {
			g.ask.told = false
		}
		g.mu.Unlock()
	}
	if gs.counting != nil {
		gs.counting(count)
	}
	err := gs.say(newsSubject(g.name), envelope.Envelope{Kind: envelope.Members, Key: g.name, Epoch: uint64(count)})
	g.mu.Lock()
	defer g.mu.Unlock()
	g.untold = err != nil
	return g.told
}

// tellOf is tell for a group that may have been removed.
func (gs *groups) tellOf(name string) {
	gs.withGroup(name, func(g *group) {
		if g != nil {
			gs.tell(g)
			return
		}
		_ = gs.say(newsSubject(name), envelope.Envelope{Kind: envelope.Members, Key: name, Epoch: uint64(gs.members(name))})
	})
}

// withGroup calls fn with the group of that name, which is kept meanwhile; with nil if it does not
// exist, and nobody can create it meanwhile.
func (gs *groups) withGroup(name string, fn func(g *group)) {
	gs.mu.Lock()
	g := gs.all[name]
	if g == nil {
		defer gs.mu.Unlock()
		fn(nil)
		return
	}
	g.pins.Add(1)
	gs.mu.Unlock()
	defer g.unpin()
	fn(g)
}

// counted answers another node's request for the member count.
func (gs *groups) counted(e envelope.Envelope) {
	gs.withGroup(e.Key, func(g *group) {
		own := uint64(0)
		if g != nil {
			g.telling.Lock()
			defer g.telling.Unlock()
			own = g.out.at()
		}
		_ = gs.say(nodeSubject(e.Source), envelope.Envelope{Kind: envelope.Members, Key: e.Key, Number: e.Number, Session: own, Epoch: uint64(gs.members(e.Key))})
	})
}

// learn records how many members another node has.
func (gs *groups) learn(e envelope.Envelope) {
	g := gs.find(e.Key)
	if g == nil {
		return
	}
	if !gs.heard(e.Source) {
		return
	}
	if e.Kind == envelope.Members && e.Session > 0 {
		g.cross.past(gs.n, e.Source, e.Session)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if count := int(min(e.Epoch, 1<<30)); count > 0 {
		g.counts[e.Source] = count
	} else {
		delete(g.counts, e.Source)
	}
	if q := g.ask; q != nil && e.Kind == envelope.Members && e.Number == q.number {
		q.answered(e.Source)
	}
}

// answered records that a process has answered, or never will. Caller holds the group's mu.
func (q *asking) answered(process uint64) {
	if !q.awaits[process] {
		return
	}
	delete(q.awaits, process)
	if len(q.awaits) == 0 {
		close(q.all)
	}
}

// doubt: the servers were unavailable, or messages were lost. Other nodes may have gained members
// meanwhile, and may not know of those here.
func (gs *groups) doubt() {
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for _, g := range gs.all {
		g.mu.Lock()
		g.sure, g.told = false, false
		if g.ask != nil {
			g.ask.sure, g.ask.told = false, false
		}
		g.mu.Unlock()
	}
}

// tellAll sends the counts of every group with members here, and those that could not be sent while
// the servers were unavailable.
func (gs *groups) tellAll(ctx context.Context) {
	gs.tellThose(ctx, func(g *group) bool { return gs.members(g.name) > 0 })
}

// tellThose sends the counts of the groups selected by want, and those that could not be sent
// before.
func (gs *groups) tellThose(ctx context.Context, want func(*group) bool) {
	gs.mu.Lock()
	var these []*group
	for _, g := range gs.all {
		if g.isUntold() || want(g) {
			these = append(these, g)
		}
	}
	gs.mu.Unlock()
	for _, g := range these {
		for gs.tellOf(g.name); g.isUntold() && gs.n.bus.Up(); gs.tellOf(g.name) {
			if !sleep(ctx, 5*time.Millisecond) { // too many messages are queued
				return
			}
		}
	}
}

func (g *group) isUntold() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.untold
}

// elsewhere returns how many members the other living nodes have reported.
func (gs *groups) elsewhere(g *group) (members int) {
	g.mu.Lock()
	empty := len(g.counts) == 0
	g.mu.Unlock()
	if empty {
		return 0
	}
	others := gs.n.others()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range others {
		members += g.counts[m.Process]
	}
	return members
}
