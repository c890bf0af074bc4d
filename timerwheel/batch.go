package timerwheel

import (
	"sync"
	"sync/atomic"
)

const (
	bigBatch   = 512 // firings handed to a submitter at once, at most
	smallBatch = 8   // those of a small batch
)

// An item is one firing that waits for a worker, one cache line. Its values are copied while the
// shard is locked, because the entry may belong to another timer by the time it runs.
type item struct {
	e     *entry
	fn    func(Firing)
	id    TimerID
	n     uint64
	left  int64
	due   int64
	state state // the entry's when it was handed out
	index uint32
	shard uint32
}

// last reports whether it is the timer's last firing.
func (it *item) last() bool { return it.left == 0 }

// returned is the entry's state after the run has returned.
func (it *item) returned() state { return it.state.returned(it.last()) }

// A batch is a block of firings of one group, run by one Submit. Until it is submitted it belongs
// to the driver, then to the worker. The driver may still take back items that the worker has not
// begun.
type batch struct {
	group *group
	items []item
	run   func() // made once, so that Submit needs no new closure
	next  *batch // in a batchQueue

	rest  atomic.Uint64 // items[rest>>32 : uint32(rest)] are not taken
	began atomic.Int64  // when the worker began; 0: not yet
	users atomic.Int32  // the worker, and the driver while it watches the batch

	// The worker's.
	taken  int         // items taken by it
	reaped int         // of those, how many were looked at for timers that have ended
	read   int64       // the clock, when it was read last
	reuse  int         // for how many items more that will do
	counts batchCounts // to be added to the service's counters
}

// seal makes the items filled in ready to run.
func (b *batch) seal() {
	b.rest.Store(uint64(len(b.items)))
	b.users.Store(1)
}

// take takes the next item, or returns nil.
func (b *batch) take() *item {
	for {
		v := b.rest.Load()
		from, to := uint32(v>>32), uint32(v)
		if from >= to {
			return nil
		}
		if b.rest.CompareAndSwap(v, v+1<<32) {
			b.taken = int(from) + 1
			return &b.items[from]
		}
	}
}

// left returns how many items are not taken.
func (b *batch) left() int {
	v := b.rest.Load()
	return int(uint32(v)) - int(v>>32)
}

// cut takes all remaining items. They are part of b: a caller that needs them longer than it uses b
// must copy them.
func (b *batch) cut() []item {
	for {
		v := b.rest.Load()
		from, to := uint32(v>>32), uint32(v)
		if from >= to {
			return nil
		}
		if b.rest.CompareAndSwap(v, uint64(from)<<32|uint64(from)) {
			return b.items[from:to]
		}
	}
}

// A batchPool keeps batches by size; nothing in a pooled one points to a timer.
// A batch begins small, so that one firing does not hold the memory of many.
type batchPool struct {
	big, small sync.Pool
	work       func(*batch) // what a worker does with one
}

func (p *batchPool) get(g *group) *batch { return p.from(&p.small, 1, g) }

// grow returns a big batch with b's items in place of b.
func (p *batchPool) grow(b *batch) *batch {
	big := p.from(&p.big, bigBatch, b.group)
	big.items = append(big.items, b.items...)
	b.users.Store(1)
	p.done(b)
	return big
}

func (p *batchPool) from(pool *sync.Pool, size int, g *group) *batch {
	b, _ := pool.Get().(*batch)
	if b == nil {
		b = &batch{items: make([]item, 0, size)}
		b.run = func() { p.work(b) }
	}
	b.group = g
	return b
}

// copyOf returns a new batch for items of g.
func (p *batchPool) copyOf(g *group, items []item) *batch {
	b := p.get(g)
	b.items = append(b.items, items...)
	b.seal()
	return b
}

// done ends one use of b. The last one gives it back to the pool.
func (p *batchPool) done(b *batch) {
	if b.users.Add(-1) > 0 {
		return
	}
	clear(b.items)
	b.items, b.taken, b.reaped, b.group, b.next = b.items[:0], 0, 0, nil, nil
	b.read, b.reuse = 0, 0
	b.began.Store(0)
	switch n := cap(b.items); {
	case n <= smallBatch:
		p.small.Put(b)
	case n == bigBatch:
		p.big.Put(b)
	}
}

// A batchQueue is a queue of batches.
type batchQueue struct {
	head, tail *batch
	n          int
}

func (q *batchQueue) push(b *batch) {
	b.next = nil
	if q.tail != nil {
		q.tail.next = b
	} else {
		q.head = b
	}
	q.tail = b
	q.n++
}

func (q *batchQueue) pushFront(b *batch) {
	b.next = q.head
	q.head = b
	if q.tail == nil {
		q.tail = b
	}
	q.n++
}

// pop returns nil when the queue is empty.
func (q *batchQueue) pop() *batch {
	b := q.head
	if b == nil {
		return nil
	}
	q.head, b.next = b.next, nil
	if q.head == nil {
		q.tail = nil
	}
	q.n--
	return b
}

// A group is the service's part of a Set.
type group struct {
	sub   Submitter
	own   bool  // the service's own: on all shards, in no order, never closed
	limit int64 // of what is held; not used when own
	shard uint32

	live      atomic.Int64 // its timers; not kept when own
	cancelled atomic.Int64 // its firings out whose timer was killed or set anew before they ran
	closed    atomic.Bool

	index uint32 // guarded by the shard's mutex; in shard.groups, 0 without timers
	head  uint32 // guarded by the shard's mutex; first of its entries

	// Guarded by driver.driving.
	filling *batch // being filled
	queue   batchQueue
	status  status // of queue
	next    *group // in a groupQueue
}

// held is what limit bounds.
func (g *group) held() int64 { return g.live.Load() + g.cancelled.Load() }

// A status says where a group's queue is between filling and Submit.
type status int

const (
	empty      status = iota // nothing is queued
	ready                    // in sender.ready
	submitting               // a goroutine is in Submit with its first batch
	refused                  // in sender.refused
)

// A groupQueue is a queue of groups, each in one queue at most.
type groupQueue struct {
	head, tail *group
	n          int
}

func (q *groupQueue) push(g *group) {
	if q.tail != nil {
		q.tail.next = g
	} else {
		q.head = g
	}
	q.tail = g
	q.n++
}

func (q *groupQueue) pushFront(g *group) {
	g.next = q.head
	q.head = g
	if q.tail == nil {
		q.tail = g
	}
	q.n++
}

// pop returns nil when the queue is empty.
func (q *groupQueue) pop() *group {
	g := q.head
	if g == nil {
		return nil
	}
	q.head, g.next = g.next, nil
	if q.head == nil {
		q.tail = nil
	}
	q.n--
	return g
}
