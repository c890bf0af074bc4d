package services

import (
	"slices"
	"sync"
)

// watcher hands the changes of one key to one function. However many changes
// come while fn is not run, it keeps one: the latest.
type watcher struct {
	on   Submitter
	fn   func(Event)
	gone func() // takes it out of its cache

	mu      sync.Mutex
	latest  Event // guarded by mu
	pending bool  // guarded by mu: a run is under way or submitted
	fresh   bool  // guarded by mu: latest has not been handed out
	ended   bool  // guarded by mu
}

// offer takes the change and says whether a run must be submitted.
func (w *watcher) offer(e Event) bool {
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

func (w *watcher) submit() { deliver(w.on, w.run, w.gone) }

// run hands out changes until there is none; never two runs at once.
func (w *watcher) run() {
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

func (w *watcher) end() {
	w.mu.Lock()
	w.ended, w.latest = true, Event{}
	w.mu.Unlock()
}

// notify offers the change while the shard is locked, so that the last offer
// is the last change, and submits after.
func notify(ws []*watcher, e Event, after *actions) {
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
	w := &watcher{on: on, fn: fn}
	w.gone = func() { m.unwatch(key, w) }
	s := m.shard(key)
	s.mu.Lock()
	s.watchers[key] = append(s.watchers[key], w)
	s.mu.Unlock()
	return w.gone, nil
}

func (m *Memory) unwatch(key string, w *watcher) {
	w.end()
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
