package nodes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"millrace/engine"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/nodes/internal/envelope"
)

// HomesConfig sets up Homes. Zero means the default that the field's comment names.
type HomesConfig[S any] struct {
	// Name tells the rooms of several Homes apart; up to 64 bytes, none of them 0.
	Name string
	// New makes a room's state when this node has become its home. Nil: the state begins as
	// its type's zero value. It may block.
	New func(r *Home[S]) (S, error)
	// Handle answers a message, in the room: one at a time. It may block, which holds this
	// room back only. An error is told to whoever asked, as services.ErrorOf says.
	Handle func(r *Home[S], body []byte) ([]byte, error)
	// Save and Restore carry a room's state to another node when its home drains. Nil: it
	// begins anew there.
	Save    func(state S) ([]byte, error)
	Restore func(r *Home[S], saved []byte) (S, error)
	// OnClose is the last that runs in a room, while its lock is still held, if it is: see
	// Home.Held. It may be nil.
	OnClose func(r *Home[S])

	Idle     time.Duration // how long a room lives without messages; 5 min, engine.Off for good
	MaxRooms int           // homed on this node; 32,768
	MaxTasks int           // messages that wait in one room; the pool's MaxTasks
}

// Home is a room on the node that is its home.
type Home[S any] struct {
	// State is the user's. Only functions of HomesConfig touch it, one at a time.
	State S

	homes *Homes[S]
	key   string
	token uint64
	moved bool
}

// Key is what the room stands behind.
func (r *Home[S]) Key() string { return r.key }

// Token is the fencing token of this life of the room: it only grows from home to home, and
// goes with what the room writes elsewhere. Below 2^53.
func (r *Home[S]) Token() uint64 { return r.token }

// Held tells whether this node is the room's home still, by its own clock.
func (r *Home[S]) Held() bool { return r.homes.held(r.key, r.token) }

// Homes are rooms by key that live on one node of the cluster at a time: whoever asks a room,
// on whatever node, reaches its home. The home is the node that holds the room's lock, by
// which its token is given; it is chosen by the key among the nodes that don't drain, when a
// message comes to a room that has none. When the home dies the room begins anew elsewhere
// after the lease; when it drains the room moves with its state.
type Homes[S any] struct {
	n     *Node
	cfg   HomesConfig[S]
	rooms *services.Rooms[string, *Home[S]]

	mu       sync.Mutex
	incoming map[string]arrival // guarded by mu; states of rooms that move here
	alone    atomic.Uint64      // the last token of a node that is alone
}

// homed is Homes, whatever the state's type.
type homed interface {
	name() string
	start() error
	stop(ctx context.Context) error
	move(ctx context.Context)
	len() int
	serve(ctx context.Context, key string, e envelope.Envelope) ([]byte, error)
}

// homes are the Homes of a node.
type homes struct {
	mu  sync.Mutex
	all []homed // guarded by mu
}

// NewHomes makes the rooms of that name; those of all nodes are made alike. It is called
// before the node's Start, and they end with its Stop.
func NewHomes[S any](n *Node, cfg HomesConfig[S]) (*Homes[S], error) {
	if cfg.MaxRooms == 0 {
		cfg.MaxRooms = 1 << 15
	}
	switch {
	case cfg.Handle == nil:
		return nil, errors.New("nodes: homes: Handle is nil")
	case len(cfg.Name) > 64 || strings.Contains(cfg.Name, "\x00"):
		return nil, fmt.Errorf("nodes: homes: Name %q: must have up to 64 bytes, none of them 0", cfg.Name)
	case (cfg.Save == nil) != (cfg.Restore == nil):
		return nil, errors.New("nodes: homes: give both of Save and Restore, or none")
	}
	h := &Homes[S]{n: n, cfg: cfg, incoming: map[string]arrival{}}
	h.alone.Store(uint64(time.Now().UnixMicro()))
	n.homes.mu.Lock()
	defer n.homes.mu.Unlock()
	for _, other := range n.homes.all {
		if other.name() == cfg.Name {
			return nil, fmt.Errorf("nodes: homes: Name %q is taken", cfg.Name)
		}
	}
	n.homes.all = append(n.homes.all, h)
	return h, nil
}

func (h *Homes[S]) name() string { return h.cfg.Name }

func (h *Homes[S]) len() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.rooms == nil {
		return 0
	}
	return h.rooms.Len()
}

