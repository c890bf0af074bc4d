package dbbench

import (
	"net"
	"sync"
)

// Pool is the worker pool both sides deliver to when Config.Pool is nil.
type Pool struct {
	mu     sync.Mutex
	cond   sync.Cond
	queue  []func() // guarded by mu; bounded by the number of outstanding queries
	head   int
	closed bool
	wg     sync.WaitGroup
}

// NewPool starts n goroutines.
func NewPool(n int) *Pool {
	p := &Pool{}
	p.cond.L = &p.mu
	for range n {
		p.wg.Go(p.work)
	}
	return p
}

// Submit implements dbasync.Submitter.
func (p *Pool) Submit(fn func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.queue = append(p.queue, fn)
	p.cond.Signal()
	return nil
}

func (p *Pool) work() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for p.head == len(p.queue) && !p.closed {
			p.cond.Wait()
		}
		if p.head == len(p.queue) {
			return
		}
		fn := p.queue[p.head]
		p.queue[p.head] = nil
		if p.head++; p.head == len(p.queue) {
			p.queue, p.head = p.queue[:0], 0
		}
		p.mu.Unlock()
		fn()
		p.mu.Lock()
	}
}

// Close runs what is queued and ends the goroutines.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	p.cond.Broadcast()
	p.mu.Unlock()
	p.wg.Wait()
}
