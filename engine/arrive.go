package engine

import (
	"context"
	"errors"
	"fmt"
	"time"

	"millrace/codec"
	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/flight"
	"millrace/engine/internal/strand"
)

// Arrival is a client that has come with the token of a session of another server. Its
// methods are called, in this order, by the goroutine that Elsewhere.TakeOver runs on: Open,
// Unmarshal, Begin, Take. When one fails, TakeOver returns.
type Arrival struct {
	k    *link
	h    codec.Hello
	seq  uint32
	ctx  context.Context
	ln   *line
	pos  uint64 // what was broadcast here before is not for the session
	took bool
}

// Context ends when the server stops.
func (a *Arrival) Context() context.Context { return a.ctx }

// Token is what the client has come with. It is a secret: it must not be logged.
func (a *Arrival) Token() codec.Token { return a.h.Token }

// Received is how many frames the client has had.
func (a *Arrival) Received() uint64 { return a.h.Received }

// Server is what it has come to.
func (a *Arrival) Server() *Server { return a.k.srv }

// arrive asks other servers for the session of a token; while they are asked, what comes is
// kept. The link's loop goroutine.
func (k *link) arrive(e Elsewhere, h codec.Hello, seq uint32, rest []byte) {
	k.state = linkJoining
	k.keep(rest)
	srv := k.srv
	srv.bg.Go(func() {
		ctx, cancel := context.WithCancel(context.Background())
		defer cancel()
		ended := make(chan struct{})
		defer close(ended)
		go func() {
			select {
			case <-srv.quit:
				cancel()
			case <-ended:
			}
		}()
		a := &Arrival{k: k, h: h, seq: seq, ctx: ctx}
		a.run(e)
		if !a.took {
			k.loop.onLoop(func(*loop) { a.missed() })
		}
	})
}

// run calls TakeOver. A panic in it is reported.
func (a *Arrival) run(e Elsewhere) {
	ok := false
	defer func() {
		if !ok {
			a.k.srv.panics.Report("Elsewhere.TakeOver", "", 0, recover())
		}
	}()
	e.TakeOver(a)
	ok = true
}

// Open makes the session, whose first connection was accepted at a time. It has a place among
// the server's, but nothing of it runs but Unmarshal, and nothing is written to its client,
// before Take. An error: there is no place for it.
func (a *Arrival) Open(accepted time.Time) (*Session, error) {
	err := a.onLoop(func() error {
		if a.k.state != linkJoining {
			return ErrClosed // the client has gone
		}
		ln := newLine(a.k)
		ln.embryo, ln.s.accepted = true, accepted.UnixNano()
		if no, ok := a.k.loop.open(ln.s, a.k.fd); !ok {
			return fmt.Errorf("%w: the server takes no session: code %d", ErrLimit, no.Code)
		}
		a.ln = ln
		return nil
	})
	if err != nil {
		return nil, err
	}
	return a.ln.s, nil
}

// onLoop runs fn on the loop, and waits for it: loops run what they were given until they end.
func (a *Arrival) onLoop(fn func() error) error {
	said := make(chan error, 1)
	a.k.loop.onLoop(func(*loop) { said <- fn() })
	select {
	case err := <-said:
		return err
	case <-a.k.srv.quit:
		return ErrClosed
	}
}

// Unmarshal has the handler take what it kept of the session where that comes from.
func (a *Arrival) Unmarshal(state []byte) error {
	s := a.ln.s
	h, ok := s.srv.handler().(Handoff)
	if !ok {
		return ErrNoHandoff
	}
	said := make(chan error, 1)
	a.run1(func() {
		s.flags.set(flagOpened)
		err := errors.New("engine: UnmarshalSession panicked")
		s.guard("UnmarshalSession", func() { err = h.UnmarshalSession(s, state) })
		s.flags.set(flagStill)
		said <- err
	})
	select {
	case err := <-said:
		return err
	case <-s.Context().Done():
	case <-a.k.srv.quit:
	}
	return ErrClosed
}

// run1 has the strand, which has not begun, run fn first.
func (a *Arrival) run1(fn func()) {
	s := a.ln.s
	it := bufpool.Empty(strand.Tell)
	it.Fn = fn
	a.ln.home.post(s, it)
	s.wakeStrand()
}

// Begin says that what is sent and broadcast to the session from now on is to follow what
// Take brings. It does not block.
func (a *Arrival) Begin() { a.pos = a.ln.home.out.Log.End() }

// Take has the session go on here for its client, or, if that has gone meanwhile, wait for it
// as any session does that can be resumed. An error: it does not, and is lost if it was cut
// where it comes from.
func (a *Arrival) Take(c Carried) error {
	if c.First != a.h.Received || !a.k.srv.onlyFrames(c.Frames) {
		return errors.New("engine: the frames of a session from elsewhere don't fit")
	}
	err := a.onLoop(func() error {
		s := a.ln.s
		if s.closed() || s.rd.life != lifeOpen {
			return ErrClosed
		}
		a.k.loop.adopt(a, c)
		return nil
	})
	a.took = err == nil
	return err
}

// adopt has a session that came from elsewhere go on. The link's and its home loop's
// goroutine.
func (l *loop) adopt(a *Arrival, c Carried) {
	ln, s, k := a.ln, a.ln.s, a.k
	now := l.srv.now()
	s.rd.heard, s.rd.last, s.rd.since = now, now, now
	ln.mu.Lock()
	ln.token, ln.embryo = a.h.Token, false
	ln.ring.Restore(c.First, c.Most)
	for b := c.Frames; len(b) > 0; {
		size := l.srv.wholeFrame(b)
		ln.ring.Append(b[:size], &l.recent)
		b = b[size:]
	}
	ln.received = c.Received
	ln.next, ln.unproven = l.srv.newToken(), true
	l.srv.tokens.Put(ln.token, ln)
	l.srv.tokens.Put(ln.next, ln)
	if ln.link != nil {
		ln.welcome(true, a.seq)
	}
	ln.mu.Unlock()
	l.srv.takenOver.Add(1)
	s.note(flight.Back, 0, 0)
	s.out.Skip(a.pos)
	s.flags.clear(flagStill)
	s.wakeStrand()
	s.canWrite()
	ln.keep()
	if k.state != linkJoining {
		l.linkEnded(ln, k, false)
		return
	}
	k.line = ln
	k.joined(ln)
}

// attach has a session go on with this connection, or begins a new one. The link's loop
// goroutine.
func (k *link) attach(ln *line, h codec.Hello, seq uint32) {
	ln.home.with(ln.s, k.loop, func() {
		if !ln.attach(k, h, seq) {
			k.loop.run(ln.home, func() { k.strange(seq) })
			return
		}
		k.loop.run(ln.home, func() { k.joined(ln) })
	})
}

// missed gives the client a new session, unless the one that it wants has come meanwhile, for
// another of its connections. The link's loop goroutine.
func (a *Arrival) missed() {
	if ln := a.ln; ln != nil {
		ln.mu.Lock()
		ln.link, ln.cur = nil, nil
		ln.mu.Unlock()
		ln.s.flags.clear(flagStill)
		a.k.loop.abort(ln.s, ReasonMoved)
		ln.s.wakeStrand()
	}
	if ln, ok := a.k.srv.tokens.Find(a.h.Token); ok && a.k.state == linkJoining {
		a.k.attach(ln, a.h, a.seq)
		return
	}
	a.k.strange(a.seq)
}
