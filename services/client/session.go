package client

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"millrace/codec"
)

// errLeft: the session accepts no more packets, and this one was not written.
var errLeft = errors.New("client: connection left")

// call is one Do.
type call struct {
	handle uint32
	seq    uint32
	pos    uint64 // the position of its packet in the session
	body   []byte
	err    error
	done   chan struct{} // closed when body and err are set
	over   bool          // guarded by session.mu; it is no longer in a queue
	left   time.Time     // guarded by session.mu; when its caller gave up; zero while it waits
}

// session is the context of calls. It lasts as long as its connection or, with resume, over several
// consecutive connections.
type session struct {
	c       *Client
	resume  *resume       // nil if it ends with its connection
	leaving atomic.Bool   // GOAWAY received: no new calls
	moving  atomic.Bool   // GOAWAY: new calls wait until another connection goes on with the session
	gone    chan struct{} // closed when it has ended
	begun   bool          // OnConnect has been started
	opened  chan struct{} // closed when OnConnect has returned
	ready   bool          // set before opened is closed; calls may use it

	mu     sync.Mutex
	stop   func() bool // stops watching the client's context; set once
	wake   *sync.Cond  // for the writer, and for callers waiting for room
	link   *link       // guarded by mu; its connection; nil while there is none
	out    []byte      // guarded by mu; frames to write; with resume only uncounted ones
	pushed uint64      // guarded by mu; number of user packets queued
	taken  uint64      // guarded by mu; number of those passed to a connection
	seq    uint32
	queues map[uint32][]*call   // guarded by mu; by handle, or by sequence number
	calls  int                  // guarded by mu; calls whose callers wait
	left   int                  // guarded by mu; calls whose callers have given up
	uses   map[uint32]use       // guarded by mu; the use of each handle
	late   map[uint32]time.Time // guarded by mu; for handles with abandoned calls, since when no call was answered
	broke  error                // guarded by mu; why its last connection has ended
	err    error                // guarded by mu; why it has ended
	to     string               // guarded by mu; the address of a GOAWAY
}

// use is the use of a handle in a session.
type use uint8

const (
	called use = 1 << iota
	sent
)

// newSession creates the session of a connection; r is nil without resume.
func newSession(l *link, r *resume) *session {
	s := &session{c: l.c, resume: r, link: l, gone: make(chan struct{}), opened: make(chan struct{}),
		queues: map[uint32][]*call{}, uses: map[uint32]use{}, late: map[uint32]time.Time{}}
	s.wake = sync.NewCond(&s.mu)
	if r != nil {
		r.ackTimer = time.AfterFunc(ackAfter, s.ackNow)
		r.ackTimer.Stop()
		r.expiry = time.AfterFunc(s.c.cfg.Resume, s.expire)
		r.expiry.Stop()
	}
	s.mu.Lock()
	defer s.mu.Unlock() // it may end at once
	s.stop = context.AfterFunc(s.c.ctx, func() { s.end(s.c.Err()) })
	return s
}

// end ends the session for good, and with it its connection and its calls: those never written may
// be retried on the next one.
func (s *session) end(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	l, queues, taken, stop := s.link, s.queues, s.taken, s.stop
	s.queues = nil
	for _, q := range queues {
		for _, k := range q {
			k.over = true
		}
	}
	close(s.gone)
	s.wake.Broadcast()
	s.mu.Unlock()
	stop()
	if r := s.resume; r != nil {
		r.ackTimer.Stop()
		r.expiry.Stop()
	}
	if l != nil {
		l.part(err)
	}
	for _, q := range queues {
		for _, k := range q {
			switch {
			case !k.left.IsZero():
			case k.pos > taken && !errors.Is(err, ErrClosed):
				s.finish(k, nil, errLeft)
			default:
				s.finish(k, nil, err)
			}
		}
	}
}

// ended returns why the session has ended, or nil.
func (s *session) ended() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// broken returns why the session's last connection has ended.
func (s *session) broken() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.broke
}

func (s *session) finish(k *call, body []byte, err error) {
	k.body, k.err = body, err
	close(k.done)
	<-s.c.slots
}

// full reports whether nothing more may be queued. s.mu is held.
func (s *session) full() bool {
	waits, r := len(s.out), s.resume
	if r != nil {
		waits += r.unsent()
	}
	return waits >= s.c.cfg.MaxUnsent || r != nil && len(r.buf) >= s.c.cfg.MaxUnacked
}

