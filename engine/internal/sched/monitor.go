package sched

import (
	"cmp"
	"slices"
	"time"
)

// BlockedAfter is how long a worker may be busy with one step of a task, or a function,
// before it counts as blocked and a spare one takes its place; and how long with one
// turn before its owner is told.
const BlockedAfter = 4 * time.Millisecond

// lateMost is how much longer that may be on a saturated machine: where the monitor
// itself is late, workers that only wait for a processor look as if they were blocked.
const lateMost = 50 * time.Millisecond

// spareIdle is how long spare workers are kept after they were last needed.
const spareIdle = time.Second

// monitor is a goroutine: while there is work it looks every millisecond or so for
// blocked workers, and sleeps when there is none.
func (p *Pool) monitor() {
	defer close(p.ended)
	defer p.watch.Close()
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
		case <-p.empty:
			return
		case <-p.poke:
			p.watching.Store(true)
			continue
		case <-timer.C:
		}
		late = max(time.Since(began)-asked, late/2)
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
	if tasks, fns, idle := p.totals(); idle == 0 && tasks+fns > 0 {
		return time.Millisecond
	}
	return BlockedAfter
}

// look tells the owners of turns that last long, reports stalls, and starts spare
// workers for those that are blocked if work waits. late is how late such looks come. It
// tells whether spare workers are in use. The monitor calls it.
func (p *Pool) look(late time.Duration) bool {
	p.mu.Lock()
	now := p.now()
	busy, blocked := 0, 0
	for _, w := range p.workers {
		since := w.since.Load()
		if since == 0 {
			continue
		}
		busy++
		t := w.task.Load()
		if t != nil && now-since > int64(BlockedAfter) {
			p.long = append(p.long, t.owner)
		}
		stood := now - w.stands(t, since, now)
		if stood > int64(BlockedAfter+min(late, lateMost)) {
			blocked++
		}
		if after := p.watch.After(); after > 0 && stood > int64(after+late) && w.told != w.at && (stood > int64(BlocksFor*after) || !t.blocks()) {
			w.told = w.at
			p.held = append(p.held, heldUp{w, t, since, w.step, w.at})
		}
	}
	tasks, fns, idle := p.totals()
	waiting := tasks + fns
	if p.state.Load() != stateStopped && waiting > 0 && idle == 0 && blocked > 0 {
		room := p.cfg.Workers + p.cfg.Spare - len(p.workers)
		for range min(waiting, 2*blocked, room) {
			p.spawn(p.fullest())
			p.spawned.Add(1)
		}
	}
	spare := busy > p.cfg.Workers
	if idle == len(p.workers) && waiting == 0 && p.watching.Load() {
		p.watching.Store(false)
		if tasks, fns, idle := p.totals(); tasks+fns > 0 || idle < len(p.workers) { // pushed by somebody who found it awake
			p.watching.Store(true)
		}
	}
	p.mu.Unlock()
	p.report()
	return spare
}

// report does what look found without the lock.
func (p *Pool) report() {
	for _, o := range p.long {
		o.Long()
	}
	for _, h := range p.held {
		s := h.suspect(p.epoch)
		if h.t != nil {
			if o, ok := h.t.owner.(Staller); ok {
				o.Stalls(time.Since(s.Since))
				s.Told = o.Stalled
			}
		}
		p.watch.Report(s)
	}
	clear(p.long)
	clear(p.held)
	p.long, p.held = p.long[:0], p.held[:0]
}

// heldUp is a worker with one step of a turn, or with a function, for too long.
type heldUp struct {
	w     *worker
	t     *Task
	since int64
	step  uint32
	at    int64
}

// still tells whether the worker is with that step. Any goroutine.
func (h heldUp) still() bool {
	return h.w.since.Load() == h.since && (h.t == nil || h.w.task.Load() == h.t && h.t.owner.Step() == h.step)
}

func (h heldUp) suspect(epoch time.Time) Suspect {
	s := Suspect{Where: "worker", Since: epoch.Add(time.Duration(h.at)), Goroutine: h.w.id.Load(), Still: h.still}
	if h.t != nil {
		s.Session, s.Main, s.Sub = h.t.owner.Running()
	}
	return s
}

// stands is since when the worker may have been with one step of its turn, or function.
// The monitor calls it at each look, with what the worker now runs.
func (w *worker) stands(t *Task, since, now int64) int64 {
	step := uint32(0)
	if t != nil {
		step = t.owner.Step()
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

// fullest is the shard where the most waits.
func (p *Pool) fullest() *shard {
	return slices.MaxFunc(p.shards, func(a, b *shard) int { return cmp.Compare(a.waiting.Load(), b.waiting.Load()) })
}

// retireSpare has spare workers end that have nothing to do.
func (p *Pool) retireSpare() {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.workers) - p.cfg.Workers - p.retiring
	for _, s := range p.shards {
		s.mu.Lock()
		for ; n > 0 && s.idle > 0 && s.workers-s.ending > s.base; n-- {
			s.retire++
			s.ending++
			p.retiring++
			p.wakeOne(s)
		}
		s.mu.Unlock()
	}
}
