package services

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"sync/atomic"
	"time"

	"millrace/engine"
	"millrace/timerwheel"
)

// Room is one of Rooms: the object of a key, from the first message until it closes. It is a
// Submitter, so timers, queries, locks, watches and delay events are delivered to it as to a
// session; a late one for a room that has ended never reaches the next room of the key.
//
// Its methods are for functions that run in the room, unless stated otherwise.
type Room[K comparable, S any] struct {
	// State is the user's state, as returned by New. Only functions that run in the room may use
	// it.
	State S

	rooms  *Rooms[K, S]
	key    K
	life   uint64
	strand *engine.Strand
	seen   atomic.Uint32 // the sweeper's tick at the last message
	crowd  atomic.Int32  // number of members
	asked  atomic.Bool   // an idle check is queued

	// The fields below are used in the room's order only.
	made    bool // New was called
	opened  bool // New has succeeded
	ended   bool
	failed  error
	lost    int // number of lost messages
	timers  *timerwheel.Set
	members *members
	ctx     context.Context
	cancel  context.CancelFunc
}

// members are the members of a room, created with the first one.
type members struct {
	group *engine.Group
	srv   *engine.Server
	all   map[*engine.Session]struct{}
}

var (
	_ Submitter            = (*Room[string, int])(nil)
	_ Home                 = (*Room[string, int])(nil)
	_ timerwheel.Submitter = (*engine.Strand)(nil)
)

// Key returns the room's key. Any goroutine.
func (r *Room[K, S]) Key() K { return r.key }

// Life returns a number that increases with each room created: it distinguishes the room from
// earlier and later ones of its key. Any goroutine.
func (r *Room[K, S]) Life() uint64 { return r.life }

// String returns the room's name, which is also that of its group. Any goroutine.
func (r *Room[K, S]) String() string { return r.rooms.name(r.key) }

// Post is Rooms.Post to this room only: engine.ErrClosed when it has closed. Any goroutine.
func (r *Room[K, S]) Post(fn func(r *Room[K, S])) error { return r.post(fn) }

// Submit runs fn in the room, after what was accepted before; results of queries and calls are
// delivered with it. It never blocks: engine.ErrBusy, engine.ErrClosed. An accepted function runs
// once, before OnClose, even in a room that has failed. Any goroutine.
func (r *Room[K, S]) Submit(fn func()) error {
	r.touch()
	return r.strand.Submit(fn)
}

// Close closes the room: everything it has accepted runs, then OnClose. Later messages to the key
// go to the next room. It returns engine.ErrClosed if the room was already closed. Any goroutine.
func (r *Room[K, S]) Close() error { return r.strand.Close() }

// Closed reports whether the room was closed, or has failed. Any goroutine.
func (r *Room[K, S]) Closed() bool {
	_, closed := r.strand.Closed()
	return closed
}

// Context returns a context that is cancelled when the room ends, before OnClose: pass it to
// queries and calls that need not be finished then.
func (r *Room[K, S]) Context() context.Context {
	if r.ctx == nil {
		r.ctx, r.cancel = context.WithCancel(context.Background())
	}
	return r.ctx
}

// Timers returns the room's timers: they run in it and end with it. Nil without a timer service.
func (r *Room[K, S]) Timers() *timerwheel.Set {
	if r.timers == nil && r.rooms.cfg.Timers != nil {
		r.timers = r.rooms.cfg.Timers.For(r.strand)
		if r.ended {
			r.timers.Close()
		}
	}
	return r.timers
}

// SetTimer arranges for fn to be called in the room after every, then again each period, repeat
// times in all; 0 means until the room ends or Timers().KillTimer(id). Setting an id in use
// restarts it. There is no drift: deadlines are one period apart. Firings do not pile up: one that
// is due while the previous one waits or runs is skipped. Errors: those of timerwheel.Set.SetTimer,
// and timerwheel.ErrNotRunning without a timer service.
func (r *Room[K, S]) SetTimer(id timerwheel.TimerID, every time.Duration, repeat int, fn func(timerwheel.Firing)) error {
	t := r.Timers()
	if t == nil {
		return fmt.Errorf("services: room %v: %w", r, timerwheel.ErrNotRunning)
	}
	return t.SetTimer(id, every, repeat, fn)
}

// Join makes s a member of the room, and of the engine's group with the room's name, and returns
// the number of members. It leaves by itself when its session closes or its peer sends a FIN.
// Errors: engine.ErrClosed when s is closing, engine.ErrLimit above its MaxGroups,
// ErrTooManyMembers, ErrOtherServer.
func (r *Room[K, S]) Join(s *engine.Session) (int, error) {
	m := r.members
	if m == nil {
		m = &members{srv: s.Server(), group: s.Server().Group(r.String()), all: map[*engine.Session]struct{}{}}
		r.members = m
	}
	switch _, in := m.all[s]; {
	case in:
		return len(m.all), nil
	case s.Server() != m.srv:
		return len(m.all), ErrOtherServer
	case len(m.all) >= r.rooms.cfg.MaxMembers:
		return len(m.all), fmt.Errorf("%w: %d", ErrTooManyMembers, len(m.all))
	}
	if _, err := m.group.JoinWith(s, r.left); err != nil {
		return len(m.all), err
	}
	m.all[s] = struct{}{}
	r.crowd.Add(1)
	return len(m.all), nil
}