func (h *Homes[S]) start() error {
	rooms, err := services.NewRooms(services.RoomsConfig[string, *Home[S]]{
		Pool: h.n.pool.Load(), Name: "home " + h.cfg.Name, New: h.open, OnClose: h.closed,
		Idle: h.cfg.Idle, MaxRooms: h.cfg.MaxRooms, MaxTasks: h.cfg.MaxTasks,
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), // those who ask are told why a room fails
	})
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.rooms = rooms
	h.mu.Unlock()
	return rooms.Start(context.Background())
}

func (h *Homes[S]) stop(ctx context.Context) error {
	h.mu.Lock()
	rooms := h.rooms
	h.rooms = nil
	h.mu.Unlock()
	if rooms == nil {
		return nil
	}
	return rooms.Stop(ctx)
}

func (h *Homes[S]) here() *services.Rooms[string, *Home[S]] {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.rooms
}

func (h *Homes[S]) held(key string, token uint64) bool {
	return h.n.cache == nil || h.n.cache.Rooms().Held(h.lock(key), token)
}

// lock is the key of a room's lock.
func (h *Homes[S]) lock(key string) string { return h.cfg.Name + "\x00" + key }

// open makes a room: this node becomes its home, if no other is.
func (h *Homes[S]) open(room *services.Room[string, *Home[S]]) (*Home[S], error) {
	r := &Home[S]{homes: h, key: room.Key()}
	saved, moves := h.arrival(r.key)
	if err := h.take(room, r, moves); err != nil {
		return nil, err
	}
	var err error
	switch {
	case moves && h.cfg.Restore != nil:
		r.State, err = h.cfg.Restore(r, saved)
	case h.cfg.New != nil:
		r.State, err = h.cfg.New(r)
	}
	if err != nil {
		h.giveUp(r)
		return nil, calleeError(err)
	}
	return r, nil
}

// arrival is the state that a room has brought from its last home.
func (h *Homes[S]) arrival(key string) (saved []byte, moves bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, moves := h.incoming[key]
	delete(h.incoming, key)
	return a.saved, moves && time.Since(a.at) < 2*h.n.cfg.Timeout
}

// take takes the room's lock. One that moves here is let go by its last home in a moment.
func (h *Homes[S]) take(room *services.Room[string, *Home[S]], r *Home[S], moves bool) error {
	if h.n.cache == nil {
		r.token = h.alone.Add(1)
		return nil
	}
	if h.n.draining() && len(h.n.ups()) > 0 {
		return errElsewhere
	}
	wait := time.Duration(0)
	if moves {
		wait = h.n.cfg.Timeout
	}
	ctx, cancel := h.n.bounded(context.Background())
	defer cancel()
	token, err := h.n.cache.Rooms().Lock(ctx, h.lock(r.key), services.LockOptions{
		TTL: time.Hour, Renew: true, Wait: wait, OnLost: func() { _ = room.Close() },
	})
	switch {
	case errors.Is(err, services.ErrCacheFull):
		return cluster.ErrOverloaded
	case err != nil:
		return fmt.Errorf("%w: %w", cluster.ErrUnavailable, err)
	case token == 0:
		return errElsewhere
	}
	r.token = token
	return nil
}

// closed is the last in a room.
func (h *Homes[S]) closed(room *services.Room[string, *Home[S]], _ engine.Reason) {
	r := room.State
	if h.cfg.OnClose != nil && !r.moved {
		h.cfg.OnClose(r)
	}
	h.giveUp(r)
}

// giveUp lets the lock go; its lease ends it where that can't be said.
func (h *Homes[S]) giveUp(r *Home[S]) {
	if h.n.cache == nil {
		return
	}
	ctx, cancel := h.n.bounded(context.Background())
	defer cancel()
	if _, err := h.n.cache.Rooms().Unlock(ctx, h.lock(r.key), r.token); err != nil {
		h.n.cfg.Logger.Debug("nodes: a room's lock is not given back", "room", r.key, "err", err)
	}
}

