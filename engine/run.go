package engine

import (
	"millrace/codec"
	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/flight"
	"millrace/engine/internal/outbox"
	"millrace/engine/internal/strand"
)

// strandBudget is how many packets a strand may run before it is requeued.
const strandBudget = 64

// stepPackets is how many packets of a batch are one step for the pool's monitor, until it finds
// the batch long; from then on each packet is a step.
const stepPackets = 8

// strandTask is a session as seen by the pool.
type strandTask Session

// Run is a worker's turn with the session.
func (t *strandTask) Run() {
	s := (*Session)(t)
	s.in.Begin()
	s.step.Store(0)
	s.flags.clear(flagLong)
	s.handle.Store(0)
	s.turnBegins()
	s.out.Cork()
	clean := false
	defer func() {
		if !clean { // runtime.Goexit in a callback ends this goroutine, but the session must continue
			s.in.Leave(true)
			s.schedule()
		}
	}()
	s.runItems()
	clean = true
}

// runItems runs queued items until there are none, the budget is used up, or the strand has to
// wait. It has released the strand when it returns.
func (s *Session) runItems() {
	for budget := strandBudget; ; {
		if s.closed() {
			s.finish()
			return
		}
		if budget <= 0 {
			s.uncork()
			s.meter().end()
			s.in.Leave(true)
			s.schedule()
			return
		}
		if s.mustWait() {
			s.uncork()
			s.meter().park()
			if s.park() {
				return
			}
			s.turnBegins()
			s.out.Cork()
		}
		it := s.in.Next(s.loop.budget)
		if it == nil {
			s.uncork()
			s.meter().end()
			if s.in.Rest(s.closed) {
				return
			}
			s.turnBegins()
			s.out.Cork()
			continue
		}
		budget -= s.runItem(it, budget)
		s.step.Add(1)
	}
}

// mustWait tells whether the strand has to wait before its next item.
func (s *Session) mustWait() bool { return s.out.MustWait() || s.flags.has(flagStill) }

// park makes the strand wait until the outbox has drained. It returns false if that has happened
// meanwhile.
func (s *Session) park() bool {
	s.note(flight.Park, 0, 0)
	s.in.Park()
	s.loop.sum.parks.Add(1)
	if s.out.WaitsForLog() {
		s.srv.flow.wait(s)
	}
	if s.mustWait() && !s.closed() {
		return true
	}
	return !s.in.Unpark() // false if it was already woken
}

// runItem runs one item, or as much of it as budget allows, and returns how much it used.
func (s *Session) runItem(it *bufpool.Buf, budget int) int {
	if it.Tag != strand.Data {
		s.setHandle(0)
	}
	switch it.Tag {
	case strand.Data:
		return s.handleData(it, budget)
	case strand.Func:
		fn, waited := it.Fn, it.Off
		it.Free()
		if isNear(waited, s.srv.cfg.MaxTasks) {
			s.srv.near(LimitTasks, s, waited, s.srv.cfg.MaxTasks)
		}
		s.guard("Session.Submit", fn)
	case strand.Accept:
		it.Free()
		s.accept()
	case strand.Tell:
		fn := it.Fn
		it.Free()
		fn()
	case strand.Fin:
		it.Free()
		s.handleFin()
	case strand.Bad:
		text := string(it.B)
		it.Free()
		s.more().badText.Store(&text)
		s.noMoreInput()
	}
	return 1
}

func (s *Session) accept() {
	s.flags.set(flagOpened)
	h := s.srv.handler()
	s.guard("OnSocketAccept", func() { h.OnSocketAccept(s) })
}

// handleFin records that no more requests will arrive, and ends the session if no answers are
// pending.
func (s *Session) handleFin() {
	s.srv.groups.leaveAll(s)
	s.flags.set(flagFin)
	s.endContexts(false)
	if h, ok := s.srv.handler().(FinHandler); ok {
		s.guard("OnSocketFin", func() { h.OnSocketFin(s) })
	}
	s.noMoreInput()
}

// noMoreInput ends a session without pending answers; otherwise the last release does.
func (s *Session) noMoreInput() {
	s.flags.set(flagOver)
	if s.held.Load() == 0 {
		s.settle()
	}
}

// handleData runs the frames of one block. What remains after the budget, a wait or a close is put
// back at the head of the queue.
func (s *Session) handleData(it *bufpool.Buf, budget int) (used int) {
	defer func() { // also after runtime.Goexit
		if it.Off < len(it.B) {
			s.in.Return(it)
		} else {
			s.freeBlock(it)
		}
	}()
	return s.frames(it, budget)
}

func (s *Session) freeBlock(it *bufpool.Buf) {
	if s.in.Free(it, s.srv.cfg.MaxPending/2, s.loop.budget) {
		s.scheduleFlush() // the loop may resume reading
	}
}

