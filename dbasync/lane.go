package dbasync

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// lane is one shared connection. Its keeper goroutine (run) connects, then reads as long as the
// connection lives; a second goroutine (write) sends. The reader waits neither for the writer nor
// for a submitter, so that the server can always send its answers.
type lane struct {
	db    *DB
	index int
	pid   atomic.Uint32
	up    atomic.Bool

	// guarded by queue.mu
	cond      sync.Cond
	open      bool // connected and not broken
	waiting   bool // the writer sleeps
	woken     bool // it has been woken and has not taken work yet
	lent      bool // a caller writes in place of the writer
	inflight  int  // queries sent and not answered
	bytes     int  // size of these
	lastBurst int
	maxBurst  int  // halved by an error, increased by 8 by each burst without one
	rollback  bool // the next burst begins with a rollback
	undoing   bool // a rollback is in flight
	bare      bool // the next burst prepares the lane's own statements again
	probe     bool // a suspect shape is being measured on its own

	mu      sync.Mutex
	fifo    fifo        // guarded by mu
	conn    net.Conn    // guarded by mu; nil while down
	turn    sync.Cond   // behind PgBouncer: signalled when syncs is 0, or broken; with mu
	syncs   int         // sent and not answered; guarded by mu
	broken  bool        // the connection is unusable; guarded by mu
	stalled atomic.Bool // watch closed conn
	paused  atomic.Bool // the reader waits for room for results

	ans   answers // used by the reader only
	burst burst   // used by the writer only, or by the caller it is lent to

	told  bool         // the observer was notified that it is down; used by the keeper only
	chain bool         // the server knows COMMIT AND CHAIN; fixed per connection
	heard atomic.Int64 // DB's clock: when the server last sent something, or an answer was first expected
}

// wake makes the writer look for work. Caller holds queue.mu.
func (l *lane) wake() {
	if l.waiting && !l.woken && l.gateOpen() {
		l.woken = true
		l.cond.Signal()
	}
}

// gateOpen reports whether to send: when at most half of the last burst is unanswered. Sending at
// once instead would make bursts of one or two queries, with a system call on each side for each.
// Caller holds queue.mu.
func (l *lane) gateOpen() bool {
	return l.open && !l.lent && !l.probe && l.inflight <= l.lastBurst/2 && !l.db.rows.over()
}

// run is the lane's keeper goroutine.
func (l *lane) run(ctx context.Context) {
	pause := newBackoff(l.db.cfg.MinBackoff, l.db.cfg.MaxBackoff)
	for ctx.Err() == nil {
		conn, err := l.db.connect(ctx, l.index)
		if err != nil {
			l.down(err)
			if errors.Is(err, ErrRefused) {
				l.db.refuse(err)
			}
			l.db.stats.connectFailures.Add(1)
			pause.wait(ctx)
			continue
		}
		began := time.Now()
		err = l.serve(ctx, conn)
		if ctx.Err() != nil {
			err = ctx.Err() // closed by Stop: nothing to report
		}
		l.down(err)
		if time.Since(began) > l.db.cfg.MaxBackoff {
			pause.reset()
		}
		if ctx.Err() == nil {
			pause.wait(ctx)
		}
	}
}

// down notifies the observer once per outage.
func (l *lane) down(err error) {
	l.db.laneDown(err)
	if l.told || errors.Is(err, context.Canceled) {
		return
	}
	l.told = true
	l.db.cfg.Logger.Debug("dbasync: lane down", "lane", l.index, "err", err)
	l.db.events.post(event{conn: Conn{l}, err: err})
}

// serve uses one connection until it breaks or ctx ends.
func (l *lane) serve(ctx context.Context, conn laneConn) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	l.begin(conn)
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		l.write(conn.Conn)
	}()
	err := l.read(ctx, conn.Conn)
	l.setClosed()
	conn.Close()
	wg.Wait()
	l.lost(err)
	return err
}

func (l *lane) begin(conn laneConn) {
	l.told = false
	l.chain = conn.chain && !l.db.cfg.Strict
	l.stalled.Store(false)
	l.mu.Lock()
	l.conn = conn.Conn
	l.syncs, l.broken = 0, false
	l.mu.Unlock()
	l.pid.Store(conn.pid)
	q := &l.db.q
	q.lock()
	l.bare = false
	l.open, l.waiting, l.woken, l.lent, l.rollback, l.undoing, l.probe = true, false, false, false, false, false, false
	l.inflight, l.bytes, l.lastBurst, l.maxBurst = 0, 0, 0, l.db.cfg.MaxBurst
	q.adopt(l)
	q.unlock()
	l.up.Store(true)
	l.db.stats.connects.Add(1)
	l.db.cfg.Logger.Debug("dbasync: lane up", "lane", l.index, "pid", conn.pid)
	l.db.laneUp()
	l.db.events.post(event{conn: Conn{l}})
}

func (l *lane) setClosed() {
	l.mu.Lock()
	l.broken = true
	l.turn.Broadcast()
	l.mu.Unlock()
	l.up.Store(false)
	l.pid.Store(0)
	q := &l.db.q
	q.lock()
	l.open = false
	l.cond.Broadcast()
	q.unlock()
}

