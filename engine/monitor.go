package engine

import (
	"time"
)

// blockedAfter is how long a worker may be busy with one batch before it counts as
// blocked: its place is taken by a spare one, and what its session has staged is sent.
const blockedAfter = 4 * time.Millisecond

// spareIdle is how long spare workers are kept after they were last needed.
const spareIdle = time.Second

// watch is the monitor's goroutine: while there is work it looks every millisecond or
// so for blocked workers, and sleeps when there is none.
func (p *Pool) watch() {
	defer p.done.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var needed time.Time // when spare workers were last needed
	for {
		if p.watching.Load() {
			timer.Reset(p.interval())
		} else {
			timer.Reset(spareIdle)
		}
		select {
		case <-p.quit:
			return
		case <-p.monitor:
			p.watching.Store(true)
			continue
		case <-timer.C:
		}
		if p.look() {
			needed = time.Now()
		}
		if time.Since(needed) > spareIdle {
			p.retireSpare()
		}
	}
}

func (p *Pool) interval() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.idle == 0 && p.sessions+p.fns.len() > 0 {
		return time.Millisecond
	}
	return blockedAfter
}

// look flushes the sessions of blocked workers and starts spare ones if work waits.
// It tells whether spare workers are in use.
func (p *Pool) look() bool {
	now := p.now()
	var stuck []*Session
	p.mu.Lock()
	busy, blocked := 0, 0
	for _, w := range p.workers {
		since := w.since.Load()
		if since == 0 {
			continue
		}
		busy++
		if now-since > int64(blockedAfter) {
			blocked++
			if s := w.session.Load(); s != nil {
				stuck = append(stuck, s)
			}
		}
	}
	waiting := p.sessions + p.fns.len()
	if p.state == poolRunning && waiting > 0 && p.idle == 0 && blocked > 0 {
		room := p.cfg.Workers + p.cfg.Spare - len(p.workers)
		for range min(waiting, 2*blocked, room) {
			p.spawn()
			p.spawned.Add(1)
		}
	}
	spare := busy > p.cfg.Workers
	if p.idle == len(p.workers) && waiting == 0 {
		p.watching.Store(false)
	}
	p.mu.Unlock()
	for _, s := range stuck {
		s.flushBlocked()
	}
	return spare
}

func (p *Pool) retireSpare() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.workers) - p.cfg.Workers; n > 0 && p.idle > 0 {
		p.retire = min(n, p.idle)
		for range p.retire {
			p.wake.Signal()
		}
	}
}
