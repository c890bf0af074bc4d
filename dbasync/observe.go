package dbasync

import (
	"context"
	"sync"
)

// Observer is notified of the shared connections' state and of every completion. OnDBConnect runs
// on the DB's pool. OnQueryEnd runs on the goroutine of the query's own callback, right after it,
// so on several goroutines concurrently.
type Observer interface {
	// OnDBConnect: c is connected (err nil), or was lost or could not be connected (err says why;
	// once per outage). Calls come one at a time, in order.
	OnDBConnect(c Conn, err error)
	// OnQueryEnd is called once for every accepted query.
	OnQueryEnd(QueryResult)
}

type event struct {
	conn Conn
	err  error

	notice Notice // for OnNotice, if it has a message; conn and err are not set then
	ctx    context.Context
}

// maxEvents limits the connection events that wait for the pool. The oldest are dropped first.
const maxEvents = 1024

// events passes connection events to the observer one at a time, in order.
type events struct {
	db *DB

	mu      sync.Mutex
	queue   []event // guarded by mu
	notices int     // among them; guarded by mu
	running bool    // a task that empties queue is in the pool; guarded by mu
}

func (e *events) post(ev event) {
	e.mu.Lock()
	switch {
	case ev.notice.Notice != nil && e.notices >= maxNotices:
		e.mu.Unlock()
		e.db.stats.eventsLost.Add(1)
		return
	case len(e.queue) >= maxEvents:
		e.pop()
		e.db.stats.eventsLost.Add(1)
	}
	if ev.notice.Notice != nil {
		e.notices++
	}
	e.queue = append(e.queue, ev)
	e.mu.Unlock()
	e.start()
}

// pop removes the oldest. Caller holds mu.
func (e *events) pop() event {
	ev := e.queue[0]
	e.queue[0] = event{}
	e.queue = e.queue[1:]
	if ev.notice.Notice != nil {
		e.notices--
	}
	return ev
}

// start submits the task unless it is submitted already. The sweeper calls it again after a
// refusal.
func (e *events) start() {
	e.mu.Lock()
	if e.running || len(e.queue) == 0 {
		e.mu.Unlock()
		return
	}
	e.running = true
	e.mu.Unlock()
	if e.db.pool.Submit(e.run) != nil {
		e.mu.Lock()
		e.running = false
		e.mu.Unlock()
	}
}

// run empties the queue; it runs on the pool.
func (e *events) run() {
	for {
		e.mu.Lock()
		if len(e.queue) == 0 {
			e.running = false
			e.mu.Unlock()
			return
		}
		ev := e.pop()
		e.mu.Unlock()
		e.tell(ev)
	}
}

// tell calls the observer. A panic continues to the pool, but the next event is still processed.
func (e *events) tell(ev event) {
	finished := false
	defer func() {
		if !finished {
			e.mu.Lock()
			e.running = false
			e.mu.Unlock()
		}
	}()
	if ev.notice.Notice != nil {
		e.db.cfg.OnNotice(ev.ctx, ev.notice)
	} else if obs := e.db.observer.Load(); obs != nil {
		(*obs).OnDBConnect(ev.conn, ev.err)
	}
	finished = true
}
