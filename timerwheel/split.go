package timerwheel

import (
	"slices"
	"sync"
)

const (
	splitMost = 64 // batches that are looked at, of those that are out: pools run them in turn
	reapStep  = 8  // batches reaped between two polls
)

// A splitter watches batches that are with their workers, and takes back firings that a worker
// can't finish in time. Guarded by driver.driving unless stated otherwise.
type splitter struct {
	c      *common
	send   *sender
	worker *worker
	pool   *batchPool
	clock  *clock

	watched []*batch // of the service's own group, out, oldest first
	ended   []*batch // run, with timers to be removed

	mu   sync.Mutex
	back []*batch // guarded by mu: what workers did not finish; each holds timers that MaxTimers counts
}

// watch adds a batch that has been submitted, if its firings have no order.
func (p *splitter) watch(b *batch) {
	if b.group.own && len(b.items) > 1 && b.users.Load() > 1 {
		p.watched = append(p.watched, b)
		return
	}
	p.pool.done(b)
}

// splitSlow takes the remaining firings of batches on which a worker has spent a tick, and offers
// them to two others: one slow callback of the service's own timers delays no other while a worker
// is free.
func (p *splitter) splitSlow(now int64) {
	if len(p.watched) == 0 {
		return
	}
	kept := p.watched[:0]
	looked := 0
	for _, b := range p.watched[:min(len(p.watched), splitMost)] {
		looked++
		began := b.began.Load()
		switch {
		case b.users.Load() > 1 && (began == 0 || now-began < p.c.tick):
			kept = append(kept, b)
			continue
		case b.users.Load() > 1:
			p.split(b)
		}
		p.pool.done(b)
	}
	p.watched = slices.Delete(p.watched, len(kept), looked)
}

// split submits what is left of b in two halves.
func (p *splitter) split(b *batch) {
	rest := b.cut()
	half := (len(rest) + 1) / 2
	for _, items := range [][]item{rest[:half], rest[half:]} {
		if len(items) > 0 {
			p.send.pushFront(b.group, p.pool.copyOf(b.group, items))
		}
	}
}

// unfinished accepts a batch that its worker could not finish. It runs on any goroutine.
func (p *splitter) unfinished(b *batch) {
	p.mu.Lock()
	p.back = append(p.back, b)
	p.mu.Unlock()
	p.clock.within(p.c.period())
}

// takeBack puts firings still to be run at the front of their groups' queues, and has the timers of
// the others removed.
func (p *splitter) takeBack() {
	p.mu.Lock()
	back := p.back
	p.back = nil
	p.mu.Unlock()
	for _, b := range back {
		if b.left() > 0 {
			p.send.pushFront(b.group, b)
		} else {
			p.ended = append(p.ended, b)
		}
	}
}

// reap removes a step of the timers that workers left.
func (p *splitter) reap() {
	for range min(reapStep, len(p.ended)) {
		last := len(p.ended) - 1
		b := p.ended[last]
		p.ended[last] = nil
		p.ended = p.ended[:last]
		p.worker.reap(b, true)
		p.pool.done(b)
	}
	if len(p.ended) == 0 {
		p.ended = nil
	}
}

// hasBack reports whether there is something to take back.
func (p *splitter) hasBack() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.back) > 0
}
