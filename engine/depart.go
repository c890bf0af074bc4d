package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"millrace/codec"
	"millrace/engine/internal/bufpool"
	"millrace/engine/internal/outbox"
	"millrace/engine/internal/strand"
)

// Departure is a session on its way to another server. It stands still, and takes what is
// sent to it, until either Cut says that it goes or Cancel that it stays.
type Departure struct {
	Carried
	Session *Session

	ln    *line
	state atomic.Uint32 // a departing…; who changes it from departingOpen decides
	most  int
	upTo  uint64     // the number behind the last of Frames; home loop only, then constant
	said  chan error // what the strand says of MarshalSession

	once sync.Once
	wake bool          // the loop is to be told of the cut
	done chan struct{} // closed when rest and whole are set
	rest []byte
	ok   bool // rest is all
}

const (
	departingOpen = iota
	departingCut
	departingBack
)

// errAgain: something of the session was under way after all.
var errAgain = errors.New("engine: not settled")

// Depart has the session that the token of that sum finds stand still, for another server to
// take it over, whose client has had received frames. It waits until nothing of the session is
// under way: requests read are answered, also those whose answers come later (Session.Hold).
// Its connection, if there is one, ends. An error leaves the session here: the five above,
// MarshalSession's, or ErrClosed. most bounds what it takes along, in bytes.
func (srv *Server) Depart(ctx context.Context, sum TokenSum, received uint64, most int) (*Departure, error) {
	token, ln, ok := srv.tokens.FindSum(sum)
	if !ok {
		return nil, ErrUnknownToken
	}
	if _, ok := srv.handler().(Handoff); !ok {
		return nil, ErrNoHandoff
	}
	d := &Departure{Session: ln.s, ln: ln, most: most, said: make(chan error, 1), done: make(chan struct{})}
	err := d.onHome(ctx, func() error { return ln.home.depart(d, token, received) })
	for wait := time.Millisecond; err == nil; wait = min(2*wait, 20*time.Millisecond) {
		if err = d.hold(ctx); err == nil {
			return d, nil
		}
		if errors.Is(err, errAgain) {
			err = nil
			t := time.NewTimer(wait)
			select {
			case <-t.C:
			case <-ctx.Done():
				err = fmt.Errorf("%w: %w", ErrUnsettled, ctx.Err())
			case <-srv.quit:
				err = ErrClosed
			}
			t.Stop()
		}
	}
	d.Cancel()
	return nil, err
}

// onHome runs fn on the session's loop, and waits for it.
func (d *Departure) onHome(ctx context.Context, fn func() error) error {
	said := make(chan error, 1)
	d.ln.home.with(d.ln.s, nil, func() { said <- fn() })
	select {
	case err := <-said:
		return err
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnsettled, ctx.Err())
	case <-d.ln.srv.quit:
		return ErrClosed
	}
}

// depart begins to give a session away: as attach, but that the next connection is another
// server's. Home loop's goroutine.
func (l *loop) depart(d *Departure, token codec.Token, received uint64) error {
	ln, s := d.ln, d.ln.s
	now, ok := l.srv.tokens.Find(token)
	switch {
	case d.state.Load() != departingOpen:
		return ErrUnsettled // it took too long to get here
	case ln.depart != nil:
		return ErrBeingTaken
	case !ok || now != ln || s.closed() || ln.bye || s.rd.life != lifeOpen || s.rd.input == inputBad:
		return ErrUnknownToken
	case token != ln.token:
		if ln.cur != nil {
			l.leave(s, codeReplaced) // see attach
		}
		return ErrUnknownToken
	}
	ln.mu.Lock()
	forgotten := received < ln.ring.First()
	ok = ln.ring.Rewind(received)
	if ok {
		ln.link, ln.ctl, ln.ctlOut = nil, ln.ctl[:0], 0
		ln.ring.Park()
	}
	ln.mu.Unlock()
	if !ok {
		if forgotten {
			l.abort(s, ReasonResumeOverrun)
		}
		return ErrUnknownToken
	}
	ln.depart, d.First = d, received
	if old := ln.cur; old != nil {
		l.srv.closes[ReasonReplaced].Add(1)
		ln.cur, ln.finned = nil, false
		old.loop.run(l, func() { old.finish(codeReplaced) })
		ln.unasked, ln.logPos = 0, s.out.Pos()
		l.detached(s)
	}
	ln.keep()
	s.canWrite()
	return nil
}

// hold has the strand stand still behind MarshalSession once nothing of the session is under
// way, and takes in what it takes along. errAgain: something is.
func (d *Departure) hold(ctx context.Context) error {
	s := d.ln.s
	if !s.in.Quiet() || s.held.Load() > 0 {
		if s.closed() {
			return ErrUnknownToken
		}
		return errAgain
	}
	it := bufpool.Empty(strand.Tell)
	it.Fn = d.marshal
	d.ln.home.post(s, it)
	select {
	case err := <-d.said:
		if err != nil {
			return err
		}
	case <-ctx.Done():
		return fmt.Errorf("%w: %w", ErrUnsettled, ctx.Err())
	case <-d.ln.srv.quit:
		return ErrClosed
	case <-s.Context().Done():
		return ErrUnknownToken
	}
	err := d.onHome(ctx, func() error { return d.ln.home.snapshot(d) })
	if errors.Is(err, errAgain) {
		d.release()
	}
	return err
}