// Leave ends the membership of s, and reports whether it was a member. OnLeave is not called.
func (r *Room[K, S]) Leave(s *engine.Session) bool {
	if !r.Has(s) {
		return false
	}
	_, _ = r.members.group.Leave(s) // it never fails
	delete(r.members.all, s)
	r.crowd.Add(-1)
	r.touch()
	return true
}

// left is called by the engine when a member's session has ended. Any goroutine.
func (r *Room[K, S]) left(s *engine.Session) {
	deliver(r.strand, func() {
		if !r.Leave(s) {
			return
		}
		if fn := r.rooms.cfg.OnLeave; fn != nil && r.sound() {
			fn(r, s)
		}
	}, nil)
}

// Has reports whether s is a member.
func (r *Room[K, S]) Has(s *engine.Session) bool {
	if r.members == nil {
		return false
	}
	_, in := r.members.all[s]
	return in
}

// Len returns the number of members. Any goroutine.
func (r *Room[K, S]) Len() int { return int(r.crowd.Load()) }

// Members iterates over the members in no particular order. They may join and leave meanwhile.
func (r *Room[K, S]) Members() iter.Seq[*engine.Session] {
	if r.members == nil {
		return func(func(*engine.Session) bool) {}
	}
	return maps.Keys(r.members.all)
}

// Send sends one unsolicited packet to every member, and returns the number of sessions it was sent
// to: engine.Group.Send.
func (r *Room[K, S]) Send(main, sub uint16, body []byte) (sent int, err error) {
	if r.members == nil {
		return 0, nil
	}
	return r.members.group.Send(main, sub, body)
}

// touch records a message.
func (r *Room[K, S]) touch() {
	if now := r.rooms.tick.Load(); r.seen.Load() != now {
		r.seen.Store(now)
	}
}

// isIdle reports whether the room had no message for Idle, and has no members.
func (r *Room[K, S]) isIdle() bool {
	if r.crowd.Load() > 0 {
		r.touch()
		return false
	}
	return r.rooms.tick.Load()-r.seen.Load() > idleParts
}

// idle closes the room if it is still idle.
func (r *Room[K, S]) idle() {
	r.asked.Store(false)
	if !r.isIdle() || r.Closed() {
		return
	}
	if fn := r.rooms.cfg.OnIdle; fn != nil && r.opened && fn(r) || r.crowd.Load() > 0 {
		r.touch()
		return
	}
	if !r.strand.CloseIfIdle() && !r.Closed() {
		r.rooms.livedOn.Add(1)
	}
}

// message is the argument of PostOr; that of Post is fn itself.
type message[K comparable, S any] struct {
	fn   func(*Room[K, S])
	lost func(error)
}

func (r *Room[K, S]) post(msg any) error {
	r.touch()
	err := r.strand.Post(msg)
	if err != nil && errors.Is(err, engine.ErrBusy) {
		r.rooms.busy.Add(1)
	}
	return err
}

// handle runs a message in the room.
func (r *Room[K, S]) handle(msg any) {
	fn, plain := msg.(func(*Room[K, S]))
	var lost func(error)
	if !plain {
		m := msg.(message[K, S])
		fn, lost = m.fn, m.lost
	}
	if !r.made && !r.begin(lost) {
		return
	}
	if !r.sound() {
		r.lose(lost)
		return
	}
	fn(r)
	r.touch() // it may have waited, or taken a long time
}

// sound reports whether the state was made, and nothing has panicked since.
func (r *Room[K, S]) sound() bool {
	why, _ := r.strand.Closed()
	return r.opened && why != engine.ReasonPanic
}

// begin makes the state for the first message. It reports whether the message may run; otherwise
// lost was called.
func (r *Room[K, S]) begin(lost func(error)) (ok bool) {
	r.made = true
	if r.rooms.cfg.New == nil {
		r.opened = true
		return true
	}
	defer func() {
		if !ok { // also if New panics, which the strand reports
			r.lose(lost)
		}
	}()
	state, err := r.rooms.cfg.New(r)
	if err != nil {
		r.failed = err
		_ = r.strand.CloseFor(engine.ReasonRefused) // it fails only if already closed
		return false
	}
	r.State, r.opened = state, true
	return true
}

// lose reports a message that will not run.
func (r *Room[K, S]) lose(lost func(error)) {
	r.lost++
	r.rooms.lost.Add(1)
	if lost == nil {
		return
	}
	err := r.failed
	if err == nil {
		err = ErrRoomFailed
	}
	lost(err)
}

// end is the last function that runs in the room.
func (r *Room[K, S]) end(why engine.Reason) {
	defer r.rooms.forget(r, why) // also if OnClose panics
	defer r.expel()
	r.ended = true
	r.Context()
	r.cancel()
	if r.timers != nil {
		r.timers.Close()
	}
	if r.lost > 0 {
		if held, ok := r.rooms.failures.Due(); ok {
			r.rooms.cfg.Logger.Warn("services: a room failed, and messages to it were not handled", "room", r.String(), "messages", r.lost, "why", why.String(), "err", r.failed, "omitted", held)
		}
	}
	if fn := r.rooms.cfg.OnClose; fn != nil && r.opened {
		fn(r, why)
	}
}

// expel ends all memberships.
func (r *Room[K, S]) expel() {
	for s := range r.Members() {
		r.Leave(s)
	}
	r.members = nil
}