// lost settles what was in flight when the connection broke. Neither of the lane's goroutines uses
// it any more. A *fatalError of the server itself proves that it had read nothing beyond the first
// unanswered query; without that proof all of them may have run.
func (l *lane) lost(err error) {
	l.mu.Lock()
	l.conn = nil
	rest := l.fifo.takeAll()
	l.mu.Unlock()
	l.db.shapes.laneGone(l.index)
	again, ended, shapes := l.sortLost(rest, l.sureFrom(len(rest), err))
	cause := fmt.Errorf("%w: %w", ErrConnLost, err)
	// This happens before the parts are released: a later query of the same key must not end first.
	for _, r := range ended {
		r.end(MayHaveRun, cause)
	}
	q := &l.db.q
	q.lock()
	for _, e := range rest {
		if e.req != nil && e.req.part != nil {
			e.req.part.inflight--
		}
	}
	if l.probe {
		l.probe, q.probing = false, false
	}
	q.disown(l)
	for _, s := range shapes {
		s.asked = false
		q.want(s)
	}
	l.db.stats.skipped.Add(uint64(len(again)))
	dead := q.back(again)
	q.wakeOne()
	q.unlock()
	for _, r := range ended {
		r.release()
	}
	for _, r := range dead {
		r.end(NotRun, ErrClosed)
		r.release()
	}
}

// sureFrom returns the index from which on err proves that the n unanswered entries have not run.
func (l *lane) sureFrom(n int, err error) int {
	var fatal *fatalError
	switch {
	case !errors.As(err, &fatal) || !inOrder(fatal.pg):
		return n
	case whileIdle(fatal.pg) && l.ans.phase == phQuery && !l.ans.bound:
		return 0
	}
	return 1
}

// sortLost separates the requests that did not run, or may run again, from those that may have run.
func (l *lane) sortLost(rest []entry, sure int) (again, ended []*request, shapes []*shape) {
	put := func(r *request, certain bool) {
		if !certain && r.stmt.Retry && r.tries < maxTries {
			r.tries++
			certain = true
			r.unsure.Store(true)
		}
		if certain {
			again = append(again, r)
		} else {
			ended = append(ended, r)
		}
	}
	for _, h := range l.ans.held {
		put(h.req, false)
	}
	l.ans.held, l.ans.nHeld = nil, 0
	for i, e := range rest {
		switch {
		case e.kind == kDescribe:
			shapes = append(shapes, e.shape)
		case e.req != nil:
			put(e.req, e.unsent || i >= sure)
		}
	}
	return again, ended, shapes
}

// adopt gives l the parts that no lane serves, and its own back. Caller holds mu.
func (q *queue) adopt(l *lane) {
	for i := range q.parts {
		p := &q.parts[i]
		if p.inflight == 0 && (p.home == l.index || !q.lanes[p.owner].open) {
			p.owner = l.index
		}
	}
}

// disown gives the parts of a lane that went down to one that is up. Nothing of l's is in flight
// any more. Caller holds mu.
func (q *queue) disown(l *lane) {
	var to *lane
	for _, o := range q.lanes {
		if o.open && (to == nil || o.inflight < to.inflight) {
			to = o
		}
	}
	if to == nil {
		return
	}
	for i := range q.parts {
		if p := &q.parts[i]; p.owner == l.index {
			p.owner = to.index
			to.wake()
		}
	}
}

// closeNow closes conn without TLS's close_notify, whose write may block for 5 s.
func closeNow(conn net.Conn) {
	if t, ok := conn.(*tls.Conn); ok {
		conn = t.NetConn()
	}
	conn.Close()
}

// laneConn is what connect returns to a lane.
type laneConn struct {
	net.Conn
	pid   uint32
	chain bool
}

// Conn is one of the DB's shared connections, as passed to the observer.
type Conn struct{ l *lane }

// Index returns the number of the connection, from 0 to Config.Lanes-1; a reconnection doesn't
// change it.
func (c Conn) Index() int { return c.l.index }

// Connected reports whether it is connected now.
func (c Conn) Connected() bool { return c.l.up.Load() }

// PID returns the process ID of its server process, 0 while it is down.
func (c Conn) PID() uint32 { return c.l.pid.Load() }

// watch runs on the DB's sweeper: it appends every query in flight whose timeout has expired to
// out, with a reference, and closes a connection that has been silent for too long.
func (l *lane) watch(now time.Duration, out []*request) []*request {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := &l.fifo
	for i := f.head; i != f.tail; i++ {
		if r := f.at(i).req; r != nil && r.deadline <= now && r.state.Load() != stDone {
			r.refs.Add(1)
			out = append(out, r)
		}
	}
	if f.head != f.tail && l.conn != nil && !l.paused.Load() && now-time.Duration(l.heard.Load()) > l.db.cfg.StallTimeout {
		l.stalled.Store(true)
		closeNow(l.conn)
	}
	return out
}
