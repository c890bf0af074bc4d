package dbasync

import (
	"context"
	"errors"
	"net"
	"time"
)

// read runs on the lane's keeper goroutine until the connection breaks.
func (l *lane) read(ctx context.Context, conn net.Conn) error {
	a := &l.ans
	*a = answers{index: l.index, shapes: l.db.shapes,
		limits:    limits{l.db.cfg.MaxResultRows, l.db.cfg.MaxResultBytes},
		slowAfter: l.db.cfg.SlowAfter, calm: l.db.cfg.StatementTimeout}
	if l.db.cfg.OnNotice != nil {
		a.onNotice = l.db.notice
	}
	var x wire
	l.heard.Store(int64(l.db.now()))
	for {
		if l.db.rows.over() {
			l.pause(ctx)
		}
		n, err := conn.Read(x.space())
		if n > 0 {
			now := l.db.now()
			a.now = now
			gap := now - time.Duration(l.heard.Swap(int64(now)))
			l.mu.Lock()
			a.view = l.fifo
			l.mu.Unlock()
			a.pos = a.view.head
			broken := x.feed(n, a)
			l.settle(now, gap)
			if broken != nil {
				return broken
			}
		}
		if err != nil {
			return l.whyLost(err)
		}
	}
}

// pause waits for room for results. The server's silence in that time is not counted, since it is
// not read.
func (l *lane) pause(ctx context.Context) {
	l.db.stats.pauses.Add(1)
	l.paused.Store(true)
	l.db.rows.wait(ctx)
	l.ans.resumed = l.db.now()
	l.heard.Store(int64(l.ans.resumed))
	l.paused.Store(false)
}

// errStalled: watch closed the connection.
var errStalled = errors.New("dbasync: the server was silent for too long")

func (l *lane) whyLost(err error) error {
	if l.stalled.Load() {
		return errStalled
	}
	return err
}

// settle returns what the answers have finished to the queue, lets the writer continue, and then
// delivers. gap is how long the server was silent before.
func (l *lane) settle(now, gap time.Duration) {
	a := &l.ans
	l.mu.Lock()
	if a.phase == phAgain {
		// The request is about to be queued elsewhere; only its Sync remains here.
		l.fifo.buf[a.pos&uint64(len(l.fifo.buf)-1)] = entry{kind: kSync}
		a.phase = phQuery
	}
	l.fifo.popTo(a.pos)
	l.syncs -= a.syncs
	l.turn.Signal()
	l.mu.Unlock()
	l.learn(gap)

	q := &l.db.q
	q.lock()
	l.account()
	for _, s := range a.replan {
		if s.shape.desc.CompareAndSwap(s.desc, nil) {
			l.db.shapes.changed(s.shape)
			s.shape.last = s.desc
			q.want(s.shape)
		}
	}
	if a.bare {
		l.bare = true
		l.db.shapes.laneGone(l.index)
	}
	for _, s := range a.redescribe {
		s.asked = false
		q.want(s)
	}
	dead := q.back(a.again)
	for _, s := range a.described {
		s.asked = false
		l.db.described(s)
	}
	q.collect()
	if (q.workFor(l) || l.rollback) && l.gateOpen() {
		l.wake()
	}
	q.unlock()

	for _, f := range a.failed {
		l.db.undescribable(f.shape, f.err)
	}
	for _, r := range dead {
		r.end(NotRun, ErrClosed)
		r.release()
	}
	l.db.deliverAll(a.fin, now)
	for _, r := range a.gone {
		r.release()
	}
	a.reset()
}

// account updates the lane's counts for what was answered. Caller holds queue.mu.
func (l *lane) account() {
	a := &l.ans
	for _, rs := range [2][]*request{a.gone, a.again} {
		for _, r := range rs {
			l.inflight--
			l.bytes -= len(r.msg)
			if r.part != nil {
				r.part.inflight--
			}
		}
	}
	l.db.stats.skipped.Add(uint64(len(a.again)))
	if l.probe && len(a.gone)+len(a.again) > 0 {
		l.probe, l.db.q.probing = false, false
	}
	if a.rolledBack {
		l.undoing = false
	}
	if a.synced {
		l.rollback = a.aborted && !l.undoing
	}
	for range a.errors {
		l.maxBurst = max(minBurst, l.maxBurst/2)
	}
	if a.errors == 0 && l.maxBurst < l.db.cfg.MaxBurst {
		l.maxBurst = min(l.db.cfg.MaxBurst, l.maxBurst+8*a.clean)
	}
}

// minBurst: errors make bursts no smaller, or chains would never form again.
const minBurst = 4

// learn moves slow shapes to the slow connections: at once if the statement ran alone; otherwise
// each candidate is first measured alone.
func (l *lane) learn(gap time.Duration) {
	a := &l.ans
	for _, s := range a.slow {
		l.db.slow.learn(s)
	}
	limit := l.db.cfg.SlowAfter
	if limit < 0 || len(a.gone) == 0 {
		return
	}
	alone := len(a.gone)+len(a.again) == 1
	for _, r := range a.gone {
		switch {
		case gap < limit:
			if alone && r.shape.suspect.Load() {
				r.shape.suspect.Store(false)
			}
		case alone:
			l.db.slow.learn(r.shape)
		default:
			r.shape.suspect.Store(true)
		}
	}
}

func (a *answers) reset() {
	clear(a.fin)
	clear(a.gone)
	clear(a.again)
	a.fin, a.gone, a.again = a.fin[:0], a.gone[:0], a.again[:0]
	a.described, a.replan, a.redescribe, a.failed, a.slow = nil, nil, nil, nil, nil
	a.errors, a.clean, a.syncs, a.synced, a.rolledBack, a.bare = 0, 0, 0, false, false, false
}
