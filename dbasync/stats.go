package dbasync

import "sync/atomic"

// counters only grow. accepted is without what came through inboxes.
type counters struct {
	accepted, refused, bursts, skipped, slow, learned atomic.Uint64
	connects, connectFailures                         atomic.Uint64
	submitterFull, stale, dropped, eventsLost         atomic.Uint64
	notifications, notificationsLost                  atomic.Uint64
	txRetries, slowRefused, pauses                    atomic.Uint64
	ended                                             [4]atomic.Uint64
}

// Stats is a snapshot; its fields are read one after another, so they may differ by what happened
// in between.
type Stats struct {
	Accepted, Refused uint64 // queries
	Ended             map[Outcome]uint64
	Outstanding       int64 // accepted, completion not begun
	OutstandingBytes  int64 // arguments and rows of those
	UndeliveredBytes  int64 // rows of finished ones, completion not begun
	LanesPaused       int   // not read, because too many rows wait
	Pauses            uint64
	Queued            int   // not in flight
	InFlight          int   // on the lanes
	Undelivered       int64 // finished, but the submitter was full
	Bursts            uint64
	Skipped           uint64 // skipped by the server and put back in the queue
	Slow              uint64 // run on the slow connections
	Learned           uint64 // statements moved off the lanes
	Shapes            int    // statements known
	LanesUp           int
	Connects          uint64
	ConnectFailures   uint64
	SubmitterFull     uint64 // refusals by full submitters
	Stale             uint64 // completions whose submitter was closed
	ResultsDropped    uint64 // rows dropped while a submitter was full
	EventsLost        uint64 // events dropped because the pool was too slow
	Notifications     uint64
	NotificationsLost uint64
	TxRetries         uint64 // transactions run again after 40001 or 40P01
	SlowQueued        int    // waiting for an ordinary connection
	SlowRunning       int    // using one
	SlowSubmitters    int    // submitters with such work
	SlowRefused       uint64 // refused because a submitter had reached MaxSlowQueue
}

// Stats returns the current gauges and the counts since New.
func (db *DB) Stats() Stats {
	c := &db.stats
	s := Stats{
		Accepted: c.accepted.Load(), Refused: c.refused.Load(), Ended: make(map[Outcome]uint64),
		UndeliveredBytes: db.rows.count(), Pauses: c.pauses.Load(), Undelivered: db.late.waiting.Load(),
		Bursts: c.bursts.Load(), Skipped: c.skipped.Load(), Slow: c.slow.Load(), Learned: c.learned.Load(),
		Shapes: db.shapes.len(), Connects: c.connects.Load(), ConnectFailures: c.connectFailures.Load(),
		SubmitterFull: c.submitterFull.Load(), Stale: c.stale.Load(), ResultsDropped: c.dropped.Load(),
		EventsLost: c.eventsLost.Load(), Notifications: c.notifications.Load(), NotificationsLost: c.notificationsLost.Load(),
		TxRetries: c.txRetries.Load(), SlowRefused: c.slowRefused.Load(),
	}
	s.Outstanding, s.OutstandingBytes = db.quota.used()
	s.OutstandingBytes += s.UndeliveredBytes
	for o := range c.ended {
		s.Ended[Outcome(o)] = c.ended[o].Load()
	}
	q := &db.q
	for i := range q.inboxes {
		s.Accepted += q.inboxes[i].came()
	}
	q.lock()
	defer q.unlock()
	q.collect()
	for _, t := range []*turns{&q.slow, &q.jobs} {
		s.SlowQueued += t.n
		s.SlowSubmitters += len(t.shares)
		for _, share := range t.shares {
			s.SlowRunning += share.running
		}
	}
	s.Queued = q.shared.n + q.parked.n + s.SlowQueued
	for _, l := range q.keyedLists() {
		s.Queued += l.n
	}
	for _, l := range q.lanes {
		s.InFlight += l.inflight
		if l.open {
			s.LanesUp++
		}
		if l.paused.Load() {
			s.LanesPaused++
		}
	}
	return s
}
