package services

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"
)

// Start starts everything in order. If a service fails to start, those already started are stopped
// and the manager can't be used again.
func (m *Manager) Start(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state != managerNew {
		return ErrStarted
	}
	m.state = managerStarted
	if m.server != nil {
		for h, d := range m.controller.Dispatch() {
			if _, set := m.cfg.Server.Handles[h]; !set {
				m.server.SetDispatch(h, d)
			}
		}
	}
	for _, n := range m.nodes {
		if err := n.start(ctx, m.cfg.StartTimeout); err != nil {
			err = fmt.Errorf("services: start %s: %w", n.spec.Name, err)
			// The caller's context may be the cause of the failure.
			back, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.cfg.StopTimeout)
			defer cancel()
			return errors.Join(err, m.stop(back))
		}
	}
	for _, n := range m.nodes {
		if n.own {
			m.watched.Go(func() { m.watch(n) })
		}
	}
	if m.server != nil {
		m.watched.Go(m.watchServer)
	}
	return nil
}

// Stop stops everything in reverse order: the server drains first, the pool ends last. A service
// that takes longer than StopTimeout, or than ctx allows, is abandoned and named in the error. Stop
// may be called twice.
func (m *Manager) Stop(ctx context.Context) error {
	m.stopping.Lock()
	defer m.stopping.Unlock()
	m.quitting.Do(func() { close(m.quit) }) // ends a restart in progress
	m.mu.Lock()
	was := m.state
	m.state = managerStopped
	m.mu.Unlock()
	m.watched.Wait()
	if was != managerStarted {
		m.ending.Do(func() { close(m.done) })
		return nil
	}
	return m.stop(ctx)
}

// stop stops everything that was started. No restarts happen any more.
func (m *Manager) stop(ctx context.Context) error {
	m.state = managerStopped
	var errs []error
	for _, n := range slices.Backward(m.nodes) {
		if err := n.stop(ctx, m.cfg.StopTimeout); err != nil {
			errs = append(errs, fmt.Errorf("services: stop %s: %w", n.spec.Name, err))
		}
	}
	m.ending.Do(func() { close(m.done) })
	return errors.Join(errs...)
}

// Running reports whether the manager has been started and neither stopped nor failed.
func (m *Manager) Running() bool {
	select {
	case <-m.done:
		return false
	default:
	}
	for _, n := range m.nodes {
		if !n.isStarted() {
			return false
		}
	}
	return len(m.nodes) > 0
}

// bounded calls fn and waits for at most d and until ctx ends; if fn is still running then, it is
// abandoned.
func bounded(ctx context.Context, d time.Duration, fn func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	done := make(chan error, 1)
	go func() { done <- fn(ctx) }()
	select {
	case err := <-done:
		cancel()
		return err
	case <-ctx.Done():
	}
	defer cancel()
	t := time.NewTimer(grace)
	defer t.Stop()
	select { // it may be about to return
	case err := <-done:
		return err
	case <-t.C:
		return fmt.Errorf("left behind: %w", ctx.Err())
	}
}

// grace is the time that a service gets to notice that its context has ended.
const grace = 100 * time.Millisecond

func (n *node) start(ctx context.Context, d time.Duration) error {
	// A failed Start may have left something running, and an abandoned Start may still succeed.
	// Whichever of the two happens later stops the service.
	var later atomic.Bool
	err := bounded(ctx, d, func(ctx context.Context) error {
		err := n.spec.Service.Start(ctx)
		if later.Swap(true) {
			stop, cancel := context.WithTimeout(context.Background(), d)
			defer cancel()
			_ = n.spec.Service.Stop(stop)
		}
		return err
	})
	if err != nil && later.Swap(true) {
		_ = bounded(context.WithoutCancel(ctx), d, n.spec.Service.Stop)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.started, n.err = err == nil, err
	return err
}

func (n *node) stop(ctx context.Context, d time.Duration) error {
	n.mu.Lock()
	was := n.started
	n.started = false
	n.mu.Unlock()
	if !was {
		return nil
	}
	err := bounded(ctx, d, n.spec.Service.Stop)
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		n.err = err
	}
	return err
}

func (n *node) isStarted() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.started
}

