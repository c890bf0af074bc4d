package engine

import (
	"sync/atomic"

	"millrace/codec"
	"millrace/engine/internal/budget"
	"millrace/engine/internal/bufpool"
	"millrace/internal/tally"
)

// Broadcast sends one unsolicited packet to every session. The frame is encoded once and stored
// once for each loop, however slowly it is read, and several waiting broadcasts leave in one write
// for each session. Errors: ErrOutboxFull when a loop has MaxOutbox bytes waiting, and ErrMemory
// while MemoryBudget is exceeded (both are ErrBusy): then nothing was sent. In a callback use
// Session.Broadcast, which makes the session wait instead. Also ErrFrameTooLarge,
// codec.ErrBadHandle, and ErrClosed before Start and after Stop.
func (srv *Server) Broadcast(main, sub uint16, body []byte) error {
	return srv.broadcast(main, sub, body, true)
}

func (srv *Server) broadcast(main, sub uint16, body []byte, outside bool) error {
	p := codec.Packet{Main: main, Sub: sub, Body: body}
	c, whole := srv.framing.codec, p
	if !c.Fits(p) {
		var err error
		if c, p, err = srv.framing.fit(p); err != nil {
			return err
		}
	}
	if !srv.serving.Load() {
		return ErrClosed
	}
	if err := srv.mayCast(outside); err != nil {
		srv.sum.busy.Add(1)
		return err
	}
	b := bufpool.Get(c.Overhead() + len(p.Body))
	defer b.Free()
	b.B = c.AppendFields(b.B, p.Handle(), p.Seq, p.Body)
	for _, l := range srv.allLoops() {
		l.broadcast(b.B)
	}
	if srv.others.some.Load() {
		srv.others.broadcast(whole)
	}
	srv.casts.Add(1)
	return nil
}

// mayCast reports whether a broadcast or a group send is allowed: from outside of callbacks it is
// refused at MaxOutbox or above the memory budget, from callbacks, whose strands wait afterwards,
// at twice MaxOutbox.
func (srv *Server) mayCast(outside bool) error {
	limit := int64(srv.maxOutbox())
	if !outside {
		limit *= 2
	}
	switch {
	case outside && srv.budget.Level() != budget.Free && srv.budget.Used() > srv.budget.Limit():
		return ErrMemory
	case !srv.outboxBelow(limit):
		return ErrOutboxFull
	}
	return nil
}

// maxOutbox returns MaxOutbox, or the part of the memory budget that a loop may use for it.
func (srv *Server) maxOutbox() int { return min(srv.cfg.MaxOutbox, srv.cfg.MemoryBudget/8) }

// outboxBelow reports whether every loop has less than limit bytes waiting.
func (srv *Server) outboxBelow(limit int64) bool {
	for _, l := range srv.allLoops() {
		if l.out.Queued.Load() >= limit {
			return false
		}
	}
	return true
}

// Broadcast is Server.Broadcast for this session's callbacks: when the loops' outboxes are full,
// the strand waits for them before its next packet.
func (s *Session) Broadcast(main, sub uint16, body []byte) error {
	err := s.srv.broadcast(main, sub, body, false)
	s.waitForOutbox()
	return err
}

// SendGroup is Group.Send for this session's callbacks: when the loops' outboxes are
// full, the strand waits for them before its next packet.
func (s *Session) SendGroup(g *Group, main, sub uint16, body []byte) (sent int, err error) {
	sent, err = g.send(codec.Packet{Main: main, Sub: sub, Body: body}, nil, false)
	s.waitForOutbox()
	return sent, err
}

func (s *Session) waitForOutbox() {
	if !s.srv.outboxBelow(int64(s.srv.maxOutbox())) {
		s.out.WaitForLog()
	}
}

// flow is the list of strands that wait because their broadcasts met a full outbox.
type flow struct {
	srv     *Server
	waiting atomic.Int32
	mu      tally.Mutex
	list    []*Session // guarded by mu
}

// wait adds a parked session to the list, unless there is room again.
func (f *flow) wait(s *Session) {
	f.mu.Lock()
	f.list = append(f.list, s)
	f.waiting.Store(int32(len(f.list)))
	f.mu.Unlock()
	if f.srv.outboxBelow(int64(f.srv.maxOutbox())) {
		f.wake()
	}
}

func (f *flow) wake() {
	f.mu.Lock()
	list := f.list
	f.list = nil
	f.waiting.Store(0)
	f.mu.Unlock()
	for _, s := range list {
		s.out.ResumeFromLog()
		s.wakeStrand()
	}
}

// cutLog removes the part of the log that every session has passed. During a pass over the
// sessions, those behind the pass's end are the lagging ones.
func (l *loop) cutLog() {
	least, end, still := l.walked, l.walked, l.lagging[:0]
	if l.walking {
		end = l.walkEnd
	}
	for _, s := range l.lagging {
		if s.rd.life == lifeGone || !s.out.Behind(end) {
			s.rd.lagging = false
			continue
		}
		least = min(least, s.out.Pos())
		still = append(still, s)
	}
	clear(l.lagging[len(still):])
	l.lagging = still
	l.budget.Add(-l.out.Log.Cut(least))
}
