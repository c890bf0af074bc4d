package engine

import (
	"time"
)

// blockedAfter is how long a worker may be busy with one step, which is eight packets at
// most, a task or a function, before it counts as blocked and a spare one takes its
// place; and how long with one batch before what its session has staged is sent.
const blockedAfter = 4 * time.Millisecond

// lateMost is how much longer that may be on a saturated machine: where the monitor
// itself is late, workers that only wait for a processor look as if they were blocked.
const lateMost = 50 * time.Millisecond

// spareIdle is how long spare workers are kept after they were last needed.
const spareIdle = time.Second

// watch is the monitor's goroutine: while there is work it looks every millisecond or
// so for blocked workers, and sleeps when there is none.
func (p *Pool) watch() {
	defer p.done.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var needed time.Time // when spare workers were last needed
	var late time.Duration
	for {
		asked := spareIdle
		if p.watching.Load() {
			asked = p.interval()
		}
		timer.Reset(asked)
		began := time.Now()
		select {
		case <-p.quit:
			return
		case <-p.monitor:
			p.watching.Store(true)
			continue
		case <-timer.C:
		}
		late = min(max(time.Since(began)-asked, late/2), lateMost)
		if p.look(late) {
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

// look flushes the sessions of workers that are long in one batch, tells them of a FIN
// that has come meanwhile, and starts spare ones
// for those that are blocked if work waits. late is how late such looks come. It tells
// whether spare workers are in use.
func (p *Pool) look(late time.Duration) bool {
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
		s := w.session.Load()
		if s != nil && now-since > int64(blockedAfter) {
			stuck = append(stuck, s)
		}
		if now-w.stands(s, since, now) > int64(blockedAfter+late) {
			blocked++
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
		s.lookForFin()
	}
	return spare
}

// stands is since when the worker may have been with one step of its batch, or function. The
// monitor calls it at each look, with what the worker now runs.
func (w *worker) stands(s *Session, since, now int64) int64 {
	step := uint32(0)
	if s != nil {
		step = s.in.step.Load()
	}
	switch {
	case w.seen != since && step == 0:
		w.at = since
	case w.seen != since || w.step != step:
		w.at = now
	}
	w.seen, w.step = since, step
	return w.at
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