// send queues a packet for the writer; k, if any, waits for the answer.
func (s *session) send(ctx context.Context, handle uint32, body []byte, k *call) error {
	main, sub := codec.Split(handle)
	p := codec.Packet{Main: main, Sub: sub, Body: body}
	if err := s.c.codec.Check(p); err != nil {
		return err
	}
	if main == 0 && s.resume != nil {
		return fmt.Errorf("%w: %d/%d, with resume Main 0 is reserved for the client", codec.ErrBadHandle, main, sub)
	}
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.wake.Broadcast()
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	for (s.link == nil || s.full() || s.moving.Load()) && s.err == nil && !s.leaving.Load() && ctx.Err() == nil {
		s.wake.Wait()
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case s.err != nil || s.leaving.Load():
		return errLeft
	}
	key := handle
	if s.c.cfg.Layout.Seq {
		s.seq++
		for s.seq == 0 || len(s.queues[s.seq]) > 0 {
			s.seq++
		}
		p.Seq, key = s.seq, s.seq
	}
	if k != nil && !s.c.cfg.Layout.Seq && s.uses[handle]&sent != 0 {
		return ErrMixed
	}
	if err := s.push(p); err != nil {
		return err
	}
	if k == nil {
		s.uses[handle] |= sent
		return nil
	}
	s.uses[handle] |= called
	k.seq, k.pos = p.Seq, s.pushed
	s.queues[key] = append(s.queues[key], k)
	s.calls++
	return nil
}

// push queues a user's packet. s.mu is held.
func (s *session) push(p codec.Packet) (err error) {
	if s.resume != nil {
		err = s.resume.push(s.c.codec, p)
	} else {
		s.out, err = s.c.codec.Append(s.out, p)
	}
	if err == nil {
		s.pushed++
		s.wake.Broadcast()
	}
	return err
}

// control queues a frame of Main 0. s.mu is held.
func (s *session) control(p codec.Packet) {
	s.out, _ = s.c.codec.Append(s.out, p)
	s.wake.Broadcast()
}

// due reports whether there is something to write. s.mu is held.
func (s *session) due() bool {
	return len(s.out) > 0 || s.resume != nil && (s.resume.unsent() > 0 || s.resume.ackDue)
}

// take returns what is to be written: frames in an array that spare replaces, and frames of the
// ring. s.mu is held.
func (s *session) take(spare []byte) (b, kept []byte) {
	if r := s.resume; r != nil {
		if r.ackDue {
			s.control(codec.Packet{Sub: subAck, Body: s.c.codec.AppendCount(nil, r.received)})
			r.report()
		}
		kept = r.take()
	}
	b = s.out
	s.out = spare[:0]
	s.taken = s.pushed
	s.wake.Broadcast() // there may be room
	return b, kept
}

// goAway has the session end once nothing is under way; with resume its connection, so that
// the next one, where the server says, may go on with it.
func (s *session) goAway(to string) {
	s.mu.Lock()
	if to != "" {
		s.to = to
	}
	if s.resume != nil && !s.c.cfg.NoReconnect {
		s.moving.Store(true)
	} else {
		s.leaving.Store(true)
	}
	s.wake.Broadcast()
	s.mu.Unlock()
	s.leave()
}

// leave is called after a GOAWAY: once nothing is under way it ends the session or its
// connection.
func (s *session) leave() {
	s.mu.Lock()
	idle := s.calls == 0 && len(s.out) == 0 && (s.resume == nil || len(s.resume.buf) == 0)
	l := s.link
	s.mu.Unlock()
	switch {
	case !idle:
	case s.leaving.Load():
		s.end(s.lost(ErrGoAway))
	case l != nil:
		l.close(fmt.Errorf("%w: %w", ErrLost, ErrGoAway))
	}
}

// parts tells whether the session is to leave its connection.
func (s *session) parts() bool { return s.leaving.Load() || s.moving.Load() }

// lost returns the error for calls of a session that ends because of why.
func (s *session) lost(why error) error {
	if s.resume != nil {
		return fmt.Errorf("%w: %w: %w", ErrLost, ErrSession, why)
	}
	return fmt.Errorf("%w: %w", ErrLost, why)
}
