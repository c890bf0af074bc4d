package engine

import (
	"sync"
	"sync/atomic"

	"millrace/codec"
)

// strandBudget is how many packets a strand may run before it goes to the run queue's end.
const strandBudget = 64

// stepPackets is how many packets of a batch are one step for the monitor.
const stepPackets = 8

// strand is the queue of what is to happen to one session, and who runs it.
//
// Invariant: at most one goroutine is in stateRunning at a time; the strand is on the
// pool's run queue exactly while it is in stateQueued.
type strand struct {
	mu         sync.Mutex
	head, tail *buf          // guarded by mu
	next       *Session      // the run queue's link; guarded by the pool's mu
	pending    int           // guarded by mu; bytes of frames that wait
	tasks      int32         // guarded by mu; functions that wait
	state      uint8         // guarded by mu
	step       atomic.Uint32 // how far this batch is: of packets every eighth counts, of other items each
	more       atomic.Bool   // the block being handled has frames behind the one that runs
	opened     bool          // OnSocketAccept has been called; whoever runs the strand
	fin        bool          // guarded by mu; the FIN has been handled
	early      bool          // guarded by mu; OnSocketFinEarly was due
	paused     bool          // guarded by mu; the loop waits for pending to halve
}

const (
	stateIdle = iota
	stateQueued
	stateRunning
	stateParked // waits for the outbox; on no queue and no worker
	stateDone   // OnSocketClose has returned
)

func (t *strand) pendingBytes() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pending
}

// quiet tells whether nothing waits and nothing runs.
func (t *strand) quiet() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.head == nil && (t.state == stateIdle || t.state == stateDone)
}

// finished tells whether the peer's FIN has been handled.
func (t *strand) finished() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.fin
}

// put appends an item. mu is held. It tells whether the session must be pushed.
func (t *strand) put(it *buf) (push bool) {
	if t.tail == nil {
		t.head = it
	} else {
		t.tail.next = it
	}
	t.tail = it
	if t.state == stateIdle {
		t.state = stateQueued
		return true
	}
	return false
}

func (t *strand) take() *buf {
	it := t.head
	t.head = it.next
	if t.head == nil {
		t.tail = nil
	}
	it.next = nil
	return it
}

// post appends an item that the engine itself makes: frames, accept, FIN. Loop goroutine.
func (s *Session) post(it *buf) {
	s.in.mu.Lock()
	if s.in.state == stateDone {
		s.in.mu.Unlock()
		s.drop(it, false)
		return
	}
	if it.kind == itemData {
		it.late = s.srv.refusing.Load()
		s.in.pending += len(it.b)
		s.srv.buffered.Add(int64(len(it.b)))
	}
	push := s.in.put(it)
	s.in.mu.Unlock()
	if push {
		s.srv.pool.push(s)
	}
}

// Submit runs fn in the session's order: after the packets read before it, never at
// the same time as a callback. It never blocks: ErrBusy when MaxTasks functions wait,
// ErrClosed once the session has closed. A function that was accepted runs exactly once,
// before OnSocketClose.
func (s *Session) Submit(fn func()) error {
	s.in.mu.Lock()
	if s.in.state == stateDone || s.closing.Load() != 0 {
		s.in.mu.Unlock()
		s.srv.stale.Add(1)
		return ErrClosed
	}
	if int(s.in.tasks) >= s.srv.cfg.MaxTasks {
		s.in.mu.Unlock()
		s.srv.busy.Add(1)
		return ErrBusy
	}
	it := getItem(itemFunc)
	it.fn = fn
	s.in.tasks++
	push := s.in.put(it)
	s.in.mu.Unlock()
	if push {
		s.srv.pool.push(s)
	}
	return nil
}

// wake makes the strand look at its session's state again: after a close, or when the
// outbox that it was parked for has drained.
func (t *strand) wake(s *Session) {
	t.mu.Lock()
	push := t.state == stateParked || (t.state == stateIdle && s.closing.Load() != 0)
	if push {
		t.state = stateQueued
	}
	t.mu.Unlock()
	if push {
		s.srv.pool.push(s)
	}
}

// enter takes an idle strand for the loop to run inline.
func (t *strand) enter() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.state != stateIdle || t.head != nil {
		return false
	}
	t.state = stateRunning
	return true
}

// leave gives up what enter took.
func (s *Session) leave() {
	s.in.mu.Lock()
	push := s.in.head != nil || s.closing.Load() != 0
	s.in.state = stateIdle
	if push {
		s.in.state = stateQueued
	}
	s.in.mu.Unlock()
	if push {
		s.srv.pool.push(s)
	}
}

// run is a worker's turn with the session.
func (s *Session) run() {
	s.in.mu.Lock()
	s.in.state = stateRunning
	s.in.mu.Unlock()
	s.in.step.Store(0)
	s.out.cork()
	clean := false
	defer func() {
		if !clean { // runtime.Goexit in a callback: this goroutine ends, the session must not hang
			s.in.mu.Lock()
			s.in.state = stateQueued
			s.in.mu.Unlock()
			s.srv.pool.push(s)
		}
	}()
	budget := strandBudget
	for {
		if s.closing.Load() != 0 {
			s.finish()
			break
		}
		if budget <= 0 {
			s.uncork()
			s.in.mu.Lock()
			s.in.state = stateQueued
			s.in.mu.Unlock()
			s.srv.pool.push(s)
			break
		}
		if s.mustPark() {
			s.uncork()
			if s.park() {
				break
			}
			s.out.cork()
		}
		it := s.nextItem()
		if it == nil {
			s.uncork()
			if s.rest() {
				break
			}
			s.out.cork()
			continue
		}
		budget -= s.handle(it, budget)
		s.in.step.Add(1)
	}
	clean = true
}

