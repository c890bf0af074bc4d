package engine

import "time"

// Stats is a snapshot of a server. Counters only grow.
type Stats struct {
	Conns    int // sessions that have a slot
	Draining bool
	Doors    DoorStats
	Loops    []LoopStats
	Pool     PoolStats

	Memory   int // memory held by sessions and broadcasts, in bytes; limited by MemoryBudget
	Starving int // sessions paused because of MemoryBudget

	Accepts    uint64
	AcceptErrs uint64 // accepts that failed because files or memory ran out; the connection waited
	FramesIn   uint64
	BytesIn    uint64
	BytesOut   uint64
	Broadcasts uint64
	Errors     uint64 // ERROR frames sent
	Panics     uint64 // callbacks that panicked
	Busy       uint64 // ErrBusy returned
	Stale      uint64 // sends and submits to closed sessions
	Parks      uint64 // strands that waited for an outbox
	Dropped    uint64 // frames read and not handled because their session had closed
	LostBytes  uint64 // bytes accepted by Send but not sent
	Conflated  uint64 // keyed pushes not sent because a newer one replaced them
	Demoted    uint64 // handles moved from the loops to the workers
	Shed       uint64 // sessions closed because of MemoryBudget, also counted in Closes
	Waiting    int    // sessions waiting to be resumed
	Detached   uint64 // lost connections of sessions that can be resumed
	Resumed    uint64 // sessions resumed
	TakenOver  uint64 // sessions that came from other servers; those that went to others are among Closes
	GoAways    uint64 // sessions sent GOAWAY
	Stalls     uint64 // callbacks on loops that took longer than StallAfter; the Pool counts those on workers

	HooksLost uint64 // calls of OnFlight and OnNearMiss dropped because too many were waiting

	Closes  map[Reason]uint64   // closed sessions
	Refused map[Refusal]uint64  // refused connections
	Limited map[Throttle]uint64 // causes of delayed sessions and refused requests
	Near    map[Limit]uint64    // near misses
}

// LoopStats are the statistics of one loop.
type LoopStats struct {
	Conns     int
	Dirty     int // sessions waiting to be written
	Outbox    int // bytes of broadcasts and group sends waiting
	Accepts   uint64
	FramesIn  uint64
	Inline    uint64 // frames handled on the loop
	BytesIn   uint64
	BytesOut  uint64
	Turns     uint64 // flush passes
	Drained   uint64 // sessions written to, over all flush passes
	Writes    uint64 // write system calls
	Blocked   uint64 // writes that the kernel accepted only in part or not at all
	Pauses    uint64 // times reading from a session was paused
	Conflated uint64 // keyed pushes replaced by a newer one
	HandOver  uint64 // times another goroutine took over because a callback blocked the loop

	Late   time.Duration // how long its tick is overdue; up to a tick is normal
	InTurn time.Duration // how long the callbacks running on the loop have taken; 0 if none run
}

// MostPerIP returns the largest number of connections from one address or IPv6 network; 0 without
// MaxConnsPerIP.
func (srv *Server) MostPerIP() int { return srv.perIP.Most() }

// Stats returns a snapshot. It takes a lock for each loop and reads no session.
func (srv *Server) Stats() Stats {
	st := Stats{
		Conns: srv.table.count(), Draining: srv.draining.Load(), Doors: srv.net.Stats(), Pool: srv.pool.Stats(),
		Memory: srv.budget.Used(), Starving: int(srv.starving.Load()),
		Broadcasts: srv.casts.Load(), Panics: srv.panics.Total(),
		Demoted: srv.demoted.Load(), AcceptErrs: srv.acceptErrors.Load(),
		Waiting: int(srv.waiting.Load()), Detached: srv.detaches.Load(), Resumed: srv.resumed.Load(), TakenOver: srv.takenOver.Load(),
		Shed: srv.shed.Load(), GoAways: srv.goAways.Load(), Stalls: srv.stalls.Stalls(),
		Closes: map[Reason]uint64{}, Refused: map[Refusal]uint64{}, Limited: map[Throttle]uint64{},
	}
	for r := ReasonPeerClosed; r < reasonCount; r++ {
		st.Closes[r] = srv.closes[r].Load()
	}
	st.Near, st.HooksLost = map[Limit]uint64{}, srv.hooksLost.Load()
	for l := range limitCount {
		st.Near[l] = srv.nearCount[l].Load()
	}
	for r := range refusalCount {
		st.Refused[r] = srv.refused[r].Load()
	}
	for i := range throttleCount {
		st.Limited[i] = srv.limited[i].Load()
	}
	srv.sum.addTo(&st)
	for _, l := range srv.allLoops() {
		ls := l.stats()
		l.sum.addTo(&st)
		st.Loops = append(st.Loops, ls)
		st.Accepts += ls.Accepts
		st.FramesIn += ls.FramesIn
		st.BytesIn += ls.BytesIn
		st.BytesOut += ls.BytesOut
	}
	return st
}

func (l *loop) stats() LoopStats {
	taken := l.st.taken.Load() // before marks, which is never less
	l.mu.Lock()
	dirty, late := int(l.marks-taken), l.late
	l.mu.Unlock()
	inTurn := time.Duration(0)
	if since := l.turn.since.Load(); since != 0 {
		inTurn = time.Duration(max(l.srv.now()-max(since, -since), 1))
	}
	c := &l.st
	return LoopStats{
		InTurn: inTurn,
		Conns:  int(c.conns.Load()), Dirty: dirty, Outbox: int(l.out.Queued.Load()),
		Accepts: c.accepts.Load(), FramesIn: c.framesIn.Load(), Inline: c.inline.Load(),
		BytesIn: c.bytesIn.Load(), BytesOut: c.bytesOut.Load(), Turns: c.turns.Load(), Drained: c.drained.Load(),
		Writes: c.writes.Load(), Blocked: c.blockedWrites.Load(), Pauses: c.pauses.Load(), HandOver: c.handedOver.Load(), Conflated: l.sum.conflated.Load(),
		Late: late,
	}
}
