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

// Departure is a session that another server is taking over. Its callbacks are suspended, while
// frames sent to it are still accepted, until Commit gives it away or Cancel makes it stay.
type Departure struct {
	Transfer
	Session *Session

	ln    *line
	state atomic.Uint32 // a departing constant; the first change from departingOpen decides
	most  int           // limit of Frames and State, in bytes
	upTo  uint64        // the number after the last of Frames; home loop only, then constant
	said  chan error    // the result of MarshalSession; capacity 1

	once sync.Once
	wake bool          // afterClose must mark the session to be flushed
	done chan struct{} // closed when rest and ok are set
	rest []byte        // the result of Rest
	ok   bool          // rest is complete
}

const (
	departingOpen = iota // not decided
	departingCut         // it moves, or it is closing: it does not stay
	departingBack        // it stays
)

// errAgain: something of the session is in progress: try again.
var errAgain = errors.New("engine: not settled")

// Depart suspends the session whose token has that sum, so that another server can take it over;
// received is how many frames the client there has received. It first ends the session's
// connection, if there is one, and waits until nothing of the session is in progress: all requests
// read are answered, also those whose answers come later (Session.Hold). most limits Frames and
// State together, in bytes. After an error the session stays here: ErrUnknownToken, ErrBeingTaken,
// ErrUnsettled, ErrTransferTooLarge, ErrNoHandoff, an error of MarshalSession, or ErrClosed. It
// blocks until ctx ends at most, and must not be called on a loop or by a callback of the session.
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

// onHome runs fn on the session's loop and waits for it. After ErrUnsettled, when ctx ends first, or
// ErrClosed, fn may still run later.
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

// depart detaches the session from its connection, as line.attach does, but for a connection on
// another server. Home loop's goroutine.
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

// hold runs MarshalSession if nothing of the session is in progress, after which the strand runs
// nothing more, and fills in Transfer. errAgain: something is in progress.
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

// marshal calls MarshalSession. It runs on the session's strand.
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
	err := ErrUnknownToken // remains if MarshalSession panics, as that closes the session
	s.guard("MarshalSession", func() { d.State, err = h.MarshalSession(s) })
	if err == nil {
		s.flags.set(flagStill)
		if d.state.Load() == departingBack {
			s.flags.clear(flagStill)
		}
	}
	d.said <- err
}

// release makes the strand continue.
func (d *Departure) release() {
	d.ln.s.flags.clear(flagStill)
	d.ln.s.wakeStrand()
}

// snapshot fills in Transfer for a suspended session. Home loop's goroutine.
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
		return ErrTransferTooLarge // some frames that the peer lacks are no longer kept
	case r.Bytes()+len(d.State) > d.most:
		return fmt.Errorf("%w: %d bytes of frames, %d of state", ErrTransferTooLarge, r.Bytes(), len(d.State))
	}
	d.Received, d.Most, d.upTo = ln.received, r.Most(), r.End()
	d.Frames = r.AppendFrom(make([]byte, 0, r.Bytes()), d.First)
	d.Accepted = s.ConnectedAt()
	return nil
}

// Groups returns the names of the groups that the session is a member of now. Any goroutine.
func (d *Departure) Groups() (names []string) {
	gs := &d.ln.srv.groups
	gs.mu.Lock()
	defer gs.mu.Unlock()
	for m := d.ln.s.groups; m != nil; m = m.next {
		names = append(names, m.set.name)
	}
	return names
}

// Commit gives the session away: from then on frames sent to it are refused. It returns false if the
// session stays, because Cancel was called, or it has closed, or because since Depart a function was
// submitted to it or a Hold was taken, whose effects would be lost. After true the caller must call
// Rest. It does not block. Any goroutine.
func (d *Departure) Commit() bool {
	s := d.ln.s
	if d.state.Load() != departingOpen {
		return false
	}
	// The state changes only when nothing else keeps the session here: a client that comes back
	// meanwhile either gets it, and Commit fails, or is told that it has gone, and then it has.
	moves, claimed := false, false
	s.in.End(true, func() bool { return false }, s.closed, func() {
		moves = s.held.Load() <= 0 && d.state.CompareAndSwap(departingOpen, departingCut)
		claimed = moves && s.closing.CompareAndSwap(0, uint32(ReasonMoved))
	})
	if !claimed {
		if moves { // it is closing
			d.state.Store(departingBack)
		}
		d.Cancel()
		return false
	}
	s.claimed(ReasonMoved)
	d.wake = s.out.Close(&s.loop.out)
	return true
}

// cut reports whether the session has been given away; d may be nil.
func (d *Departure) cut() bool { return d != nil && d.state.Load() == departingCut }

// Rest returns the frames that were sent to the session between Depart and Commit, which follow
// Frames; the caller owns them. It must be called after Commit has returned true, as it also ends the
// session here, and may be called again. ErrClosed: they are incomplete, and the session is lost; an
// error of ctx: try again.
func (d *Departure) Rest(ctx context.Context) ([]byte, error) {
	d.once.Do(func() { d.ln.s.afterClose(d.wake) })
	select {
	case <-d.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-d.ln.srv.quit:
		select {
		case <-d.done: // the server has stopped because this was its last session
		default:
			return nil, ErrClosed
		}
	}
	if !d.ok {
		return nil, ErrClosed
	}
	return d.rest, nil
}

// end is called when the session's line closes, and sets the result of Rest. Home loop's goroutine;
// the line's mu is held.
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

// Cancel makes the session stay, unless Commit has returned true; then it does nothing. It does not
// block, and may be called several times, from any goroutine.
func (d *Departure) Cancel() {
	if d.state.Load() != departingCut {
		d.ln.home.with(d.ln.s, nil, func() { d.ln.home.takeBack(d) })
		d.state.CompareAndSwap(departingOpen, departingBack)
	}
}

// takeBack makes a session that was to depart continue here; false if it was given away. Home loop's
// goroutine.
func (l *loop) takeBack(d *Departure) bool {
	if d.state.Load() == departingCut || !d.state.CompareAndSwap(departingOpen, departingBack) && d.state.Load() == departingCut {
		return false
	}
	if d.ln.depart == d { // else it is not suspended, or for another Departure
		d.ln.depart = nil
		d.release()
	}
	return true
}
