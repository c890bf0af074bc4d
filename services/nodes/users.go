package nodes

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"millrace/codec"
	"millrace/engine"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/nodes/internal/envelope"
)

// MaxUser is the maximum length of a user's name, in bytes.
const MaxUser = 256

// users are the users bound to sessions of this node. The store is authoritative: this is a copy of
// it, which may be slightly out of date.
type users struct {
	n *Node

	mu       sync.Mutex
	bound    map[string]binding          // guarded by mu
	sessions map[*engine.Session]*tenure // guarded by mu; those that have users, until their peers' FIN
	adopting map[string]adoption         // guarded by mu; users whose session came from another node, until the store has the new one
	doubts   map[string][]byte           // guarded by mu; what the store had before a bind whose outcome is unknown
	sending  map[string][]*userFrame     // guarded by mu; frames of SendUserThen that wait; an entry for each user whose are being sent
	frames   int                         // guarded by mu; frames of SendUserThen whose then has not returned
	replaced atomic.Uint64
	alone    uint64 // guarded by mu; the last epoch of a node without a cluster

	binds turns // users being bound: two binds of one would only make each other try again
	todo  *chores
}

// tenure is the users of a session.
type tenure struct {
	users map[string]bool
	about codec.Packet // the request by which it was bound last; without a body
	goes  bool         // another node is taking the session: they are not unbound here
}

// binding is a user's session on this node, with the epoch that the store assigned.
type binding struct {
	s     *engine.Session
	epoch uint64
}

func (u *users) init(n *Node) {
	u.n, u.bound, u.sessions = n, map[string]binding{}, map[*engine.Session]*tenure{}
	u.doubts, u.adopting = map[string][]byte{}, map[string]adoption{}
	u.sending, u.binds.waiting = map[string][]*userFrame{}, map[string][]chan struct{}{}
	u.alone = uint64(time.Now().UnixMicro())
	u.todo = newChores(n)
}

func (u *users) len() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return len(u.bound)
}

// Bind makes s the one session of a user in the cluster, and returns the binding's epoch, which
// increases. p is the request that binds s. Another session that had the user, on any node, gets an
// ERROR conflict about the request by which it was bound itself, and is closed with
// engine.ReasonReplaced. Binding a user that s already has gives a new epoch. The binding ends with
// s, or with its peer's FIN. Errors: services.ErrCacheDown, and services.ErrCacheUnknown if it may
// have happened; engine.ErrLimit, engine.ErrClosed.
func (n *Node) Bind(ctx context.Context, s *engine.Session, p codec.Packet, user string) (epoch uint64, err error) {
	if len(user) == 0 || len(user) > MaxUser {
		return 0, services.Errorf(engine.CodeBadBody, "a user has 1 to %d bytes", MaxUser)
	}
	if err := n.users.reserve(s, codec.Packet{Main: p.Main, Sub: p.Sub, Seq: p.Seq}, user); err != nil {
		return 0, err
	}
	if n.cache == nil {
		return n.users.bindAlone(s, user)
	}
	ctx, cancel := n.bounded(ctx)
	defer cancel()
	if !n.users.binds.take(ctx, user) {
		n.users.release(s, user)
		return 0, fmt.Errorf("%w: other sessions were being bound to the user", services.ErrCacheDown)
	}
	defer n.users.binds.leave(user)
	id := n.ID(s)
	for {
		e, err := n.cache.Users().Get(ctx, user)
		if err != nil && !errors.Is(err, services.ErrNotFound) {
			n.users.release(s, user)
			return 0, err
		}
		swapped, now, err := n.cache.Users().CompareAndSetRevision(ctx, user, e.Revision, id.bytes(), 0)
		switch {
		case errors.Is(err, services.ErrCacheUnknown):
			n.users.doubt(user, e.Value) // it may have happened: then it is corrected later
			return 0, err
		case err != nil:
			n.users.release(s, user)
			return 0, err
		case !swapped:
			continue
		}
		n.users.won(s, user, cluster.Epoch(now.Revision), e.Value)
		return cluster.Epoch(now.Revision), nil
	}
}

