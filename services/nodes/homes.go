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

// HomesConfig configures Homes. A zero field means the default given at the field.
type HomesConfig[S any] struct {
	// Name distinguishes the rooms of several Homes; up to 64 bytes, none of them 0.
	Name string
	// New creates a room's state when this node has become its home. Nil: the zero value of the
	// type. It may block.
	New func(r *Home[S]) (S, error)
	// Handle answers a message, in the room: one at a time. It may block, which delays only this
	// room. An error is sent to the requester as services.ErrorOf converts it.
	Handle func(r *Home[S], body []byte) ([]byte, error)
	// Save and Restore carry a room's state to another node when its home drains. Nil: the room
	// starts with a new state there.
	Save    func(state S) ([]byte, error)
	Restore func(r *Home[S], saved []byte) (S, error)
	// OnClose is called last in a room, while its lock is still held, unless the lock was lost: see
	// Home.Held. It may be nil.
	OnClose func(r *Home[S])

	Idle     time.Duration // how long a room without messages is kept; 5 min, engine.Off for ever
	MaxRooms int           // homed on this node; 32,768
	MaxTasks int           // queued messages of one room; the pool's MaxTasks
}

// Home is a room on the node that is its home.
type Home[S any] struct {
	// State belongs to the application. Only functions of HomesConfig may use it, one at a time.
	State S

	homes *Homes[S]
	key   string
	token uint64
	moved bool
}

// Key returns the room's key.
func (r *Home[S]) Key() string { return r.key }

// Token returns the fencing token of the room on this home: it grows from home to home, and should
// be sent with what the room writes to other systems. Below 2^53.
func (r *Home[S]) Token() uint64 { return r.token }

// Held reports whether this node is still the room's home, by its own clock.
func (r *Home[S]) Held() bool { return r.homes.held(r.key, r.token) }

// Homes are rooms by key. Each room is on one node of the cluster at a time, its home, and can be
// reached from any node. The home is the node that holds the room's lock, which also provides the
// token. When a message is sent to a room without a home, the key determines the home among the
// nodes that are not draining. When the home dies, the room starts with a new state elsewhere after the lease;
// when it drains, the room moves with its state.
type Homes[S any] struct {
	n     *Node
	cfg   HomesConfig[S]
	rooms *services.Rooms[string, *Home[S]]

	mu       sync.Mutex
	incoming map[string]arrival // guarded by mu; states of rooms that move here
	alone    atomic.Uint64      // the last token of a node without a cluster
}

// homed is Homes of any state type.
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

// NewHomes makes the rooms of that name. All nodes must configure them identically. It is called
// before the node's Start, and the rooms end with the node's Stop.
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
		Logger: slog.New(slog.NewTextHandler(io.Discard, nil)), // requesters get the reason of a room's failure
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

// lock returns the key of a room's lock.
func (h *Homes[S]) lock(key string) string { return h.cfg.Name + "\x00" + key }

// open opens a room: this node becomes its home, if no other is.
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

// arrival returns the state that a moving room brought from its last home.
func (h *Homes[S]) arrival(key string) (saved []byte, moves bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	a, moves := h.incoming[key]
	delete(h.incoming, key)
	return a.saved, moves && time.Since(a.at) < 2*h.n.cfg.Timeout
}

// take acquires the room's lock. The last home of a moving room releases it soon.
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

// closed runs last in a room.
func (h *Homes[S]) closed(room *services.Room[string, *Home[S]], _ engine.Reason) {
	r := room.State
	if h.cfg.OnClose != nil && !r.moved {
		h.cfg.OnClose(r)
	}
	h.giveUp(r)
}

// giveUp releases the lock; if the servers can't be reached, the lease ends it.
func (h *Homes[S]) giveUp(r *Home[S]) {
	if h.n.cache == nil {
		return
	}
	ctx, cancel := h.n.bounded(context.Background())
	defer cancel()
	if _, err := h.n.cache.Rooms().Unlock(ctx, h.lock(r.key), r.token); err != nil {
		h.n.cfg.Logger.Debug("nodes: a room's lock could not be released", "room", r.key, "err", err)
	}
}

// Ask sends a message to the room of that key, which is opened if needed, and returns its answer.
// While the room moves the message is retried, until ctx ends or Config.Timeout expires. Errors:
// what Handle, or New before it, returned, as a *services.Error; cluster.ErrUnavailable and
// cluster.ErrOverloaded (with services.ErrTooManyRooms above MaxRooms): the message was not
// handled; cluster.ErrLost and cluster.ErrNoAnswer: it may have been.
func (h *Homes[S]) Ask(ctx context.Context, key string, body []byte) ([]byte, error) {
	if err := h.checkKey(key); err != nil {
		return nil, err
	}
	ctx, cancel := h.n.bounded(ctx)
	defer cancel()
	until, _ := ctx.Deadline()
	for tries := (attempts{until: until}); ; {
		answer, err := h.ask(ctx, key, body)
		wait, err := tries.next(h.n, err)
		if wait == 0 {
			return answer, err
		}
		if !sleep(ctx, wait) {
			return nil, errNoHome
		}
	}
}

// ask makes one attempt, at the room's presumed home.
func (h *Homes[S]) ask(ctx context.Context, key string, body []byte) ([]byte, error) {
	process, free := h.where(key)
	switch {
	case process == h.n.process:
		return h.handle(ctx, key, body)
	case process == 0:
		return nil, cluster.ErrUnavailable
	}
	return h.n.question(ctx, askSubject(process), h.envelope(key, body, free))
}

// envelope returns the envelope of a message to a room.
func (h *Homes[S]) envelope(key string, body []byte, free bool) envelope.Envelope {
	e := envelope.Envelope{Kind: envelope.Room, Key: h.lock(key), Body: body}
	if free {
		e.Flags = envelope.Take
	}
	return e
}

// where returns the process that has the room, or, with free, the one that should get it; 0: none
// can.
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
		return h.n.process, true // all drain: this one is as good as any
	}
	m, _ := place(h.lock(key), up)
	return m.Process, true
}

// handle handles a message in the room on this node.
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
		answer, err := h.message(room, body, ctx.Err() != nil)
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

// untaken returns why a room did not accept a message: too many are queued, there are too many
// rooms, or the rooms or their pool have stopped.
func untaken(err error) error {
	if errors.Is(err, engine.ErrBusy) || errors.Is(err, services.ErrTooManyRooms) {
		return fmt.Errorf("%w: %w", cluster.ErrOverloaded, err)
	}
	return fmt.Errorf("%w: %w", cluster.ErrUnavailable, err)
}

// lostMessage returns why a room has not handled a message.
func (h *Homes[S]) lostMessage(err error) error {
	if errors.Is(err, services.ErrRoomFailed) {
		return errElsewhere // it panicked before: the next room of the key may handle it
	}
	return err
}

// message handles one message in the room; late: nobody waits for its answer any more. If the
// lease ends meanwhile, its effects may be lost.
func (h *Homes[S]) message(room *services.Room[string, *Home[S]], body []byte, late bool) (answer []byte, err error) {
	r := room.State
	switch {
	case late:
		return nil, fmt.Errorf("%w: it waited for its turn for too long", cluster.ErrUnavailable)
	case r.moved || !r.Held():
		_ = room.Close() // it fails only if it was closed before
		return nil, errElsewhere
	}
	answer, err = h.n.calls.safely(func() ([]byte, error) { return h.cfg.Handle(r, body) })
	if !r.Held() {
		_ = room.Close()
		return nil, cluster.ErrLost
	}
	return answer, calleeError(err)
}
