package timerwheel

import (
	"context"
	"fmt"
	"sync"
)

// runs are the runs in progress whose timer was killed or set again: at most one for each worker.
type runs struct {
	inCallback func() bool // the calling goroutine is in a callback

	mu    sync.Mutex
	going map[runKey]runOf
}

// A runKey names a run by its entry and the state that the worker gave that.
type runKey struct {
	e *entry
	w state
}

type runOf struct {
	g        *group
	id       TimerID
	returned chan struct{} // closed when it has
}

// supersede is entry.renew for an entry that runs, or did just now. The worker looks here only
// after it has found its state changed, so mu is held from before the change until the run is
// recorded.
func (r *runs) supersede(g *group, e *entry) (was state) {
	r.mu.Lock()
	defer r.mu.Unlock()
	w, _ := e.renew(true)
	if w&phases == running {
		if r.going == nil {
			r.going = map[runKey]runOf{}
		}
		r.going[runKey{e, w}] = runOf{g, e.id, make(chan struct{})}
	}
	return w
}

// returned is called by a worker whose run has returned and whose timer was killed or set again
// meanwhile.
func (r *runs) returned(e *entry, w state) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := runKey{e, w}
	if of, ok := r.going[k]; ok {
		close(of.returned)
		delete(r.going, k)
	}
}

// find returns, for each run that which selects, a channel that is closed when it has returned.
func (r *runs) find(which func(runOf) bool) (list []chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, of := range r.going {
		if which(of) {
			list = append(list, of.returned)
		}
	}
	return list
}

// wait waits for the runs in progress that which selects, until ctx ends. In a callback it does not
// wait, and returns ErrInCallback.
func (r *runs) wait(ctx context.Context, which func(runOf) bool) error {
	list := r.find(which)
	if len(list) > 0 && r.inCallback() {
		return ErrInCallback
	}
	for _, c := range list {
		select {
		case <-c:
		case <-ctx.Done():
			return fmt.Errorf("timerwheel: a callback goes on: %w", ctx.Err())
		}
	}
	return nil
}
