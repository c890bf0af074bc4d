package timerwheel

import (
	"sync"
	"time"
)

const (
	bigBatch   = 512 // firings handed to the service's submitter at once
	smallBatch = 8   // and to a Set's; a longer one grows
)

// An item is one firing on its way to a worker, one cache line. What it needs is copied while
// the shard is locked: the entry may be another timer's by the time it runs.
type item struct {
	e     *entry
	fn    func(Firing)
	id    TimerID
	n     uint64
	left  int64
	due   int64
	word  uint64 // the entry's when it was handed out
	index uint32
	shard uint32
}

// A batch is a block of firings of one Set, run by one Submit. Until it is
// submitted it belongs to the driving goroutine, then to the worker.
type batch struct {
	svc   *Service
	set   *Set
	items []item
	next  *batch // in set.parked
	run   func() // b.work, made once so that Submit needs no new closure

	at     int   // items claimed or passed over
	read   int64 // the clock, when it was read last
	reuse  int   // for how many items more that will do
	tidied int   // items whose ended timers have been taken away
	tally  tally // to be added to the service's counters
}

// batches are pooled by size; nothing in a pooled one points to a timer.
type batchPool struct{ big, small sync.Pool }

func (p *batchPool) get(s *Service, set *Set) *batch {
	pool, n := &p.small, smallBatch
	if set.own {
		pool, n = &p.big, bigBatch
	}
	b, _ := pool.Get().(*batch)
	if b == nil {
		b = &batch{svc: s, items: make([]item, 0, n)}
		b.run = b.work
	}
	b.set = set
	return b
}

func (p *batchPool) put(b *batch) {
	pool := &p.small
	if b.set.own {
		pool = &p.big
	}
	clear(b.items)
	b.items, b.at, b.tidied, b.set, b.next = b.items[:0], 0, 0, nil, nil
	b.read, b.reuse = 0, 0
	if cap(b.items) <= bigBatch {
		pool.Put(b)
	}
}

// work runs on the submitter's goroutine.
func (b *batch) work() {
	for b.at < len(b.items) {
		b.stretch()
	}
	b.tally.flush(&b.svc.count)
	if b.tidy(!b.set.own) {
		b.svc.batches.put(b)
	} else {
		b.svc.handBack(b)
	}
}

// stretch runs callbacks until the batch ends or one panics.
func (b *batch) stretch() {
	returned := false
	defer func() {
		if !returned {
			b.broken(recover())
		}
	}()
	for b.at < len(b.items) {
		it := &b.items[b.at]
		b.at++
		late := b.now() - it.due
		f := Firing{ID: it.id, N: it.n, Left: it.left, Late: time.Duration(late)}
		b.tally.fired(&b.svc.count, late)
		if it.e.word.CompareAndSwap(it.word, it.word|running) {
			it.fn(f)
			b.settle(it)
		} else {
			b.tally.total--
			b.tally.run--
			b.tally.stale++
		}
	}
	returned = true
}

// While callbacks are quick, one reading of the clock does for stride of them:
// it costs more than all else that a worker does for a firing.
const (
	quick  = 2000 // ns from one reading to the next
	stride = 4
)

// now is the clock for an item's Late.
func (b *batch) now() int64 {
	if b.reuse > 0 {
		b.reuse--
		return b.read
	}
	now := b.svc.now()
	if now-b.read <= quick {
		b.reuse = stride - 1
	}
	b.read = now
	return now
}

// settle ends one run: the timer may fire again, or was killed or set anew
// meanwhile, and someone may wait for the run to return.
func (b *batch) settle(it *item) {
	was := it.word | running
	if !it.e.word.CompareAndSwap(was, it.back()) {
		b.svc.returned.note(keyOf(it.index, was))
	}
}

// back is what the entry's word becomes when the run has returned.
func (it *item) back() uint64 {
	if it.left == 0 {
		return it.word ^ odd | ran
	}
	return it.word ^ odd
}

// tidy takes away the timers whose last run has returned, unless they were
// killed or set anew meanwhile. Once a batch: the shard's lock is the driver's,
// too, which at that moment drains the same slot. Who would have to wait for it
// for long, and does not want to, gets false; the rest is then the driver's: when
// many timers end at once, workers go on with callbacks.
func (b *batch) tidy(wait bool) (done bool) {
	var held *shard
	var gone int64
	for done = true; b.tidied < b.at; b.tidied++ {
		it := &b.items[b.tidied]
		if it.left != 0 || it.e.word.Load() != it.back() {
			continue
		}
		if sh := &b.svc.shards[it.shard]; held != sh {
			if held != nil {
				held.unlockLong()
				held = nil
			}
			if done = wait || !sh.long.Load(); !done {
				break
			}
			sh.lockLong()
			held = sh
		}
		if w := it.back(); it.e.word.CompareAndSwap(w, renewed(w)) {
			held.drop(it.index, it.e)
			gone++
		}
	}
	if held != nil {
		held.unlockLong()
	}
	if gone > 0 {
		b.svc.pending.Add(-gone)
	}
	return done
}

// broken cleans up after a callback that panicked, or that ended its goroutine
// with runtime.Goexit: then the rest of the batch needs another one.
func (b *batch) broken(p any) {
	b.settle(&b.items[b.at-1]) // the callback has returned, in its way
	b.reuse = 0
	b.svc.panicked(p)
	if p != nil {
		return
	}
	b.tally.flush(&b.svc.count)
	b.svc.handBack(b)
}
