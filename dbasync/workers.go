package dbasync

import (
	"errors"
	"log/slog"
	"runtime/debug"
	"sync"

	"millrace/internal/seldom"
)

var errWorkersFull = errors.New("dbasync: pool full")

// workers is the pool a DB makes when Config.Pool is nil.
type workers struct {
	logger *slog.Logger
	limit  int
	panics seldom.Line

	mu     sync.Mutex
	cond   sync.Cond
	queue  []func() // guarded by mu; from head on at most limit
	head   int      // guarded by mu; those before it are taken
	closed bool     // guarded by mu
	wg     sync.WaitGroup
}

func newWorkers(n, limit int, logger *slog.Logger) *workers {
	w := &workers{logger: logger, limit: limit}
	w.cond.L = &w.mu
	w.wg.Add(n)
	for range n {
		go w.work()
	}
	return w
}

// Submit implements Submitter.
func (w *workers) Submit(fn func()) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return ErrClosed
	case len(w.queue)-w.head >= w.limit:
		return errWorkersFull
	}
	if w.head > len(w.queue)/2 && len(w.queue) == cap(w.queue) {
		n := copy(w.queue, w.queue[w.head:])
		clear(w.queue[n:])
		w.queue, w.head = w.queue[:n], 0
	}
	w.queue = append(w.queue, fn)
	w.cond.Signal()
	return nil
}

// work runs on each of the pool's goroutines.
func (w *workers) work() {
	defer w.wg.Done()
	for {
		w.mu.Lock()
		for w.head == len(w.queue) && !w.closed {
			w.cond.Wait()
		}
		if w.head == len(w.queue) {
			w.mu.Unlock()
			return
		}
		fn := w.queue[w.head]
		w.queue[w.head] = nil
		if w.head++; w.head == len(w.queue) {
			w.queue, w.head = w.queue[:0], 0
		}
		w.mu.Unlock()
		w.run(fn)
	}
}

func (w *workers) run(fn func()) {
	defer func() {
		if p := recover(); p != nil {
			if held, ok := w.panics.Due(); ok {
				w.logger.Error("dbasync: panic in a callback", "panic", p, "stack", string(debug.Stack()), "omitted", held)
			}
		}
	}()
	fn()
}

// stop runs what is queued and ends the goroutines.
func (w *workers) stop() {
	w.mu.Lock()
	w.closed = true
	w.cond.Broadcast()
	w.mu.Unlock()
	w.wg.Wait()
}