// won: the store has s as the user's session, in place of the former value before.
func (u *users) won(s *engine.Session, user string, epoch uint64, before []byte) {
	u.note(s, user, epoch)
	old, err := sessionID(before)
	if err != nil || old == u.n.ID(s) {
		return // the user had no session
	}
	if old.Process == u.n.process {
		u.replace(old.Session, user, epoch)
		return
	}
	// It may not receive this: messages for its epoch are refused all the same, and its node checks
	// the store after it has missed a message.
	u.n.lose(u.n.to(old.Process).publish(u.n, nodeSubject(old.Process), envelope.Envelope{
		Kind: envelope.Replaced, Session: uint64(old.Session), Key: user, Epoch: epoch,
	}))
}

// reserve makes room for the user in the session, and has it unbound when the session ends.
func (u *users) reserve(s *engine.Session, about codec.Packet, user string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	of := u.sessions[s]
	switch {
	case of != nil && of.users[user]:
		of.about = about
		return nil
	case of != nil && len(of.users) >= u.n.cfg.MaxSessionUsers:
		return fmt.Errorf("%w: %d users of one session", engine.ErrLimit, len(of.users))
	case len(u.bound) >= u.n.cfg.MaxUsers:
		return fmt.Errorf("%w: %d users on this node", engine.ErrLimit, len(u.bound))
	case !s.Connected():
		return engine.ErrClosed
	}
	if of == nil {
		of = &tenure{users: map[string]bool{}}
		u.sessions[s] = of
		context.AfterFunc(s.InputContext(), func() { u.ended(s) })
	}
	of.users[user], of.about = true, about
	return nil
}

// release undoes reserve, if the session does not have the user.
func (u *users) release(s *engine.Session, user string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if of := u.sessions[s]; of != nil && u.bound[user].s != s {
		delete(of.users, user)
	}
}

// doubt: the outcome of a bind is unknown; it may have replaced before.
func (u *users) doubt(user string, before []byte) {
	u.mu.Lock()
	u.doubts[user] = before
	u.mu.Unlock()
	u.todo.add(user)
}

// note records a binding in the store, unless a newer one is known.
func (u *users) note(s *engine.Session, user string, epoch uint64) {
	u.mu.Lock()
	if u.bound[user].epoch < epoch {
		u.bound[user] = binding{s, epoch}
	}
	gone := u.sessions[s] == nil // it has ended meanwhile
	u.mu.Unlock()
	if gone {
		u.todo.add(user)
	}
}

// ended: the session sends no more requests. Its users are unbound.
func (u *users) ended(s *engine.Session) {
	u.mu.Lock()
	of := u.sessions[s]
	delete(u.sessions, s)
	u.mu.Unlock()
	if of == nil || of.goes {
		return
	}
	for user := range of.users {
		u.todo.add(user)
	}
}

// replace notifies a session of this node that it has lost its user, and closes it.
func (u *users) replace(id engine.ID, user string, epoch uint64) {
	s := u.n.session(id)
	u.mu.Lock()
	if b, ok := u.bound[user]; ok && b.s.ID() == id && b.epoch < epoch {
		delete(u.bound, user)
	}
	var about codec.Packet
	if of := u.sessions[s]; of != nil {
		about = of.about
	}
	u.mu.Unlock()
	if s == nil {
		return
	}
	if s.CloseWithError(about, engine.CodeConflict, "the user has a newer session", engine.ReasonReplaced) == nil {
		u.replaced.Add(1)
	}
}

// Bound returns the user's session in the cluster according to the store, if its node lives; false
// if there is none. Errors: services.ErrCacheDown.
func (n *Node) Bound(ctx context.Context, user string) (id SessionID, epoch uint64, ok bool, err error) {
	if n.cache == nil {
		n.users.mu.Lock()
		defer n.users.mu.Unlock()
		b, ok := n.users.bound[user]
		if !ok {
			return SessionID{}, 0, false, nil
		}
		return n.ID(b.s), b.epoch, true, nil
	}
	e, err := n.cache.Users().Get(ctx, user)
	if errors.Is(err, services.ErrNotFound) {
		return SessionID{}, 0, false, nil
	}
	if err != nil {
		return SessionID{}, 0, false, err
	}
	if id, err = sessionID(e.Value); err != nil {
		return SessionID{}, 0, false, nil // it was unbound
	}
	if id.Process != n.process {
		_, ok = n.byProcess(id.Process)
	}
	return id, cluster.Epoch(e.Revision), ok || id.Process == n.process, nil
}

