package nodes

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"time"

	"millrace/engine"
	"millrace/services"
	"millrace/services/cluster"
	"millrace/services/nodes/internal/envelope"
)

func (hs *homes) list() []homed {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	return slices.Clone(hs.all)
}

func (hs *homes) start() error {
	for _, h := range hs.list() {
		if err := h.start(); err != nil {
			return err
		}
	}
	return nil
}

func (hs *homes) stop(ctx context.Context) error {
	var errs []error
	for _, h := range hs.list() {
		errs = append(errs, h.stop(ctx))
	}
	return errors.Join(errs...)
}

func (hs *homes) move(ctx context.Context) {
	for _, h := range hs.list() {
		h.move(ctx)
	}
}

func (hs *homes) len() (rooms int) {
	for _, h := range hs.list() {
		rooms += h.len()
	}
	return rooms
}

// serve answers a message of another node to a room.
func (hs *homes) serve(e envelope.Envelope, left time.Duration) envelope.Envelope {
	name, key, ok := strings.Cut(e.Key, "\x00")
	list := hs.list()
	i := slices.IndexFunc(list, func(h homed) bool { return h.name() == name })
	if !ok || i < 0 {
		return envelope.Envelope{Kind: envelope.Answer, Flags: envelope.Elsewhere}
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(left, time.Hour))
	defer cancel()
	body, err := list[i].serve(ctx, key, e)
	var told *services.Error
	switch {
	case err == nil:
		return envelope.Envelope{Kind: envelope.Answer, Body: body}
	case errors.Is(err, errElsewhere), errors.Is(err, cluster.ErrUnavailable):
		return envelope.Envelope{Kind: envelope.Answer, Flags: envelope.Elsewhere}
	case errors.Is(err, services.ErrTooManyRooms):
		return refusal(engine.CodeLimit, "the node has as many rooms as it may")
	case errors.Is(err, cluster.ErrOverloaded):
		return refusal(engine.CodeOverloaded, "the queue of the room is full")
	case errors.As(err, &told):
		return failure(told)
	case errors.Is(err, cluster.ErrLost), errors.Is(err, cluster.ErrNoAnswer):
		return envelope.Envelope{Kind: envelope.Answer, Flags: maybe}
	}
	return failure(err)
}

// maybe is the flag of an answer that says that the message may have been handled.
const maybe = 255

// serve handles a message that another node has sent here.
func (h *Homes[S]) serve(ctx context.Context, key string, e envelope.Envelope) ([]byte, error) {
	process, free := h.where(key)
	switch {
	case e.Flags&envelope.State != 0:
		return nil, h.receive(ctx, e.Source, key, e.Body)
	case process != h.n.process && !(free && e.Flags&envelope.Take != 0):
		return nil, errElsewhere
	}
	return h.handle(ctx, key, e.Body)
}

// receive accepts the state of a room that moves here, and begins to wait for its lock. It returns
// before it has the lock, which the last home releases afterwards.
func (h *Homes[S]) receive(ctx context.Context, from uint64, key string, saved []byte) error {
	if at := h.n.cache.Rooms().Holder(h.lock(key)); !at.Alive || parseProcess(at.Process) != from {
		return errElsewhere // it was not the room's home
	}
	if h.here() == nil || h.n.draining() || ctx.Err() != nil {
		return errElsewhere
	}
	h.mu.Lock()
	if len(h.incoming) >= h.cfg.MaxRooms {
		h.mu.Unlock()
		return cluster.ErrOverloaded
	}
	h.incoming[key] = arrival{saved, time.Now()}
	h.mu.Unlock()
	h.expect(key, 3)
	return nil
}

// arrival is the state of a room that moves here.
type arrival struct {
	saved []byte
	at    time.Time
}

// expect opens the room that moves here. A room that failed to open because the lock was held may
// be in its way.
func (h *Homes[S]) expect(key string, tries int) {
	rooms := h.here()
	if rooms == nil || tries == 0 {
		h.arrival(key) // it starts with a new state
		return
	}
	again := func(error) {
		h.mu.Lock()
		_, waits := h.incoming[key]
		h.mu.Unlock()
		if waits {
			time.AfterFunc(10*time.Millisecond, func() { h.expect(key, tries-1) })
		}
	}
	if err := rooms.PostOr(key, func(*services.Room[string, *Home[S]]) {}, again); err != nil {
		again(err)
	}
}

// movers is how many rooms move concurrently.
const movers = 16

// move moves every room of this node to another node.
func (h *Homes[S]) move(ctx context.Context) {
	rooms := h.here()
	if rooms == nil || h.n.cache == nil {
		return
	}
	var all []*services.Room[string, *Home[S]]
	rooms.Each(func(r *services.Room[string, *Home[S]]) bool {
		all = append(all, r)
		return true
	})
	places := make(chan struct{}, movers)
	var moving sync.WaitGroup
	for _, r := range all {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		moving.Add(1)
		over := func() {
			<-places
			moving.Done()
		}
		// A function given to Submit runs even in a room that has failed, where a message would be
		// lost.
		if r.Submit(func() {
			defer over()
			h.send(ctx, r)
		}) != nil {
			over() // it has closed, or its queue is full and it stays
		}
	}
	done := make(chan struct{})
	go func() {
		moving.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// send sends a room's state to its next home, and closes it. It runs in the room.
func (h *Homes[S]) send(ctx context.Context, room *services.Room[string, *Home[S]]) {
	r := room.State
	if r == nil || r.moved || !r.Held() || !h.n.draining() {
		return // it has not opened, or is not this node's any more; or the drain was cancelled
	}
	if len(h.n.ups()) == 0 {
		return // no other node can take it
	}
	if h.cfg.Save != nil {
		if saved, err := h.cfg.Save(r.State); err != nil {
			h.n.cfg.Logger.Error("nodes: a room's state could not be saved; it starts with a new one elsewhere", "room", r.key, "err", err)
		} else if err = h.hand(ctx, r.key, saved); err != nil {
			h.n.cfg.Logger.Warn("nodes: a room's state was not accepted; it starts with a new one elsewhere", "room", r.key, "err", err)
		}
	}
	r.moved = true
	_ = room.Close() // it fails only if it was closed before
}

// hand sends a room's state to its next home, within Config.Timeout. It retries if that node
// refuses: it may not know the current home yet, or may have begun to drain.
func (h *Homes[S]) hand(ctx context.Context, key string, saved []byte) error {
	ctx, cancel := h.n.bounded(ctx)
	defer cancel()
	const least, most = 2 * time.Millisecond, 50 * time.Millisecond
	for wait := least; ; wait = min(2*wait, most) {
		err := cluster.ErrUnavailable
		if to, ok := place(h.lock(key), h.n.ups()); ok {
			_, err = h.n.question(ctx, to.asks, envelope.Envelope{Kind: envelope.Room, Flags: envelope.State, Key: h.lock(key), Body: saved})
		}
		if !errors.Is(err, errElsewhere) && !errors.Is(err, cluster.ErrUnavailable) || !sleep(ctx, wait) {
			return err
		}
	}
}