// nextItem takes the item at the head.
func (s *Session) nextItem() *buf {
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	if s.in.head == nil {
		return nil
	}
	return s.in.take()
}

// rest goes idle if nothing has come meanwhile.
func (s *Session) rest() bool {
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	if s.in.head != nil || s.closing.Load() != 0 {
		return false
	}
	s.in.state = stateIdle
	return true
}

// park leaves the strand to whoever drains the outbox it waits for. False: it has
// drained meanwhile.
func (s *Session) park() bool {
	s.in.mu.Lock()
	s.in.state = stateParked
	s.in.mu.Unlock()
	s.srv.parks.Add(1)
	if s.out.waits.Load() {
		s.srv.flow.wait(s)
	}
	if s.mustPark() && s.closing.Load() == 0 {
		return true
	}
	s.in.mu.Lock()
	defer s.in.mu.Unlock()
	if s.in.state != stateParked {
		return true // somebody woke it already
	}
	s.in.state = stateRunning
	return false
}

// mustPark tells whether the strand has to wait for an outbox before its next packet.
func (s *Session) mustPark() bool { return s.out.full.Load() || s.out.waits.Load() }

// handle runs one item, or as much of it as budget allows, and returns what it used.
func (s *Session) handle(it *buf, budget int) int {
	switch it.kind {
	case itemData:
		return s.handleData(it, budget)
	case itemFunc:
		s.in.mu.Lock()
		s.in.tasks--
		s.in.mu.Unlock()
		fn := it.fn
		it.free()
		s.guard("Session.Submit", fn)
	case itemAccept:
		it.free()
		s.accept()
	case itemFin:
		it.free()
		s.handleFin()
	case itemBad:
		text := string(it.b)
		it.free()
		s.expel(codec.Packet{}, CodeBadFrame, text, ReasonBadFrame)
	}
	return 1
}

func (s *Session) accept() {
	s.in.opened = true
	h := s.srv.handler()
	s.guard("OnSocketAccept", func() { h.OnSocketAccept(s) })
}

// handleFin says that no more requests will come, and ends the session if nothing is owed.
func (s *Session) handleFin() {
	s.srv.groups.leaveAll(s)
	if h, ok := s.srv.handler().(FinHandler); ok {
		s.guard("OnSocketFin", func() { h.OnSocketFin(s) })
	}
	s.in.mu.Lock()
	s.in.fin = true
	s.in.mu.Unlock()
	if s.held.Load() == 0 {
		s.settle()
	}
}

// lookForFin ends what ends at the peer's FIN if that is what comes next for a strand
// whose worker has been in a callback for long. The monitor calls it.
func (s *Session) lookForFin() {
	t := &s.in
	t.mu.Lock()
	due := !t.early && t.state == stateRunning && !t.more.Load() && t.finNext()
	t.early = t.early || due
	t.mu.Unlock()
	if !due {
		return
	}
	s.srv.groups.leaveAll(s)
	if h, ok := s.srv.handler().(EarlyFinHandler); ok {
		// a full pool refuses: then OnSocketFin does it all
		_ = s.srv.pool.Submit(func() { s.guard("OnSocketFinEarly", func() { h.OnSocketFinEarly(s) }) })
	}
}

// finNext tells whether no packet waits in front of the FIN. mu is held.
func (t *strand) finNext() bool {
	it := t.head
	for it != nil && it.kind == itemFunc {
		it = it.next
	}
	return it != nil && it.kind == itemFin
}

// settle closes a session whose peer has sent its FIN and is owed nothing more.
func (s *Session) settle() { s.beginClose(ReasonPeerClosed) }

// finish is the strand's end: what was accepted runs, frames are dropped, and
// OnSocketClose is called.
func (s *Session) finish() {
	for {
		it := s.nextItem()
		if it == nil {
			break
		}
		switch it.kind {
		case itemFunc, itemAccept:
			s.handle(it, 1)
		default:
			s.drop(it, true)
		}
	}
	h, why := s.srv.handler(), Reason(s.closing.Load())
	if s.in.opened {
		s.in.opened = false // a runtime.Goexit in it must not bring it about again
		s.guard("OnSocketClose", func() { h.OnSocketClose(s, why) })
	}
	s.in.mu.Lock()
	late := s.in.head // accepted between the last look and now
	if late != nil {
		s.in.head, s.in.tail = nil, nil
	}
	s.in.state = stateDone
	s.in.mu.Unlock()
	for it := late; it != nil; {
		next := it.next
		s.drop(it, true)
		it = next
	}
	s.end()
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
	s.srv.panics.report(callback, s.id, p.Handle(), v)
	s.expel(p, CodeInternal, "internal error", ReasonPanic)
}
