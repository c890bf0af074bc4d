package sched

import (
	"fmt"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
)

// worker is one worker as others see it.
type worker struct {
	id    atomic.Uint64        // its goroutine
	since atomic.Int64         // when its turn or function began, on the pool's clock; 0: waiting
	task  atomic.Pointer[Task] // whose turn it is
	fn    atomic.Uintptr       // the code of the function that it runs
	ran   atomic.Uint64        // turns and functions

	shard   *shard
	victim  int    // the shard looked at last; the worker's own, as is turns
	turns   uint   // ever begun
	helps   *shard // where far more waits than on its own; nil: nowhere that it knows of; the worker's own
	fresh   bool   // it was woken, and has not found anything yet; the worker's own
	retired bool   // it ends as it is not needed; guarded by Pool.mu once it does

	give   chan order // of a manual pool, as is number: workers are numbered from 1 in the order of their start
	number int

	seen int64  // the since of the monitor's last look; the monitor's own, as are these
	step uint32 // the task's step then
	at   int64  // when that step was first seen, or its turn began
	told int64  // the at of the stall that was reported last
}

// spawn starts a worker of a shard. mu is held.
func (p *Pool) spawn(s *shard) {
	w := p.newWorker()
	w.shard, w.victim = s, s.index
	s.workers++
	p.workers = append(p.workers, w)
	go p.work(w)
}

// work is a worker's goroutine.
func (p *Pool) work(w *worker) {
	w.id.Store(GoroutineID())
	clean := false
	defer func() { p.leave(w, clean) }()
	for {
		t, fn := p.next(w)
		if t == nil && fn == nil {
			clean = true
			return
		}
		if w.fresh {
			p.wakeMore(w)
		}
		w.since.Store(p.now())
		if t != nil {
			t.owner.Run()
			w.task.Store(nil)
		} else {
			w.fn.Store(reflect.ValueOf(fn).Pointer())
			p.call(fn)
		}
		w.since.Store(0)
		w.ran.Add(1)
	}
}

// leave ends a worker. One that a callback ended with runtime.Goexit is replaced.
func (p *Pool) leave(w *worker, clean bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.forget(w)
	if !clean {
		p.spawn(w.shard) // also of a pool that stops: it ends when its shard takes nothing more
	}
	if p.state.Load() == stateStopping && len(p.workers) == 0 {
		p.state.Store(stateStopped)
		close(p.empty)
	}
}

// forget takes a worker that ends off the list. mu is held.
func (p *Pool) forget(w *worker) {
	if i := slices.Index(p.workers, w); i >= 0 {
		p.workers = slices.Delete(p.workers, i, i+1)
		w.shard.workers--
		p.before += w.ran.Load()
	}
	if w.retired {
		w.shard.ending--
		p.retiring--
	}
}

// next waits for work; both nil end the worker.
func (p *Pool) next(w *worker) (*Task, func()) {
	if w.give != nil {
		return p.given(w)
	}
	for {
		w.turns++
		around := w.turns%lookAround == 0
		if s := w.helps; s != nil && w.turns%2 == 0 && !around {
			if t, fn := s.takeAbroad(w, p); t != nil || fn != nil {
				return t, fn
			}
		}
		if !around && w.shard.waiting.Load() > 0 {
			if t, fn := w.shard.take(w, p); t != nil || fn != nil {
				return t, fn
			}
		}
		if t, fn := p.steal(w); t != nil || fn != nil {
			return t, fn
		}
		if around && w.shard.waiting.Load() > 0 {
			if t, fn := w.shard.take(w, p); t != nil || fn != nil {
				return t, fn
			}
		}
		if !p.sleep(w) {
			return nil, nil
		}
	}
}

func (p *Pool) call(fn func()) {
	ok := false
	defer func() {
		if !ok {
			p.panics.Report("Pool.Submit", "", 0, recover())
		}
	}()
	fn()
	ok = true
}

// stuck tells what the workers are in, for people.
func (p *Pool) stuck() string {
	const most = 8
	p.mu.Lock()
	defer p.mu.Unlock()
	var in []string
	n := 0
	for _, w := range p.workers {
		if w.since.Load() == 0 {
			continue
		}
		if n++; n <= most {
			in = append(in, w.runs())
		}
	}
	if n == 0 {
		return "a hook is still running"
	}
	if n > most {
		in = append(in, "...")
	}
	return fmt.Sprintf("%d still busy (%s)", n, strings.Join(in, "; "))
}

// runs names what the worker is in.
func (w *worker) runs() string {
	if t := w.task.Load(); t != nil {
		if s, ok := t.owner.(fmt.Stringer); ok {
			return s.String()
		}
		session, main, sub := t.owner.Running()
		return fmt.Sprintf("session %s, %d/%d", session, main, sub)
	}
	if f := runtime.FuncForPC(w.fn.Load()); f != nil {
		return f.Name()
	}
	return "a function"
}
