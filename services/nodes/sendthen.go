package nodes

import (
	"context"
	"time"

	"millrace/services/cluster"
	"millrace/services/nodes/internal/envelope"
)

// SendUserThen is SendUser without waiting; it may be called on a loop. Frames for one user are sent in
// the order of the calls, and reach a session in that order; frames that wait share one read of the
// store. then is called once, with the outcome that SendUser would have returned, on one of the node's
// goroutines. It must not block, because further frames for that user wait for it. body belongs to the
// node from then on.
//
// Only the deadline of ctx is used; cancelling it does not cancel the message. At most Config.MaxAsks
// frames, for all users together, may be in progress; beyond that, then is called with
// cluster.ErrOverloaded before SendUserThen returns.
func (n *Node) SendUserThen(ctx context.Context, user string, main, sub uint16, body []byte, then func(sent bool, err error)) {
	u, f := &n.users, &userFrame{handle: handle(main, sub), body: body, then: then}
	f.until = n.until(ctx, CallOptions{Timeout: n.cfg.Timeout})
	u.mu.Lock()
	list, busy := u.sending[user]
	full := u.frames >= n.cfg.MaxAsks
	if !full {
		u.frames++
		u.sending[user] = append(list, f)
	}
	u.mu.Unlock()
	switch {
	case full:
		then(false, cluster.ErrOverloaded)
	case !busy:
		go u.sendAll(user)
	}
}

// userFrame is a frame of SendUserThen.
type userFrame struct {
	handle uint32
	body   []byte
	until  time.Time
	gone   uint64 // the epoch whose session it has not found
	then   func(bool, error)
}

func (f *userFrame) outcome(n *Node, sent bool, err error) {
	n.guard(func() { f.then(sent, err) })
	n.users.mu.Lock()
	n.users.frames--
	n.users.mu.Unlock()
}

// sendAll sends the frames that wait for a user, and those that come up meanwhile.
func (u *users) sendAll(user string) {
	for {
		u.mu.Lock()
		list := u.sending[user]
		if len(list) == 0 {
			delete(u.sending, user)
			u.mu.Unlock()
			return
		}
		u.sending[user] = nil // which is an entry, so that nobody else sends
		u.mu.Unlock()
		for len(list) > 0 {
			if list = u.sendOnce(user, list); len(list) > 0 {
				time.Sleep(time.Millisecond) // see SendUser
			}
		}
	}
}

// sendOnce sends frames to the session that the store names, and returns those that are to be sent again,
// as there is another one meanwhile.
func (u *users) sendOnce(user string, list []*userFrame) (again []*userFrame) {
	until := list[0].until
	for _, f := range list {
		if f.until.Before(until) {
			until = f.until
		}
	}
	ctx, cancel := context.WithDeadline(context.Background(), until)
	defer cancel()
	id, epoch, ok, err := u.n.Bound(ctx, user)
	if err != nil || !ok {
		return u.giveUp(ctx, list, unsent(err))
	}
	answers := make([]func() (uint8, error), len(list))
	for i, f := range list {
		e := envelope.Envelope{Kind: envelope.User, Session: uint64(id.Session), Key: user, Epoch: epoch, Handle: f.handle, Body: f.body}
		answers[i] = u.sendTo(id.Process, e, f.until)
	}
	for i, f := range list {
		switch flags, err := answers[i](); {
		case err != nil:
			f.outcome(u.n, false, err)
		case flags == userStale, flags == userGone && f.gone != epoch: // see SendUser
			if flags == userGone {
				f.gone = epoch
			}
			again = append(again, f)
		case flags == userBusy:
			f.outcome(u.n, false, cluster.ErrOverloaded)
		default:
			f.outcome(u.n, flags == userTaken, nil)
		}
	}
	return again
}

// giveUp ends the frames of a user whose session is unknown, or who has none: if only the time of some
// was over, only those. It returns the others.
func (u *users) giveUp(ctx context.Context, list []*userFrame, err error) (rest []*userFrame) {
	now := time.Now()
	for _, f := range list {
		if ctx.Err() != nil && now.Before(f.until) {
			rest = append(rest, f)
			continue
		}
		f.outcome(u.n, false, err)
	}
	return rest
}

// sendTo sends a frame to a session of a process, after those sent before, and returns a function that
// waits for the answer's flags.
func (u *users) sendTo(process uint64, e envelope.Envelope, until time.Time) func() (uint8, error) {
	if process == u.n.process {
		flags := u.deliver(e).Flags
		return func() (uint8, error) { return flags, nil }
	}
	q, err := u.n.to(process).post(u.n, nodeSubject(process), e)
	return func() (uint8, error) {
		if err != nil {
			return 0, err
		}
		ctx, cancel := context.WithDeadline(context.Background(), until)
		defer cancel()
		return userAnswer(ctx, q)
	}
}
