package dbasync

import "sync"

// Observer is told of the shared connections and of every completion. Its methods
// run on the DB's pool; OnQueryEnd runs where the query's own callback ran, right
// after it, so on different goroutines at once.
type Observer interface {
	// OnDBConnect: c is connected (err nil) or has been lost or could not be
	// made (err says why; once per outage). Calls come one at a time, in order.
	OnDBConnect(c Conn, err error)
	// OnQueryEnd: every accepted query, once.
	OnQueryEnd(QueryResult)
}

type event struct {
	conn Conn
	err  error
}

// maxEvents bounds the connection events that wait for the pool. The oldest go first.
const maxEvents = 1024

// events hands connection events to the observer one at a time, in order.
type events struct {
	db *DB

	mu      sync.Mutex
	queue   []event // guarded by mu
	running bool    // a task that empties queue is in the pool; guarded by mu
}

func (e *events) post(ev event) {
	e.mu.Lock()
	if len(e.queue) >= maxEvents {
		e.queue = e.queue[1:]
		e.db.stats.eventsLost.Add(1)
	}
	e.queue = append(e.queue, ev)
	e.mu.Unlock()
	e.start()
}

// start submits the task unless it is there. The sweeper calls it again after a
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
		ev := e.queue[0]
		e.queue = e.queue[1:]
		e.mu.Unlock()
		e.tell(ev)
	}
}

// tell passes a panic of the observer on, but lets the next event come.
func (e *events) tell(ev event) {
	finished := false
	defer func() {
		if !finished {
			e.mu.Lock()
			e.running = false
			e.mu.Unlock()
		}
	}()
	if obs := e.db.observer.Load(); obs != nil {
		(*obs).OnDBConnect(ev.conn, ev.err)
	}
	finished = true
}
