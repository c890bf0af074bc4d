package services

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"millrace/engine"
)

// bind sets what the rooms get from the manager.
func (rs *Rooms[K, S]) bind(m *Manager) {
	if rs.cfg.Pool == nil {
		rs.cfg.Pool = m.pool
	}
	if rs.cfg.Timers == nil {
		rs.cfg.Timers = m.timers
	}
}

// Start makes the rooms accept messages. It may be called again after Stop.
func (rs *Rooms[K, S]) Start(ctx context.Context) error {
	rs.life.Lock()
	defer rs.life.Unlock()
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("services: start of the rooms: %w", err)
	}
	switch {
	case rs.cfg.Pool == nil:
		return errors.New("services: start of the rooms: Pool is nil: give one, or give the rooms to a manager as one of its Services")
	case rs.state.Load() == roomsRunning:
		return errors.New("services: the rooms have been started before")
	case rs.all.Load() > 0:
		return errors.New("services: the rooms of the last run have not ended yet")
	}
	rs.quit, rs.swept, rs.drained = make(chan struct{}), make(chan struct{}), make(chan struct{})
	if rs.cfg.Idle > 0 {
		go rs.sweeper(rs.quit, rs.swept)
	} else {
		close(rs.swept)
	}
	rs.closing.Store(false)
	rs.state.Store(roomsRunning)
	return nil
}

// Stop refuses messages, closes every room and waits until everything that they had accepted has
// run and their OnClose has returned, or until ctx ends: then the error says how many are left, and
// these end by themselves. If the pool has already been stopped they can't, and Stop returns an
// error at once. Stop may be called twice, and before Start. A room must not wait for it.
func (rs *Rooms[K, S]) Stop(ctx context.Context) error {
	rs.life.Lock()
	switch rs.state.Load() {
	case roomsNew:
		rs.life.Unlock()
		return nil
	case roomsRunning:
		rs.state.Store(roomsStopping)
		close(rs.quit)
	}
	swept, drained := rs.swept, rs.drained
	rs.life.Unlock()
	<-swept
	for _, r := range rs.oldest(func(*Room[K, S]) bool { return true }) {
		_ = r.strand.CloseFor(engine.ReasonStopped) // it fails if already closed
	}
	rs.closing.Store(true)
	rs.checkDrained()
	select {
	case <-drained:
		return nil
	default:
	}
	if !rs.cfg.Pool.Running() {
		return fmt.Errorf("services: stop of the rooms: their pool was stopped before them: %d can't end", rs.all.Load())
	}
	select {
	case <-drained:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("services: stop of the rooms: %d have not ended: %w", rs.all.Load(), ctx.Err())
	}
}

// checkDrained lets Stop return when the last room has ended.
func (rs *Rooms[K, S]) checkDrained() {
	if !rs.closing.Load() || rs.all.Load() > 0 {
		return
	}
	rs.life.Lock()
	defer rs.life.Unlock()
	select {
	case <-rs.drained:
	default:
		close(rs.drained)
	}
}

// Running reports whether messages are accepted.
func (rs *Rooms[K, S]) Running() bool { return rs.state.Load() == roomsRunning }

// forget is called when a room has ended: none of its functions will run. It starts the strand of
// the key's next room.
func (rs *Rooms[K, S]) forget(r *Room[K, S], why engine.Reason) {
	sh, recent := rs.place(r.key)
	sh.mu.Lock()
	recent.CompareAndSwap(r, nil)
	if sh.rooms[r.key] == r {
		delete(sh.rooms, r.key)
		rs.keys.Add(-1)
	}
	sh.mu.Unlock()
	rs.ended[min(int(why), maxReason-1)].Add(1)
	rs.all.Add(-1)
	rs.checkDrained()
}

// sweeper runs on a goroutine of its own and finds idle rooms.
func (rs *Rooms[K, S]) sweeper(quit, ended chan struct{}) {
	defer close(ended)
	t := time.NewTicker(rs.cfg.Idle / idleParts)
	defer t.Stop()
	for {
		select {
		case <-quit:
			return
		case <-t.C:
			rs.sweep()
		}
	}
}

func (rs *Rooms[K, S]) sweep() {
	rs.tick.Add(1)
	for _, r := range rs.oldest(func(r *Room[K, S]) bool { return r.isIdle() && !r.asked.Swap(true) }) {
		if r.strand.Submit(r.idle) != nil {
			r.asked.Store(false) // it is full, and therefore not idle, or has closed
		}
	}
}

// oldest returns the rooms for which some returns true, in order of creation.
func (rs *Rooms[K, S]) oldest(some func(*Room[K, S]) bool) (list []*Room[K, S]) {
	rs.Each(func(r *Room[K, S]) bool {
		if some(r) {
			list = append(list, r)
		}
		return true
	})
	slices.SortFunc(list, func(a, b *Room[K, S]) int { return cmp.Compare(a.life, b.life) })
	return list
}