// Flags of the answer to a frame for a user.
const (
	userTaken = envelope.OK
	userGone  = envelope.Failed
	userStale = envelope.Elsewhere
	userBusy  = envelope.Refused
)

// SendUser sends a frame to the user's session, on any node. True: the session's node has accepted
// it for an open session. False: the user has none. It reads the store, so that a frame sent after
// a Bind has returned reaches the new session or nobody. Errors: services.ErrCacheDown,
// cluster.ErrUnavailable, ErrLost, ErrNoAnswer, ErrOverloaded.
func (n *Node) SendUser(ctx context.Context, user string, main, sub uint16, body []byte) (bool, error) {
	ctx, cancel := n.bounded(ctx)
	defer cancel()
	for gone := uint64(0); ; {
		id, epoch, ok, err := n.Bound(ctx, user)
		if err != nil || !ok {
			return false, unsent(err)
		}
		e := envelope.Envelope{Kind: envelope.User, Session: uint64(id.Session), Key: user, Epoch: epoch, Handle: handle(main, sub), Body: body}
		flags := uint8(0)
		if id.Process == n.process {
			flags = n.users.deliver(e).Flags
		} else if flags, err = n.askUser(ctx, id.Process, e); err != nil {
			return false, err
		}
		switch {
		case flags == userTaken:
			return true, nil
		case flags == userGone && epoch == gone:
			return false, nil
		case flags == userBusy:
			return false, cluster.ErrOverloaded
		case flags == userGone:
			gone = epoch // maybe another session has replaced it since the store was read
			continue
		}
		// Stale: another bind happened in between, so the store has a newer binding.
		if !sleep(ctx, time.Millisecond) {
			return false, cluster.ErrUnavailable
		}
	}
}

// unsent adds to an error of the store that nothing was sent.
func unsent(err error) error {
	if err != nil {
		err = fmt.Errorf("%w: %w", cluster.ErrUnavailable, err)
	}
	return err
}

func (n *Node) askUser(ctx context.Context, process uint64, e envelope.Envelope) (uint8, error) {
	q, err := n.to(process).post(n, nodeSubject(process), e)
	if err != nil {
		return 0, err
	}
	return userAnswer(ctx, q)
}

// userAnswer waits for the flags of the answer to a frame for a user.
func userAnswer(ctx context.Context, q cluster.Question) (flags uint8, err error) {
	var got []byte
	if err := q.Wait(ctx, func(b []byte) { got = b }); err != nil {
		return 0, err
	}
	a, err := envelope.Parse(got)
	if err != nil || a.Kind != envelope.Answer {
		return 0, cluster.ErrLost
	}
	return a.Flags, nil
}

// deliver pushes a frame to a user's session, unless the user is known to have a newer one.
func (u *users) deliver(e envelope.Envelope) envelope.Envelope {
	a := envelope.Envelope{Kind: envelope.Answer, Flags: userGone}
	s := u.n.session(engine.ID(e.Session))
	if s == nil {
		if u.n.moves.hasGone(engine.ID(e.Session)) {
			a.Flags = userStale // the store is about to know where it is
		}
		return a
	}
	u.mu.Lock()
	b := u.bound[e.Key]
	lost := b.epoch > e.Epoch
	ended := u.sessions[s] == nil
	u.mu.Unlock()
	switch {
	case lost:
		a.Flags = userStale
		return a
	case ended:
		return a // its peer has sent its FIN
	}
	main, sub := split(e.Handle)
	switch err := s.Push(main, sub, e.Body); {
	case err == nil:
		a.Flags = userTaken
	case errors.Is(err, engine.ErrBusy):
		a.Flags = userBusy
	case e.Source != 0: // of another node
		u.n.unfit(e, err)
	}
	return a
}

// bindAlone is Bind without a cluster.
func (u *users) bindAlone(s *engine.Session, user string) (uint64, error) {
	u.mu.Lock()
	u.alone++
	epoch, old := u.alone, u.bound[user]
	u.bound[user] = binding{s, epoch}
	gone := u.sessions[s] == nil
	u.mu.Unlock()
	if gone {
		u.todo.add(user)
	}
	if old.s != nil && old.s != s {
		u.replace(old.s.ID(), user, epoch)
	}
	return epoch, nil
}
