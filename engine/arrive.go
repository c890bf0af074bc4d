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

// Arrival is a client that has sent the token of a session of another server. Its methods are called
// on the goroutine that runs OtherServers.TakeOver, in this order: Open, Unmarshal, Begin, Take. After
// an error of one of them TakeOver must return.
type Arrival struct {
	k    *link
	h    codec.Hello
	seq  uint32
	ctx  context.Context
	ln   *line
	pos  uint64 // position in the home loop's log: earlier broadcasts are not for the session
	took bool
}

// Context returns a context that ends when the server stops.
func (a *Arrival) Context() context.Context { return a.ctx }

// Token returns the client's token. It is a secret and must not be logged.
func (a *Arrival) Token() codec.Token { return a.h.Token }

// Received returns how many frames the client says that it has received.
func (a *Arrival) Received() uint64 { return a.h.Received }

// Server returns the server that the client has connected to.
func (a *Arrival) Server() *Server { return a.k.srv }

// arrive asks other servers for the session of a token. Meanwhile the client's input is kept. Called
// on the link's loop goroutine.
func (k *link) arrive(e OtherServers, h codec.Hello, seq uint32, rest []byte) {
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
func (a *Arrival) run(e OtherServers) {
	ok := false
	defer func() {
		if !ok {
			a.k.srv.panics.Report("OtherServers.TakeOver", "", 0, recover())
		}
	}()
	e.TakeOver(a)
	ok = true
}

// Open makes the session; accepted is when its first connection was accepted. It has a slot, but
// before Take no callback of it runs except UnmarshalSession, and nothing is written to its client.
// Errors: ErrLimit, if the server accepts no more sessions; ErrClosed, if the client has gone or the
// server stops.
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

// onLoop runs fn on the link's loop and waits for it, or returns ErrClosed when the server stops; fn
// may then still run later.
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

// Unmarshal calls the handler's UnmarshalSession with the state from the other server, on a worker,
// and waits for it. It returns its error; ErrNoHandoff; or ErrClosed if the session closes or the
// server stops meanwhile. The handler owns state.
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

// run1 makes fn the first thing that the strand runs.
func (a *Arrival) run1(fn func()) {
	s := a.ln.s
	it := bufpool.Empty(strand.Tell)
	it.Fn = fn
	a.ln.home.post(s, it)
	s.wakeStrand()
}

// Begin marks a point in time: what is sent and broadcast to the session after it follows the frames
// that Take brings; earlier broadcasts are not sent to it. It does not block.
func (a *Arrival) Begin() { a.pos = a.ln.home.out.Log.End() }

// Take makes the session continue here for its client, or wait for the client if it has
// disconnected meanwhile, as any session that can be resumed. After an error the session does not
// continue here; if Commit has succeeded on the other server, it is lost.
func (a *Arrival) Take(c Transfer) error {
	if c.First != a.h.Received || !a.k.srv.onlyFrames(c.Frames) {
		return errors.New("engine: the frames of a session from another server are incomplete, or do not follow what its client has received")
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

// adopt makes a session that came from another server continue. Called on the goroutine of the link's
// loop, which is the session's home.
func (l *loop) adopt(a *Arrival, c Transfer) {
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

// attach makes a session continue with this connection. If that is not possible it begins a new one, or
// calls moves if the session has been given to another server. Called on the link's loop goroutine, as
// moves is.
func (k *link) attach(ln *line, h codec.Hello, seq uint32, moves func()) {
	ln.home.with(ln.s, k.loop, func() {
		then := func() { k.strange(seq) }
		switch {
		case ln.attach(k, h, seq):
			then = func() { k.joined(ln) }
		case ln.depart.cut():
			then = moves
		}
		k.loop.run(ln.home, then)
	})
}

// follow is called when the session is moving to another server, which is asked for it.
func (k *link) follow(h codec.Hello, seq uint32) {
	if e := k.srv.otherServers(); e != nil && k.state == linkJoining && e.Lives(h.Token) {
		k.arrive(e, h, seq, nil)
		return
	}
	k.strange(seq)
}

// missed is called when TakeOver has failed. The client gets a new session, unless the requested one
// has come to this server meanwhile, through another of its connections. Called on the link's loop
// goroutine.
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
		a.k.attach(ln, a.h, a.seq, func() { a.k.strange(a.seq) })
		return
	}
	a.k.strange(a.seq)
}
