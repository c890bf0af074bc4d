package engine

import (
	"errors"
	"syscall"
	"time"

	"millrace/engine/internal/outbox"
)

// flush writes what a session has to send, until nothing is left or the kernel accepts no more: in
// one write, unless there is very much. Loop goroutine.
func (l *loop) flush(s *Session, why outbox.Look) { l.flushOnce(s, why, true) }

// flushOnce implements flush. retry: a peer that has left too much unread gets one more attempt.
func (l *loop) flushOnce(s *Session, why outbox.Look, retry bool) {
	o, sh := &s.out, &l.out
	if s.rd.life == lifeGone {
		l.sum.lostBytes.Add(uint64(o.Drop(sh)))
		return
	}
	closed, unfinished := o.Begin(sh, why)
	wrote := false
	for {
		b := o.Next(sh)
		if len(b) == 0 {
			if unfinished && o.Again(sh) {
				unfinished = false
				continue
			}
			break
		}
		n, err := l.write(s, b)
		wrote = wrote || n > 0
		o.Wrote(sh, n, n == len(b))
		if err != nil {
			l.broken(s)
			return
		}
		if n < len(b) {
			l.st.blockedWrites.Add(1)
			if err := s.conn.NotifyWritable(uint64(s.id)); err != nil {
				l.broken(s)
				return
			}
			o.Loosen(s.shown())
		}
	}
	switch {
	case !o.Blocked():
		if s.rd.progress != 0 {
			s.rd.progress, s.unacked = 0, 0
		}
	case wrote || s.rd.progress == 0:
		s.rd.progress = markOf(l.srv.now())
	}
	if wrote {
		l.st.drained.Add(1)
	}
	l.relieve(s, retry)
	if closed && s.rd.life != lifeGone && o.Done() {
		l.allSent(s)
	}
}

// write gives bytes to the kernel. After EPIPE it drops them: the peer has closed, and what it sent
// before that, up to its FIN, is still read and handled. After its reset, which it sends instead if it
// has left answers unread, nothing is.
func (l *loop) write(s *Session, p []byte) (int, error) {
	if s.rd.deaf {
		l.sum.lostBytes.Add(uint64(len(p)))
		return len(p), nil
	}
	l.st.writes.Add(1) // before the write, so that a receiver of the bytes finds them counted
	if s.rd.wrote == 0 {
		s.rd.wrote = markOf(l.sweepNow)
	}
	n, err := s.conn.Write(p)
	s.bytesOut.Add(uint64(n))
	l.st.bytesOut.Add(uint64(n))
	if errors.Is(err, syscall.EPIPE) {
		s.rd.deaf = true
		l.sum.lostBytes.Add(uint64(len(p) - n))
		return len(p), nil
	}
	return n, err
}

// relieve applies the outbound limits after a flush.
func (l *loop) relieve(s *Session, retry bool) {
	o, kept := &s.out, 0
	if ln := s.line(); ln != nil {
		kept = l.relieveLine(s)
	}
	if o.Blocked() {
		if l.slow(s) {
			if retry { // the socket may be writable again with the notification pending
				o.Unblock()
				l.flushOnce(s, outbox.LookWalk, false)
				return
			}
			l.cut(s, ReasonSlowConsumer)
			return
		}
	}
	if o.Relieve(&l.out, kept) {
		s.wakeStrand()
	}
	if s.rd.life == lifeOpen && (s.rd.paused != 0 || o.Full()) {
		l.review(s)
	}
}

// slowAfter is how long a peer that does not read may leave more than MaxOutbound unread.
const slowAfter = time.Second

// slow reports whether a blocked session has left too much unsolicited data unread. Broadcasts are
// stored only once and can grow by more than MaxOutbound between two checks of a session: a peer
// that reads may be behind by up to MaxOutbox of them. So may one that only waits for its peer's
// acknowledgements, which have a timeout: otherwise a burst of pushes would end a session whose
// peer reads as fast as it can.
func (l *loop) slow(s *Session) bool {
	limit, patience := l.srv.cfg.MaxOutbound, slowAfter
	pushed, lag := s.out.Lagging(&l.out)
	if n := max(s.out.Size(), pushed+lag); isNear(n, limit) {
		l.srv.near(LimitOutbound, s, n, limit)
	}
	if ln := s.line(); ln != nil && ln.awaits() {
		lag, pushed, patience = lag+pushed, 0, ackTime+slowAfter
	}
	return pushed >= limit || pushed+lag >= limit &&
		(pushed+lag >= max(l.out.MaxQueued, 2*limit) || l.srv.spent() || s.rd.progress.past(l.srv.now(), patience))
}

// allSent ends the sending side of a closing session when everything has been sent.
func (l *loop) allSent(s *Session) {
	switch s.rd.life {
	case lifeOpen:
		if s.line() != nil && s.line().cur == nil {
			l.detach(s) // without a connection no FIN can be sent
			return
		}
		s.sayWhy()
		s.conn.CloseWrite()
		s.rd.life = lifeLinger
		s.rd.since = l.srv.now()
		s.rd.excess = 0
		l.unpause(s)
	case lifeFin:
		if s.line() == nil || s.line().drained() {
			l.detach(s)
		}
	}
}
