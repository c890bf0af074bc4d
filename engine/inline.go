package engine

import (
	"errors"
	"time"

	"millrace/codec"
	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/flight"
	"millrace/engine/internal/netio"
	"millrace/engine/internal/outbox"
	"millrace/engine/internal/sched"
)

const (
	// An inline turn reads the clock after this many packets, and ends when it has taken this long:
	// the rest of the input goes to the workers.
	inlinePackets = 64
	inlineMost    = 200 * time.Microsecond

	// standInAfter is how long an inline turn may take before another goroutine takes over the work
	// of its loop. So any callback may wait for any other session.
	standInAfter = 20 * time.Millisecond
)

func (t *inlineTurn) begin(s *Session, now int64) {
	if t.s.Load() != s {
		t.s.Store(s)
	}
	t.since.Store(now)
}

// beginTurn begins an inline turn, and wakes the goroutine that watches it.
func (l *loop) beginTurn(s *Session, now int64) {
	l.turn.begin(s, now)
	if !l.srv.watching.Load() {
		select {
		case l.srv.watch <- struct{}{}:
		default:
		}
	}
}

// end waits until the loop's work has been returned, if it was handed over.
func (t *inlineTurn) end() {
	if since := t.since.Load(); since >= 0 && t.since.CompareAndSwap(since, 0) {
		return
	}
	t.mu.Lock()
	giveBack := t.giveBack
	t.giveBack = nil
	t.mu.Unlock()
	if giveBack != nil {
		giveBack()
	}
	t.away = false
	t.since.Store(0)
}

// handOver hands the loop's work to another goroutine, if its turn that began at since has not
// ended.
func (l *loop) handOver(since int64) bool {
	t := &l.turn
	t.mu.Lock()
	defer t.mu.Unlock()
	if since <= 0 || !t.since.CompareAndSwap(since, -since) {
		return false
	}
	s := t.s.Load()
	t.away = true
	giveBack, ok := l.io.StandIn(s.socket(), l.conns)
	if !ok {
		t.away = false
		t.since.Store(since)
		return false
	}
	t.giveBack = giveBack
	l.st.handedOver.Add(1)
	s.flushBlocked()
	l.srv.handles.demote(s.handle.Load(), standInAfter)
	return true
}

// conns iterates over the loop's connections.
func (l *loop) conns(yield func(netio.Conn) bool) {
	for _, s := range l.sessions {
		if c := s.socket(); c != nil && !yield(c) {
			return
		}
	}
	for _, k := range l.links {
		if !yield(k.c) {
			return
		}
	}
}

// socket returns the session's connection on its own loop, nil if there is none.
func (s *Session) socket() netio.Conn {
	if s.line() == nil {
		return bare(s.conn)
	}
	if k := s.line().cur; k != nil && k.loop == s.loop {
		return k.c
	}
	return nil
}

// died is called on a loop's goroutine when a callback ends it with runtime.Goexit: another
// goroutine takes over the loop's work for good.
func (l *loop) died(s *Session) {
	l.turn.mu.Lock()
	l.turn.dead = true
	l.turn.mu.Unlock()
	if since := l.turn.since.Load(); since > 0 && !l.handOver(since) && l.turn.since.Load() > 0 {
		l.srv.fail(errLoopEnded)
	}
	s.in.Leave(true)
	s.schedule()
}

// mayInline reports whether packets of the session may run on the loop now; if so, it acquires the
// strand.
func (l *loop) mayInline(s *Session) bool {
	return !l.turn.away && !l.reserve && l.srv.handles.some(l.mode) && !s.out.MustWait() && s.in.Enter()
}

// inline runs the complete frames at the start of b on the loop, as far as they may run there, on
// the strand acquired by mayInline. It returns the number of bytes processed and releases the
// strand.
func (l *loop) inline(s *Session, b []byte) int {
	now := l.srv.now()
	s.out.Lend(&l.out)
	it := &l.view
	it.B, it.Off, it.Flag = b, 0, l.srv.late(s, now)
	l.beginTurn(s, now)
	s.meter().begin(now)
	used := s.framesInline(it, now)
	l.turn.end()
	done := it.Off
	it.B = nil
	if used > 0 {
		l.saw(s, used, now)
		l.st.inline.Add(uint64(used))
		if l.srv.handles.timed {
			l.timeTurn(s, b[:done], used, now)
		}
	}
	l.endInline(s)
	return done
}

// timeTurn evaluates the time of an inline turn that began at began, of some frames, those in b.
func (l *loop) timeTurn(s *Session, b []byte, frames int, began int64) {
	now := l.srv.now()
	if l.srv.handles.learns {
		l.srv.handles.judge(s.framing.Load().codec, b, frames, time.Duration(now-began))
	}
	if t := s.tap(); t != nil {
		t.ring.Sum(now, flight.Inline, s.handle.Load(), uint32(min((now-began)/1000, maxUint32)), frames)
		l.noted = now
	}
}

