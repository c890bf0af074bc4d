package engine

import (
	"sync/atomic"

	"millrace/codec"
	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/outbox"
	"millrace/internal/tally"
)

// others are the sessions whose framing is not the server's, or may change. They do not use the
// loops' broadcast logs: each gets a reference to a frame in its own framing.
type others struct {
	srv  *Server
	some atomic.Bool // there has been such a session

	mu  tally.Mutex
	all map[*Session]*membership // guarded by mu
}

// addOther adds a new session. Loop goroutine.
func (l *loop) addOther(s *Session) {
	s.out.LeaveLog()
	if s.framing.Load().switches {
		s.rd.input = inputSteps
	}
	o := &l.srv.others
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.all == nil {
		o.all = map[*Session]*membership{}
	}
	o.all[s] = &membership{s: s}
	o.some.Store(true)
}

// drop removes a closed session.
func (o *others) drop(s *Session) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.all, s)
}

// broadcast sends p to all of them.
func (o *others) broadcast(p codec.Packet) {
	o.mu.Lock()
	defer o.mu.Unlock()
	list := make([]*membership, 0, len(o.all))
	for _, m := range o.all {
		list = append(list, m)
	}
	o.sendLocked(p, list, outbox.Key{})
}

// send sends p to some of them, and returns the number of sessions.
func (o *others) send(p codec.Packet, list []*membership, key outbox.Key) (sent int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.sendLocked(p, list, key)
}

// sendLocked keeps the lock, so that no framing changes between encoding and staging: each session
// gets p before or after the change, in the matching framing.
func (o *others) sendLocked(p codec.Packet, list []*membership, key outbox.Key) (sent int) {
	frames := map[*framing]*bufpool.Buf{}
	for _, m := range list {
		f := m.s.framing.Load()
		frame, ok := frames[f]
		if !ok {
			frame = o.encode(f, p)
			frames[f] = frame
		}
		if frame != nil && m.send(frame, outbox.ReferCost+len(frame.B)/len(list), key) {
			sent++
		}
	}
	for _, frame := range frames {
		if frame != nil {
			if held, last := frame.Release(); last {
				o.srv.budget.Add(-held)
			}
		}
	}
	return sent
}

// encode returns a frame to be shared; nil if the framing can't represent p.
func (o *others) encode(f *framing, p codec.Packet) *bufpool.Buf {
	c := f.codec
	if !c.Fits(p) {
		var err error
		if c, p, err = f.fit(p); err != nil {
			return nil
		}
	}
	frame := bufpool.Get(c.Overhead() + len(p.Body))
	frame.Share()
	o.srv.budget.Add(frame.Held())
	frame.B = c.AppendFields(frame.B, p.Handle(), p.Seq, p.Body)
	return frame
}