// Ask sends a message to the room of that key, which is made if there is none, and returns
// its answer. It is tried again while the room moves, until ctx ends or Config.Timeout is up.
// Errors: what Handle, or New in front of it, returned, as a *services.Error;
// cluster.ErrUnavailable, cluster.ErrOverloaded (services.ErrTooManyRooms, too, past MaxRooms):
// it was not handled; cluster.ErrLost, cluster.ErrNoAnswer: it may have been.
func (h *Homes[S]) Ask(ctx context.Context, key string, body []byte) ([]byte, error) {
	if len(key)+len(h.cfg.Name)+1 > envelope.MaxKey {
		return nil, services.Errorf(engine.CodeBadBody, "a room's name has at most %d bytes", envelope.MaxKey-len(h.cfg.Name)-1)
	}
	ctx, cancel := h.n.bounded(ctx)
	defer cancel()
	const least, most = 5 * time.Millisecond, 100 * time.Millisecond
	for wait := least; ; wait = min(2*wait, most) {
		answer, err := h.ask(ctx, key, body)
		switch {
		case err == nil, !errors.Is(err, errElsewhere) && !errors.Is(err, cluster.ErrUnavailable):
			return answer, err
		case h.n.bus != nil && !h.n.bus.Up():
			return nil, cluster.ErrUnavailable
		}
		if !sleep(ctx, wait) || almostUp(ctx) {
			return nil, fmt.Errorf("%w: the room has no home now", cluster.ErrUnavailable)
		}
	}
}

// almostUp tells whether so little is left of ctx's time that what is asked now could end
// with nobody knowing whether it was done.
func almostUp(ctx context.Context) bool {
	at, ok := ctx.Deadline()
	return ok && time.Until(at) < 20*time.Millisecond
}

// ask asks once, where the room is thought to be.
func (h *Homes[S]) ask(ctx context.Context, key string, body []byte) ([]byte, error) {
	process, free := h.where(key)
	switch {
	case process == h.n.process:
		return h.handle(ctx, key, body)
	case process == 0:
		return nil, cluster.ErrUnavailable
	}
	e := envelope.Envelope{Kind: envelope.Room, Key: h.lock(key), Body: body}
	if free {
		e.Flags = envelope.Take
	}
	return h.n.question(ctx, askSubject(process), e)
}

// where says who has the room, or, free, who is to have it; 0: nobody can.
func (h *Homes[S]) where(key string) (process uint64, free bool) {
	if h.n.cache == nil {
		return h.n.process, false
	}
	if at := h.n.cache.Rooms().Holder(h.lock(key)); at.Alive {
		return parseProcess(at.Process), false
	}
	if !h.n.member() {
		return 0, true
	}
	up := h.n.ups()
	if !h.n.draining() {
		up = append(slices.Clip(up), h.n.self())
	}
	if len(up) == 0 {
		return h.n.process, true // all go: this one is as good as any
	}
	m, _ := place(h.lock(key), up)
	return m.Process, true
}

// handle has a message handled in the room here.
func (h *Homes[S]) handle(ctx context.Context, key string, body []byte) ([]byte, error) {
	rooms := h.here()
	if rooms == nil {
		return nil, cluster.ErrUnavailable
	}
	type result struct {
		answer []byte
		err    error
	}
	done := make(chan result, 1)
	err := rooms.PostOr(key, func(room *services.Room[string, *Home[S]]) {
		answer, err := h.message(ctx, room, body)
		done <- result{answer, err}
	}, func(err error) { done <- result{nil, h.lostMessage(err)} })
	if err != nil {
		return nil, untaken(err)
	}
	select {
	case r := <-done:
		return r.answer, r.err
	case <-ctx.Done():
		return nil, cluster.ErrNoAnswer
	}
}

// untaken is why a message was not taken by a room: too much waits, there are too many rooms,
// or the rooms, or their pool, have stopped.
func untaken(err error) error {
	if errors.Is(err, engine.ErrBusy) || errors.Is(err, services.ErrTooManyRooms) {
		return fmt.Errorf("%w: %w", cluster.ErrOverloaded, err)
	}
	return fmt.Errorf("%w: %w", cluster.ErrUnavailable, err)
}

// lostMessage is why a room has not handled a message.
func (h *Homes[S]) lostMessage(err error) error {
	if errors.Is(err, services.ErrRoomFailed) {
		return errElsewhere // it panicked before: the next one of the key may do
	}
	return err
}

// message is one's turn in the room. What it does while the lease ends may be seen by nobody.
func (h *Homes[S]) message(ctx context.Context, room *services.Room[string, *Home[S]], body []byte) (answer []byte, err error) {
	r := room.State
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("%w: it waited for its turn for too long", cluster.ErrUnavailable)
	case r.moved || !r.Held():
		_ = room.Close() // it fails only where it was closed before
		return nil, errElsewhere
	}
	answer, err = h.n.calls.safely(func() ([]byte, error) { return h.cfg.Handle(r, body) })
	if !r.Held() {
		_ = room.Close()
		return nil, cluster.ErrLost
	}
	return answer, calleeError(err)
}
