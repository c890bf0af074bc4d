package services

import (
	"slices"
	"sync"
)

// Watcher delivers the changes of one key to a function, for implementers of a Cache. It keeps only
// the latest change until the function runs.
type Watcher struct {
	on   Submitter
	fn   func(Event)
	gone func() // removes it from its cache

	mu      sync.Mutex
	latest  Event // guarded by mu
	pending bool  // guarded by mu; a run is in progress or submitted
	fresh   bool  // guarded by mu; latest has not been delivered
	ended   bool  // guarded by mu
}

// NewWatcher returns a watcher that runs fn on on, for one change at a time, and calls gone when on
// has closed.
func NewWatcher(on Submitter, fn func(Event), gone func()) *Watcher {
	return &Watcher{on: on, fn: fn, gone: gone}
}

// Offer delivers a change; it must not be called by two goroutines at the same time.
func (w *Watcher) Offer(e Event) {
	if w.offer(e) {
		w.submit()
	}
}

// offer records the change and reports whether a run must be submitted.
func (w *Watcher) offer(e Event) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ended {
		return false
	}
	w.latest, w.fresh = e, true
	submit := !w.pending
	w.pending = true
	return submit
}

func (w *Watcher) submit() { deliver(w.on, w.run, w.gone) }

// run delivers changes until there is none left; never two runs at the same time.
func (w *Watcher) run() {
	for {
		w.mu.Lock()
		if !w.fresh || w.ended {
			w.pending = false
			w.mu.Unlock()
			return
		}
		e := w.latest
		w.fresh = false
		w.mu.Unlock()
		w.fn(e)
	}
}

// End prevents new runs of the function.
func (w *Watcher) End() {
	w.mu.Lock()
	w.ended, w.latest = true, Event{}
	w.mu.Unlock()
}

// notify offers the change while the shard is locked, so that the last offer is the last change,
// and submits the runs afterwards.
func notify(ws []*Watcher, e Event, after *actions) {
	for _, w := range ws {
		if w.offer(e) {
			after.add(w.submit)
		}
	}
}

// Watch implements Cache.
func (m *Memory) Watch(key string, on Submitter, fn func(Event)) (func(), error) {
	if m.closed.Load() {
		return nil, ErrCacheClosed
	}
	if m.watches.Add(1) > int64(m.cfg.MaxWatches) {
		m.watches.Add(-1)
		m.refused.Add(1)
		return nil, ErrCacheFull
	}
	w := NewWatcher(on, fn, nil)
	w.gone = func() { m.unwatch(key, w) }
	s := m.shard(key)
	s.mu.Lock()
	s.watchers[key] = append(s.watchers[key], w)
	s.mu.Unlock()
	return w.gone, nil
}

func (m *Memory) unwatch(key string, w *Watcher) {
	w.End()
	s := m.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.watchers[key], w)
	if i < 0 {
		return
	}
	m.watches.Add(-1)
	s.watchers[key] = slices.Delete(s.watchers[key], i, i+1)
	if len(s.watchers[key]) == 0 {
		delete(s.watchers, key)
	}
}
