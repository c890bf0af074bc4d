package engine

import "time"

// Stats is a snapshot of a server. Counters only grow.
type Stats struct {
	Conns    int // sessions that have a slot
	Draining bool
	Doors    DoorStats
	Loops    []LoopStats
	Pool     PoolStats

	Memory   int // held by sessions and broadcasts, in bytes, against MemoryBudget
	Starving int // sessions not read from because of MemoryBudget

	Accepts    uint64
	AcceptErrs uint64 // accept failed, for want of files or memory; the connection waited
	FramesIn   uint64
	BytesIn    uint64
	BytesOut   uint64
	Broadcasts uint64
	Errors     uint64 // ERROR frames sent
	Panics     uint64 // callbacks that panicked
	Busy       uint64 // ErrBusy returned
	Stale      uint64 // sends and submits to sessions that had gone
	Parks      uint64 // strands that waited for an outbox
	Dropped    uint64 // frames read and not handled, as their session had closed
	LostBytes  uint64 // bytes accepted by Send that never left
	Conflated  uint64 // keyed pushes that never left, as a newer one took their place
	Demoted    uint64 // handles moved from the loops to the workers
	Shed       uint64 // sessions closed for MemoryBudget, among Closes
	Waiting    int    // sessions whose peers are away and may come back
	Detached   uint64 // connections that broke of sessions that could be resumed
	Resumed    uint64 // sessions whose peers came back
	GoAways    uint64 // sessions told that the server drains
	Stalls     uint64 // callbacks on loops that took longer than StallAfter; the Pool counts those on workers

	HooksLost uint64 // calls of OnFlight and OnNearMiss left out, as too many waited

	Closes  map[Reason]uint64   // closed sessions
	Refused map[Refusal]uint64  // refused connections
	Limited map[Throttle]uint64 // what held sessions up, or refused their requests
	Near    map[Limit]uint64    // near misses
}

// LoopStats is one loop's part.
type LoopStats struct {
	Conns     int
	Dirty     int // sessions waiting to be written
	Outbox    int // bytes of broadcasts and group sends waiting
	Accepts   uint64
	FramesIn  uint64
	Inline    uint64 // of them handled on the loop
	BytesIn   uint64
	BytesOut  uint64
	Turns     uint64 // drains
	Drained   uint64 // sessions with something to write, over all drains
	Writes    uint64 // write system calls
	Blocked   uint64 // writes that the kernel did not take whole
	Pauses    uint64 // times reading of a session was paused
	Conflated uint64 // keyed pushes whose place a newer one took
	HandOver  uint64 // times another goroutine took over because a callback held the loop up

	Late   time.Duration // its clocks have not been looked at for so long, though it was asked to; 0 or a tick of it is normal
	InTurn time.Duration // how long the callbacks have lasted that hold the loop now; 0: none do
}

// Stats returns a snapshot. It costs a lock for each loop and nothing per session.
func (srv *Server) Stats() Stats {
	st := Stats{
		Conns: srv.table.count(), Draining: srv.draining.Load(), Doors: srv.net.Stats(), Pool: srv.pool.Stats(),
		Memory: srv.budget.Used(), Starving: int(srv.starving.Load()),
		Broadcasts: srv.casts.Load(), Panics: srv.panics.Total(),
		Demoted: srv.demoted.Load(), AcceptErrs: srv.acceptErrors.Load(),
		Waiting: int(srv.waiting.Load()), Detached: srv.detaches.Load(), Resumed: srv.resumed.Load(),
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
	taken := l.st.taken.Load() // before marks, which is never behind it
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
