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

// Room is one of Rooms: what stands behind a key from its first message until it closes. It
// is a Submitter, so timers, queries, locks, watches and delayed events come back to it as
// they do to a session; a late one of a room that has ended never reaches the next of the key.
//
// Its methods are for functions that run in the room, unless they say otherwise.
type Room[K comparable, S any] struct {
	// State is the user's, as New made it. Only functions that run in the room touch it.
	State S

	rooms  *Rooms[K, S]
	key    K
	life   uint64
	strand *engine.Strand
	seen   atomic.Uint32 // the sweeper's tick of the last message
	crowd  atomic.Int32  // how many members
	asked  atomic.Bool   // the question whether it is idle waits

	// The room's own.
	made    bool // New was called
	opened  bool // and has succeeded
	ended   bool
	failed  error
	lost    int // messages
	timers  *timerwheel.Set
	members *members
	ctx     context.Context
	cancel  context.CancelFunc
}

// members are a room's, made with the first.
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

// Key is what the room stands behind. Any goroutine.
func (r *Room[K, S]) Key() K { return r.key }

// Life is a number that grows with each room that is made: it tells the room from earlier
// and later ones of its key. Any goroutine.
func (r *Room[K, S]) Life() uint64 { return r.life }

// String is the room's name, that of its group too. Any goroutine.
func (r *Room[K, S]) String() string { return r.rooms.name(r.key) }

// Post is Rooms.Post to this room alone: engine.ErrClosed when it has closed. Any goroutine.
func (r *Room[K, S]) Post(fn func(r *Room[K, S])) error { return r.post(fn) }

// Submit runs fn in the room, behind what was accepted before: it is where queries and calls
// come back. It never blocks: engine.ErrBusy, engine.ErrClosed. What was accepted runs once,
// before OnClose, also in a room that has failed. Any goroutine.
func (r *Room[K, S]) Submit(fn func()) error {
	r.touch()
	return r.strand.Submit(fn)
}

// Close closes the room: what it has accepted runs, then OnClose. Messages to the key that
// come from now on are the next room's. engine.ErrClosed when it was closed before. Any
// goroutine.
func (r *Room[K, S]) Close() error { return r.strand.Close() }

// Closed tells whether the room was closed, or has failed. Any goroutine.
func (r *Room[K, S]) Closed() bool {
	_, closed := r.strand.Closed()
	return closed
}

// Context is cancelled when the room ends, before OnClose: give it to queries and calls that
// are not worth finishing then.
func (r *Room[K, S]) Context() context.Context {
	if r.ctx == nil {
		r.ctx, r.cancel = context.WithCancel(context.Background())
	}
	return r.ctx
}

// Timers are the room's own: they run in it and end with it. Nil without a timer service.
func (r *Room[K, S]) Timers() *timerwheel.Set {
	if r.timers == nil && r.rooms.cfg.Timers != nil {
		r.timers = r.rooms.cfg.Timers.For(r.strand)
		if r.ended {
			r.timers.Close()
		}
	}
	return r.timers
}

// SetTimer has fn called in the room after every, then again each period, repeat times in
// all; 0 is until the room ends or Timers().KillTimer(id). An id in use is set anew. There is
// no drift: deadlines are one period apart; and no pile-up: a firing whose time comes while
// the one before it waits or runs is skipped. Errors: those of timerwheel.Set.SetTimer, and
// timerwheel.ErrNotRunning without a timer service.
func (r *Room[K, S]) SetTimer(id timerwheel.TimerID, every time.Duration, repeat int, fn func(timerwheel.Firing)) error {
	t := r.Timers()
	if t == nil {
		return fmt.Errorf("services: room %v: %w", r, timerwheel.ErrNotRunning)
	}
	return t.SetTimer(id, every, repeat, fn)
}

// Join makes s a member, and of the engine's group of the room's name, and returns how many
// there are. It leaves by itself when its session closes or its peer sends a FIN. Errors:
// engine.ErrClosed when s is closing, engine.ErrLimit past its MaxGroups, ErrTooManyMembers,
// ErrOtherServer.
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

// Leave ends s's membership, and tells whether it was one. OnLeave is not called.
func (r *Room[K, S]) Leave(s *engine.Session) bool {
	if !r.Has(s) {
		return false
	}
	_, _ = r.members.group.Leave(s) // it does not fail
	delete(r.members.all, s)
	r.crowd.Add(-1)
	r.touch()
	return true
}

// left is told by the engine that a member's session has ended. Any goroutine.
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

// Has tells whether s is a member.
func (r *Room[K, S]) Has(s *engine.Session) bool {
	if r.members == nil {
		return false
	}
	_, in := r.members.all[s]
	return in
}

// Len is how many members there are. Any goroutine.
func (r *Room[K, S]) Len() int { return int(r.crowd.Load()) }

// Members are the members in no order. They may join and leave during the walk.
func (r *Room[K, S]) Members() iter.Seq[*engine.Session] {
	if r.members == nil {
		return func(func(*engine.Session) bool) {}
	}
	return maps.Keys(r.members.all)
}

// Send sends one packet to every member, as what they have not asked for, and returns how
// many it was sent to: engine.Group.Send.
func (r *Room[K, S]) Send(main, sub uint16, body []byte) (sent int, err error) {
	if r.members == nil {
		return 0, nil
	}
	return r.members.group.Send(main, sub, body)
}

// touch notes that something has come.
func (r *Room[K, S]) touch() {
	if now := r.rooms.tick.Load(); r.seen.Load() != now {
		r.seen.Store(now)
	}
}

// isIdle tells whether nothing has come for long, and nobody is there.
func (r *Room[K, S]) isIdle() bool {
	if r.crowd.Load() > 0 {
		r.touch()
		return false
	}
	return r.rooms.tick.Load()-r.seen.Load() > idleParts
}

// idle closes the room if it is idle still.
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

// message is what PostOr was given; Post's is fn itself.
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

// handle is a message's turn in the room.
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
	r.touch() // it may have waited, or taken long
}

// sound tells whether the state was made, and nothing has panicked since.
func (r *Room[K, S]) sound() bool {
	why, _ := r.strand.Closed()
	return r.opened && why != engine.ReasonPanic
}

// begin makes the state for the first message. It tells whether that goes on; lost was told
// if not.
func (r *Room[K, S]) begin(lost func(error)) (ok bool) {
	r.made = true
	if r.rooms.cfg.New == nil {
		r.opened = true
		return true
	}
	defer func() {
		if !ok { // also while New panics, which the strand reports
			r.lose(lost)
		}
	}()
	state, err := r.rooms.cfg.New(r)
	if err != nil {
		r.failed = err
		_ = r.strand.CloseFor(engine.ReasonRefused) // it fails only where it is closed already
		return false
	}
	r.State, r.opened = state, true
	return true
}

// lose tells of a message that will not run.
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

// end is the last that runs in the room.
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
			r.rooms.cfg.Logger.Warn("services: a room failed, and messages to it were not handled", "room", r.String(), "messages", r.lost, "why", why.String(), "err", r.failed, "held back", held)
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
