// Package timerbench measures timer services behind one interface, so that
// rivals run side by side in one go test -bench: the one on the runtime's
// timers, the raw library, and whatever a caller brings. Benchmarks only.
package timerbench

import (
	"runtime"
	"sync"
	"time"

	"millrace/timerwheel"
)

// Timers is what is measured. SetTimer and KillTimer are as in timerwheel.Set.
type Timers interface {
	SetTimer(id timerwheel.TimerID, every time.Duration, repeat int, fn func(timerwheel.Firing)) error
	KillTimer(id timerwheel.TimerID) bool
	Close()
}

// A Rival makes a Timers whose callbacks run on sub.
type Rival struct {
	Name string
	Make func(sub timerwheel.Submitter) Timers
	// Max is how many timers it can be given in reasonable time; 0: any number.
	Max int
	// Coarse: its resolution is too low for what depends on it (lateness).
	Coarse bool
}

// Pool runs what is submitted on 2 x GOMAXPROCS goroutines, off one queue.
type Pool struct {
	mu    sync.Mutex
	cond  *sync.Cond
	queue []func()
	head  int
	ended bool
	wg    sync.WaitGroup
}

// NewPool starts a pool.
func NewPool() *Pool {
	p := &Pool{}
	p.cond = sync.NewCond(&p.mu)
	for range 2 * runtime.GOMAXPROCS(0) {
		p.wg.Go(p.work)
	}
	return p
}

// Submit queues fn; it never refuses.
func (p *Pool) Submit(fn func()) error {
	p.mu.Lock()
	p.queue = append(p.queue, fn)
	p.mu.Unlock()
	p.cond.Signal()
	return nil
}

// Close runs what is queued and ends the pool's goroutines.
func (p *Pool) Close() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.cond.Broadcast()
	p.wg.Wait()
}

func (p *Pool) work() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		for p.head < len(p.queue) {
			fn := p.queue[p.head]
			p.queue[p.head] = nil
			if p.head++; p.head == len(p.queue) {
				p.queue, p.head = p.queue[:0], 0
			}
			p.mu.Unlock()
			fn()
			p.mu.Lock()
		}
		if p.ended {
			return
		}
		p.cond.Wait()
	}
}