// watch restarts one of the program's services when it has ended. It runs on a goroutine of the
// manager.
func (m *Manager) watch(n *node) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	m.watched.Go(func() {
		select {
		case <-m.quit:
			cancel()
		case <-ctx.Done():
		}
	})
	for {
		if !m.ended(n) {
			return
		}
		m.mu.Lock()
		if m.state != managerStarted || n.spec.Service.Running() {
			m.mu.Unlock()
			if !m.rest() {
				return
			}
			continue
		}
		err := m.restart(ctx, n)
		m.mu.Unlock()
		if err != nil && ctx.Err() == nil {
			m.fail(err)
			return
		}
	}
}

// rest waits briefly, so that a service that is running although its Done is closed causes little
// work; false means that the manager is stopping.
func (m *Manager) rest() bool {
	select {
	case <-m.quit:
		return false
	case <-time.After(min(m.cfg.Check, 10*time.Millisecond)):
		return true
	}
}

// ended waits until n is not running; false means that the manager is stopping.
func (m *Manager) ended(n *node) bool {
	var done <-chan struct{}
	if e, ok := n.spec.Service.(Ender); ok {
		done = e.Done()
	}
	t := time.NewTicker(m.cfg.Check)
	defer t.Stop()
	for {
		select {
		case <-m.quit:
			return false
		case <-done:
			return true
		case <-n.anew:
			if e, ok := n.spec.Service.(Ender); ok {
				done = e.Done()
			}
		case <-t.C:
			if !n.spec.Service.Running() {
				return true
			}
		}
	}
}

// watchServer makes the manager fail when the server has ended by itself.
func (m *Manager) watchServer() {
	select {
	case <-m.quit:
	case <-m.server.Done():
		select {
		case <-m.quit:
		default:
			m.fail(fmt.Errorf("services: the server ended: %w", m.server.Err()))
		}
	}
}

// Restart stops and starts one of the program's services; services that depend on it are not
// restarted. It counts towards Spec.MaxRestarts.
func (m *Manager) Restart(ctx context.Context, name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.node(name)
	if n == nil || !n.own || m.state != managerStarted {
		return fmt.Errorf("%w: %q", ErrNoService, name)
	}
	err := m.restart(ctx, n)
	select {
	case n.anew <- struct{}{}:
	default:
	}
	return err
}

// restart counts the restart, stops and starts the service. m.mu is held.
func (m *Manager) restart(ctx context.Context, n *node) error {
	if err := n.count(time.Now()); err != nil {
		return err
	}
	m.cfg.Logger.Warn("services: restart", "service", n.spec.Name)
	if err := n.stop(ctx, m.cfg.StopTimeout); err != nil {
		m.cfg.Logger.Warn("services: restart", "service", n.spec.Name, "stop", err)
	}
	for {
		err := n.start(ctx, m.cfg.StartTimeout)
		if err == nil {
			return nil
		}
		if limit := n.count(time.Now()); limit != nil {
			return fmt.Errorf("%w: %w", limit, err)
		}
	}
}

// count records a restart, or returns ErrIntensity.
func (n *node) count(now time.Time) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.restarts = slices.DeleteFunc(n.restarts, func(t time.Time) bool { return now.Sub(t) > n.spec.Within })
	if len(n.restarts) >= n.spec.MaxRestarts {
		return fmt.Errorf("%w: %s, %d times within %v", ErrIntensity, n.spec.Name, n.spec.MaxRestarts, n.spec.Within)
	}
	n.restarts = append(n.restarts, now)
	n.total++
	return nil
}

// Health is the state of one service.
type Health struct {
	Name     string
	Running  bool
	Restarts int
	Err      error // nil if it is healthy
}

// Health returns the state of every service, in the order of start.
func (m *Manager) Health() []Health {
	all := make([]Health, 0, len(m.nodes))
	for _, n := range m.nodes {
		n.mu.Lock()
		h := Health{Name: n.spec.Name, Restarts: n.total, Err: n.err}
		started := n.started
		n.mu.Unlock()
		h.Running = started && n.spec.Service.Running()
		switch c, ok := n.spec.Service.(Checker); {
		case !h.Running && h.Err == nil:
			h.Err = errors.New("services: not running")
		case h.Running && ok:
			h.Err = c.Healthy()
		case h.Running && n.spec.Name == NameDB && !m.db.Connected():
			h.Err = errors.New("services: the database is not connected")
		}
		all = append(all, h)
	}
	return all
}

// Healthy returns the errors of Health, or nil.
func (m *Manager) Healthy() error {
	var errs []error
	for _, h := range m.Health() {
		if h.Err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", h.Name, h.Err))
		}
	}
	return errors.Join(errs...)
}