// frames handles the frames of it, up to budget, and moves it.Off past them. It runs on workers. A
// panic closes the session.
func (s *Session) frames(it *bufpool.Buf, budget int) (used int) {
	var p codec.Packet
	ok := false
	defer func() {
		if !ok {
			s.panicked("OnSocketRead", p, recover())
		}
	}()
	c, h, learn, waits := s.framing.Load().codec, s.srv.handler(), s.srv.handles.learns, s.srv.waits
	for it.Off < len(it.B) && used < budget {
		if used > 0 {
			if s.closed() || s.out.MustWait() {
				break
			}
			if used%stepPackets == 0 || s.flags.has(flagLong) {
				s.step.Add(1)
			}
		}
		var size int
		p, size, _, _ = c.Decode(it.B[it.Off:])
		it.Off += size
		used++
		if it.Off < len(it.B) {
			s.flags.set(flagMore)
		} else {
			s.flags.clear(flagMore)
		}
		if handle := p.Handle(); handle != s.handle.Load() {
			s.setHandle(handle)
		}
		switch {
		case s.reserved(p):
			s.system(p, true)
		case it.Flag:
			s.refuseLate(p)
		case waits != nil && s.overdue(waits, p, it.At):
			s.refuseOverdue(p)
		case learn:
			s.srv.handles.measure(s, h, p)
		default:
			h.OnSocketRead(s, p)
		}
	}
	ok = true
	return used
}

// refuseLate answers a request that arrived too late in a drain.
func (s *Session) refuseLate(p codec.Packet) {
	_ = s.sendError(p, CodeDraining, "the server is going away", outbox.System) // it fails only if the session has closed
}

// finish is the end of the strand: accepted functions run, frames are dropped, and OnSocketClose is
// called.
func (s *Session) finish() {
	for {
		it := s.in.Next(s.loop.budget)
		if it == nil {
			break
		}
		switch it.Tag {
		case strand.Func, strand.Accept:
			s.runItem(it, 1)
		default:
			s.drop(it)
		}
	}
	h, why := s.srv.handler(), Reason(s.closing.Load())
	s.setHandle(0)
	if s.flags.has(flagOpened) {
		s.flags.clear(flagOpened) // it must not be called again after runtime.Goexit
		s.guard("OnSocketClose", func() { h.OnSocketClose(s, why) })
	}
	for it := s.in.Finish(); it != nil; { // items queued since the last check
		next := it.Next
		s.drop(it)
		it = next
	}
	s.meter().end()
	s.end()
}

// drop drops an item of a closed session. Functions are never dropped: Submit refuses them after
// the session closed, and finish runs earlier ones.
func (s *Session) drop(it *bufpool.Buf) {
	if it.Tag != strand.Data {
		it.Free()
		return
	}
	s.loop.sum.dropped.Add(uint64(countFrames(s.framing.Load().codec, it.Rest())))
	s.freeBlock(it)
}

func countFrames(c *codec.Codec, b []byte) (n int) {
	for len(b) > 0 {
		size, missing, err := c.Frame(b)
		if err != nil || missing > 0 {
			return n
		}
		b = b[size:]
		n++
	}
	return n
}

// guard runs a callback; a panic closes the session.
func (s *Session) guard(callback string, fn func()) {
	ok := false
	defer func() {
		if !ok {
			s.panicked(callback, codec.Packet{}, recover())
		}
	}()
	fn()
	ok = true
}

// panicked ends a session whose callback panicked.
func (s *Session) panicked(callback string, p codec.Packet, v any) {
	s.note(flight.Panic, p.Handle(), 0)
	s.srv.panics.Report(callback, s.id.String(), p.Handle(), v)
	s.closeWithError(p, CodeInternal, "internal error", ReasonPanic)
}

// Step returns the progress of the turn.
func (t *strandTask) Step() uint32 { return t.step.Load() }

// Long sends what a long-running callback has staged so far, and cancels the input context if the
// peer's FIN is next.
func (t *strandTask) Long() {
	s := (*Session)(t)
	s.flags.set(flagLong)
	s.flushBlocked()
	s.endInput(false)
}

// endInput cancels the input context while a callback runs, if the peer's FIN is next on the
// strand. fin: the FIN has been received; otherwise it is on the strand if it has.
func (s *Session) endInput(fin bool) {
	if s.flags.has(flagMore | flagFin) {
		return
	}
	s.in.Each(func(it *bufpool.Buf) bool {
		fin = it.Tag == strand.Fin || fin && it.Tag == strand.Func
		return it.Tag == strand.Func
	})
	if fin && s.flags.set(flagFin) {
		s.srv.groups.leaveAll(s)
		s.endContexts(false)
	}
}

// Running describes what the turn runs.
func (t *strandTask) Running() (session string, main, sub uint16) {
	main, sub = codec.Split(t.handle.Load())
	return t.id.String(), main, sub
}

// Submit runs fn in the session's order: after the packets read before it, and never concurrently
// with a callback. It never blocks: it returns ErrTasksFull, which is ErrBusy, when MaxTasks
// functions are waiting, and ErrClosed after the session has closed. An accepted function runs
// exactly once, before OnSocketClose. One that comes while another server takes the session over
// keeps it here: see Departure.Commit.
func (s *Session) Submit(fn func()) error { return s.submit(fn, flight.Task) }

func (s *Session) submit(fn func(), what flight.Kind) error {
	if s.srv.taps && !s.closed() {
		s.note(what, 0, 0)
	}
	switch s.in.Submit(fn, s.srv.cfg.MaxTasks, s.closed, s.loop.budget) {
	case strand.Gone:
		s.loop.sum.stale.Add(1)
		return ErrClosed
	case strand.Full:
		s.srv.near(LimitTasks, s, s.srv.cfg.MaxTasks, s.srv.cfg.MaxTasks)
		s.loop.sum.busy.Add(1)
		return ErrTasksFull
	case strand.Schedule:
		s.schedule()
	}
	return nil
}