// endInline writes what an inline turn has staged and releases the strand, in this order:
// afterwards a worker may acquire the strand and cork the outbox.
func (l *loop) endInline(s *Session) {
	l.flush(s, outbox.LookInline)
	s.meter().end()
	l.noted = 0
	if s.in.Leave(s.closed()) {
		s.schedule()
	}
	if l.out.Lent == nil {
		l.out.Lent = bufpool.Get(l.srv.cfg.ReadBuffer)
	}
}

// framesInline is frames on the loop goroutine: it stops before a packet that must run on a worker,
// when no complete frame is left, and when it has taken long.
func (s *Session) framesInline(it *bufpool.Buf, began int64) (used int) {
	c, h := s.framing.Load().codec, s.srv.handler()
	off, last, ok := it.Off, 0, false // last: start of the frame whose callback is running
	defer func() {
		if !ok {
			v := recover()
			var p codec.Packet
			if used > 0 { // otherwise a Framer panicked
				p, _, _, _ = c.Decode(it.B[last:])
			}
			s.panicked("OnSocketRead", p, v)
			if v == nil {
				s.loop.died(s)
			}
		}
	}()
	// This loop uses few variables, and a separate if for each condition, so that they stay in
	// registers.
	known := ^uint32(0) // the handle last looked up, which may run inline
	for {
		p, size, _, err := c.Decode(it.B[off:])
		if size == 0 || err != nil {
			break
		}
		reserved := s.reserved(p)
		if handle := p.Handle(); handle != known && !reserved {
			if !s.srv.handles.table.Inline(handle, s.loop.mode) {
				break
			}
			known = handle
			if s.handle.Load() != handle {
				s.handle.Store(handle)
			}
			s.meter().turnTo(handle)
		}
		last = off
		off += size
		it.Off = off
		used++
		if off < len(it.B) { // a partial frame counts too: checking would cost more than it gains
			s.flags.set(flagMore)
		} else {
			s.flags.clear(flagMore)
		}
		switch {
		case reserved:
			s.system(p, false)
		case it.Flag:
			s.refuseLate(p)
		default:
			h.OnSocketRead(s, p)
		}
		if off == len(it.B) {
			break
		}
		if s.closed() {
			break
		}
		if s.out.MustWait() {
			break
		}
		if s.loop.turn.since.Load() < 0 {
			break
		}
		if used%inlinePackets == 0 && s.srv.now()-began > int64(inlineMost) {
			break
		}
	}
	ok = true
	return used
}

// watchLoops runs on a goroutine and watches inline turns. It sleeps while there are none.
func (srv *Server) watchLoops() {
	defer srv.bg.Done()
	const every = standInAfter / 2
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	quietLooks := 0
	for {
		if quietLooks > 10 {
			srv.watching.Store(false)
			quietLooks = 0
			select {
			case <-srv.quit:
				return
			case <-srv.watch:
				srv.watching.Store(true)
			}
		}
		timer.Reset(every)
		began := time.Now()
		select {
		case <-srv.quit:
			return
		case <-timer.C:
		}
		late := min(time.Since(began)-every, 5*standInAfter) // do not blame handlers for a suspended machine
		quietLooks++
		if srv.lookAtLoops(late) {
			quietLooks = 0
		}
	}
}

// lookAtLoops checks running turns, and reports whether there are any. late is how late the check
// is.
func (srv *Server) lookAtLoops(late time.Duration) (some bool) {
	for _, l := range srv.allLoops() {
		if since := l.turn.since.Load(); since != 0 {
			some = true
			l.watchTurn(since, srv.now(), late)
		}
	}
	return some
}

// watchTurn checks a turn that began at since, or -since if its loop's work has been handed over.
func (l *loop) watchTurn(since, now int64, late time.Duration) {
	began := max(since, -since)
	if since > 0 && now-began > int64(standInAfter+late) {
		l.handOver(since)
	}
	if w := l.srv.stalls; w != nil && now-began > int64(w.After()) && l.turn.reported != began {
		l.turn.reported = began
		s := l.turn.s.Load()
		still := func() bool { is := l.turn.since.Load(); return is == began || is == -began }
		if !still() {
			return
		}
		session, main, sub := (*strandTask)(s).Running()
		s.stalls(time.Duration(now - began))
		w.Report(sched.Suspect{
			Where: "loop", Session: session, Main: main, Sub: sub, Goroutine: l.goroutine.Load(),
			Since: time.Now().Add(-time.Duration(now - began)),
			Still: still, Told: s.stalled,
		})
	}
}

var errLoopEnded = errors.New("engine: a callback has ended a loop's goroutine (runtime.Goexit)")
