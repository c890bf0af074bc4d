package dbasync

import (
	"context"
	"fmt"
	"sync"
)

// maxIdleWatches is how many contexts without a query stay registered. A session's next query then
// costs no registration.
const maxIdleWatches = 1024

// watches ends queries when their contexts end. A context is registered once for all its queries:
// context.AfterFunc for each would be three allocations for each query. No method of a context is
// called under mu.
type watches struct {
	mu    sync.Mutex
	byCtx map[<-chan struct{}]*watch // by the Done channel; guarded by mu
	idle  watch                      // head of a ring of those without queries, most recent first; guarded by mu
	nIdle int                        // guarded by mu
}

// watch is one context, identified by its Done channel.
type watch struct {
	done         <-chan struct{}
	stop         func() bool // guarded by watches.mu; nil: it is being registered
	gone         bool        // guarded by watches.mu; forgotten or ended
	head         *request    // its queries
	older, newer *watch      // while it is idle
}

func (ws *watches) init() {
	ws.byCtx = make(map[<-chan struct{}]*watch)
	ws.idle.older, ws.idle.newer = &ws.idle, &ws.idle
}

// add makes r end when ctx does. The registration has a reference of its own.
func (ws *watches) add(r *request, ctx context.Context) {
	done := ctx.Done()
	r.refs.Add(1)
	ws.mu.Lock()
	w := ws.byCtx[done]
	known := w != nil
	switch {
	case !known:
		w = &watch{done: done}
		ws.byCtx[done] = w
	case w.head == nil:
		ws.unlink(w)
	}
	r.watch, r.nextWatched, r.prevWatched = w, w.head, nil
	if w.head != nil {
		w.head.prevWatched = r
	}
	w.head = r
	ws.mu.Unlock()
	if known {
		return
	}
	stop := context.AfterFunc(ctx, func() { ws.ended(w, context.Cause(ctx)) })
	ws.mu.Lock()
	w.stop = stop
	gone := w.gone
	ws.mu.Unlock()
	if gone {
		stop()
	}
}

// remove undoes add, unless the context has ended.
func (ws *watches) remove(r *request) {
	ws.mu.Lock()
	w := r.watch
	if w == nil {
		ws.mu.Unlock()
		return
	}
	r.watch = nil
	if r.nextWatched != nil {
		r.nextWatched.prevWatched = r.prevWatched
	}
	if r.prevWatched != nil {
		r.prevWatched.nextWatched = r.nextWatched
	} else {
		w.head = r.nextWatched
	}
	r.nextWatched, r.prevWatched = nil, nil
	var stop func() bool
	if w.head == nil {
		stop = ws.rest(w)
	}
	ws.mu.Unlock()
	if stop != nil {
		stop()
	}
	r.release()
}

// rest keeps w for its next query, in place of the one that has been idle longest, for which it
// returns what forget does. Caller holds mu.
func (ws *watches) rest(w *watch) (stop func() bool) {
	w.newer, w.older = &ws.idle, ws.idle.older
	w.older.newer, ws.idle.older = w, w
	if ws.nIdle++; ws.nIdle > maxIdleWatches {
		return ws.forget(ws.idle.newer)
	}
	return nil
}

// unlink removes w from the idle ones. Caller holds mu.
func (ws *watches) unlink(w *watch) {
	w.newer.older, w.older.newer = w.older, w.newer
	w.newer, w.older = nil, nil
	ws.nIdle--
}

// forget removes an idle w, and returns the function that ends its registration, for the caller to
// call without mu; nil: add does it. Caller holds mu.
func (ws *watches) forget(w *watch) (stop func() bool) {
	ws.unlink(w)
	delete(ws.byCtx, w.done)
	w.gone = true
	return w.stop
}

// ended ends the queries of w, on a goroutine of its own.
func (ws *watches) ended(w *watch, cause error) {
	ws.mu.Lock()
	w.gone = true
	if ws.byCtx[w.done] == w {
		delete(ws.byCtx, w.done)
	}
	if w.newer != nil {
		ws.unlink(w)
	}
	rs := w.head
	w.head = nil
	for r := rs; r != nil; r = r.nextWatched {
		r.watch = nil
	}
	ws.mu.Unlock()
	for rs != nil {
		r := rs
		rs = r.nextWatched
		r.nextWatched, r.prevWatched = nil, nil
		r.cancel(fmt.Errorf("dbasync: %w", cause))
		r.release()
	}
}

// close ends the registrations without queries.
func (ws *watches) close() {
	for {
		var stop func() bool
		ws.mu.Lock()
		left := ws.nIdle > 0
		if left {
			stop = ws.forget(ws.idle.newer)
		}
		ws.mu.Unlock()
		if !left {
			return
		}
		if stop != nil {
			stop()
		}
	}
}