// marshal runs in the session's order.
func (d *Departure) marshal() {
	s := d.ln.s
	h, ok := s.srv.handler().(Handoff)
	if !ok {
		d.said <- ErrNoHandoff
		return
	}
	if s.held.Load() > 0 {
		d.said <- errAgain
		return
	}
	err := ErrUnknownToken // it panics
	s.guard("MarshalSession", func() { d.State, err = h.MarshalSession(s) })
	if err == nil {
		s.flags.set(flagStill)
		if d.state.Load() == departingBack {
			s.flags.clear(flagStill)
		}
	}
	d.said <- err
}

// release has the strand go on.
func (d *Departure) release() {
	d.ln.s.flags.clear(flagStill)
	d.ln.s.wakeStrand()
}

// snapshot takes in what a session that stands still takes along. Home loop's goroutine.
func (l *loop) snapshot(d *Departure) error {
	ln, s := d.ln, d.ln.s
	if d.state.Load() != departingOpen || s.closed() || s.rd.life != lifeOpen {
		return ErrUnknownToken
	}
	s.canWrite()
	l.flush(s, outbox.LookWalk)
	if s.closed() || s.rd.life != lifeOpen {
		return ErrUnknownToken
	}
	ln.mu.Lock()
	defer ln.mu.Unlock()
	r := &ln.ring
	switch {
	case s.held.Load() > 0 || s.out.Size() > 0 || r.Open() > 0:
		return errAgain
	case r.First() != d.First:
		return ErrCarriedTooLarge // some of what the peer lacks is not kept any more
	case r.Bytes()+len(d.State) > d.most:
		return fmt.Errorf("%w: %d bytes of frames, %d of state", ErrCarriedTooLarge, r.Bytes(), len(d.State))
	}
	d.Received, d.Most, d.upTo = ln.received, r.Most(), r.End()
	d.Frames = r.AppendFrom(make([]byte, 0, r.Bytes()), d.First)
	d.Accepted = s.ConnectedAt()
	return nil
}

// Groups are the names of those that the session is a member of.
func (d *Departure) Groups() (names []string) {
	gs := &d.ln.srv.groups
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for m := d.ln.s.groups; m != nil; m = m.next {
		names = append(names, m.set.name)
	}
	return names
}

// Cut ends the session here: from then on what is sent to it is refused, and it is not
// written to any more. False: it has been taken back, or has ended, or is taken back now, as a
// function was submitted to it or an answer is owed since Depart: what those change would be
// lost. It does not block.
func (d *Departure) Cut() bool {
	s := d.ln.s
	if !d.state.CompareAndSwap(departingOpen, departingCut) {
		return false
	}
	claimed := false
	ended := s.in.End(true, func() bool { return false }, s.closed, func() {
		claimed = s.held.Load() <= 0 && s.closing.CompareAndSwap(0, uint32(ReasonMoved))
	})
	if !ended || !claimed {
		d.state.Store(departingBack)
		d.Cancel()
		return false
	}
	s.claimed(ReasonMoved)
	d.wake = s.out.Close(&s.loop.out)
	return true
}

// Rest is what was sent to the session between Depart and Cut: whole frames, to follow Frames.
// It is called behind a Cut that was true, and may be called again. An error: it can't be had,
// and the session is lost.
func (d *Departure) Rest(ctx context.Context) ([]byte, error) {
	d.once.Do(func() { d.ln.s.afterClose(d.wake) })
	select {
	case <-d.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-d.ln.srv.quit:
		return nil, ErrClosed
	}
	if !d.ok {
		return nil, ErrClosed
	}
	return d.rest, nil
}

// end is called when the session's line closes. Home loop's goroutine; the line's mu is held.
func (d *Departure) end(ln *line) {
	select {
	case <-d.done:
		return
	default:
	}
	if d.state.Load() == departingCut && Reason(ln.s.closing.Load()) == ReasonMoved {
		d.ok = ln.s.out.Done() && ln.ring.Open() == 0 && !ln.ended
		d.rest = ln.ring.AppendFrom(nil, max(d.upTo, ln.ring.First()))
	}
	close(d.done)
}

// Cancel has the session stay, unless Cut has been true. It may be called at any time.
func (d *Departure) Cancel() {
	if d.state.Load() != departingCut {
		d.ln.home.with(d.ln.s, nil, func() { d.ln.home.takeBack(d) })
		d.state.CompareAndSwap(departingOpen, departingBack)
	}
}

// takeBack has a session go on here that was to depart; false: it has gone. Home loop's
// goroutine.
func (l *loop) takeBack(d *Departure) bool {
	if d.state.Load() == departingCut || !d.state.CompareAndSwap(departingOpen, departingBack) && d.state.Load() == departingCut {
		return false
	}
	if d.ln.depart == d { // else it does not stand still, or does for another
		d.ln.depart = nil
		d.release()
	}
	return true
}
