package timerwheel

import (
	"reflect"
	"runtime"
	"time"
)

// A worker runs batches on the goroutines of submitters.
type worker struct {
	c      *common
	shards []shard
	pool   *batchPool
	panics *panicLog

	// handBack takes what it could not finish; its goroutine is ending, or it
	// would have had to wait for a shard. Called on any goroutine.
	handBack func(*batch)
}

// work runs a batch. It is what is submitted.
func (w *worker) work(b *batch) {
	if b.group.own && len(b.items) > 1 {
		b.began.Store(max(w.c.now(), 1))
	}
	for w.runSome(b) {
	}
	w.finish(b)
}

// finish accounts for what the batch ran.
func (w *worker) finish(b *batch) {
	w.uncancel(b.group, b.counts.stale)
	b.counts.addTo(&w.c.count)
	if w.reap(b, !b.group.own) {
		w.pool.done(b)
	} else {
		w.handBack(b)
	}
}

// uncancel counts n firings off that will not run.
func (w *worker) uncancel(g *group, n int) {
	if n > 0 {
		g.cancelled.Add(-int64(n))
		w.c.count.cancelled.Add(-int64(n))
	}
}

// runSome runs callbacks until nothing is left, then it returns false, or until
// one panics.
func (w *worker) runSome(b *batch) (more bool) {
	returned := false
	defer func() {
		if !returned {
			more = true
			w.broken(b, recover())
		}
	}()
	for it := b.take(); it != nil; it = b.take() {
		late := w.clockFor(b) - it.due
		b.counts.ran(&w.c.count, late)
		if it.e.swap(it.state, it.state.claimed()) {
			it.fn(Firing{ID: it.id, N: it.n, Left: it.left, Late: time.Duration(late)})
			w.settle(it)
		} else {
			b.counts.takeBack()
		}
	}
	returned = true
	return false
}

// While callbacks are quick, one reading of the clock does for stride of them:
// it costs more than all else that a worker does for a firing.
const (
	quick  = 2000 // ns from one reading to the next
	stride = 4
)

// clockFor is the clock for an item's Late.
func (w *worker) clockFor(b *batch) int64 {
	if b.reuse > 0 {
		b.reuse--
		return b.read
	}
	now := w.c.now()
	if now-b.read <= quick {
		b.reuse = stride - 1
	}
	b.read = now
	return now
}

// settle ends one run: the timer may fire again, or was killed or set anew
// meanwhile, and someone may wait for the run to return.
func (w *worker) settle(it *item) {
	was := it.state.claimed()
	if !it.e.swap(was, it.returned()) {
		w.c.runs.returned(it.e, was)
	}
}

// broken cleans up after a callback that panicked, or that ended its goroutine
// with runtime.Goexit: then the rest of the batch needs another one.
func (w *worker) broken(b *batch, p any) {
	w.settle(&b.items[b.taken-1]) // the callback has returned, in its way
	b.reuse = 0
	w.c.count.panics.Add(1)
	w.panics.note(p)
	if p != nil {
		return
	}
	if rest := b.cut(); len(rest) > 0 {
		w.handBack(w.pool.copyOf(b.group, rest))
	}
	w.finish(b)
}

// reap removes the timers whose last run has returned, unless they were killed
// or set anew meanwhile. It is done once a batch, for the driver needs the
// shard's lock too, and at that moment empties the same slot. If it would wait
// for a busy shard and wait is not set, it returns false, and the rest is the
// driver's: when many timers end at once, workers go on with callbacks.
func (w *worker) reap(b *batch, wait bool) (done bool) {
	var sh *shard
	removed := int64(0)
	for done = true; b.reaped < b.taken; b.reaped++ {
		it := &b.items[b.reaped]
		was := it.returned()
		if !it.last() || it.e.load() != was {
			continue
		}
		if next := &w.shards[it.shard]; sh != next {
			if sh != nil {
				sh.unlockBusy()
				sh = nil
			}
			if done = wait || !next.busy.Load(); !done {
				break
			}
			sh = next
			sh.lockBusy()
		}
		if it.e.swap(was, was.nextGeneration()) {
			sh.detach(b.group, it.index, it.e)
			removed++
		}
	}
	if sh != nil {
		sh.unlockBusy()
	}
	if removed > 0 {
		w.c.count.pending.Add(-removed)
	}
	return done
}

// inCallback reports whether the calling goroutine is a worker in a callback.
func inCallback() bool {
	work := reflect.ValueOf((*worker).work).Pointer()
	var pcs [64]uintptr
	for from, size := 3, 8; ; from, size = from+size, len(pcs) {
		n := runtime.Callers(from, pcs[:size])
		frames := runtime.CallersFrames(pcs[:n])
		for more := n > 0; more; {
			var f runtime.Frame
			if f, more = frames.Next(); f.Entry == work {
				return true
			}
		}
		if n < size {
			return false
		}
	}
}
