package enginetest

import (
	"testing/synctest"
	"time"

	"millrace/engine/internal/sched"
	"millrace/engine/internal/simnet"
)

// runner is a goroutine that runs steps: those of a loop, of the stand-in for a blocked loop, or
// those that belong to no loop.
type runner struct {
	w    *World
	todo chan func()
	busy bool // a step has begun and not ended; set by the simulation, cleared by the runner while the simulation waits
}

func (w *World) newRunner() *runner {
	r := &runner{w: w, todo: make(chan func())}
	w.runners = append(w.runners, r)
	go r.run()
	return r
}

func (r *runner) run() {
	clean := false
	defer func() {
		if clean {
			return
		}
		if v := recover(); v != nil { // otherwise it is a runtime.Goexit in a callback
			r.w.Errorf("panic: %v\n%s", v, stack())
		}
		r.busy = false
		go r.run()
	}()
	for fn := range r.todo {
		fn()
		r.busy = false
	}
	clean = true
}

// do runs a step, and waits until it has ended or its callback waits for something.
func (r *runner) do(fn func()) {
	r.busy = true
	r.todo <- fn
	synctest.Wait()
}

// loopRunners are the goroutines of a loop.
type loopRunners struct{ own, standIn *runner }

// action is something that can happen next: a step of a server's network, a worker taking the i-th
// task of a pool, or an event that is due.
type action struct {
	server *Server
	net    simnet.Step
	pool   *sched.Pool
	i      int
}

// actions returns what can happen now. The order depends only on the run.
func (w *World) actions() []action {
	list := w.list[:0]
	for _, s := range w.servers {
		if s.paused {
			continue
		}
		w.netSteps = s.net.Steps(w.netSteps[:0])
		for _, x := range w.netSteps {
			list = append(list, action{server: s, net: x})
		}
	}
	for _, p := range w.pools {
		if p.Free() == 0 || w.standsStill(p) {
			continue
		}
		waiting := p.Waiting()
		if w.opt.InOrder {
			waiting = min(waiting, 1)
		}
		for i := range waiting {
			list = append(list, action{pool: p, i: i})
		}
	}
	w.mu.Lock()
	due := len(w.events) > 0 && !w.events[0].at.After(time.Now())
	w.mu.Unlock()
	if due {
		list = append(list, action{})
	}
	w.list = list
	return list
}

// standsStill reports whether the pool's server is paused.
func (w *World) standsStill(p *sched.Pool) bool {
	for _, s := range w.servers {
		if s.paused && s.pool == p {
			return true
		}
	}
	return false
}

// stepTime is about how long a step takes where the machine is at its fastest. No two fall into one nanosecond, nor does one
// into that of a tick: so timers that callbacks start are due at times of their own.
const stepTime = 1000

// step does one of the actions that are possible now; it returns false if there is none.
func (w *World) step() bool {
	w.look()
	if len(w.actions()) == 0 {
		return false
	}
	w.steps++
	if w.steps > w.opt.MaxSteps {
		w.Fatalf("the run does not end: %d steps in %v", w.steps, w.Now())
	}
	time.Sleep(w.pace*stepTime + time.Duration(w.steps*7919%997))
	w.settle()
	list := w.actions()
	if len(list) == 0 {
		return true
	}
	a := list[(w.choices.choose(len(list))+w.steps)%len(list)]
	switch {
	case a.server != nil:
		w.netStep(a.server, a.net)
	case a.pool != nil:
		w.trace.note("worker", 0, 0, a.i, nil)
		a.pool.Give(a.i)
		synctest.Wait()
	default:
		w.mu.Lock()
		fn := w.events[0].fn
		w.events = w.events[1:]
		w.mu.Unlock()
		w.trace.note("event", 0, 0, 0, nil)
		w.free().do(fn)
	}
	if w.steps%64 == 0 && !w.ending {
		for _, s := range w.servers {
			s.checkLimits()
		}
	}
	w.goOn()
	return true
}

func (w *World) netStep(s *Server, x simnet.Step) {
	conn, loop := 0, -1
	if x.Conn != nil {
		conn = x.Conn.ID()
	}
	if x.Loop != nil {
		loop = x.Loop.Index()
	}
	w.trace.note(x.Kind.String(), conn, loop, 0, nil)
	r := (*runner)(nil)
	switch {
	case x.Loop == nil:
		r = w.free()
	case x.StandIn:
		r = s.runnersOf(loop).standIn
	default:
		r = s.runnersOf(loop).own
	}
	r.do(func() { s.net.Do(x) })
}

// free returns an idle runner.
func (w *World) free() *runner {
	for _, r := range w.idle {
		if !r.busy {
			return r
		}
	}
	r := w.newRunner()
	w.idle = append(w.idle, r)
	return r
}

// lookEvery is how often pools and servers check for blocked goroutines.
const lookEvery = time.Millisecond

// look does the checks of the pools' monitors and of the servers' watchers of loops.
func (w *World) look() {
	if time.Since(w.lookedAt) < lookEvery {
		return
	}
	w.lookedAt = time.Now()
	for _, p := range w.pools {
		if !w.standsStill(p) {
			p.Look()
		}
	}
	for _, s := range w.servers {
		if s.net.Busy() && !s.paused {
			s.look()
		}
	}
	synctest.Wait()
}

// wait lets time pass until something can happen, or until end.
func (w *World) wait(end time.Time) {
	next := end
	sooner := func(at time.Time) {
		if at.Before(next) {
			next = at
		}
	}
	for _, s := range w.servers {
		if at, ok := s.net.Next(); ok {
			sooner(at)
		}
	}
	w.mu.Lock()
	if len(w.events) > 0 {
		sooner(w.events[0].at)
	}
	w.mu.Unlock()
	for _, p := range w.pools {
		if p.Busy() > 0 {
			sooner(w.lookedAt.Add(lookEvery))
		}
	}
	for _, s := range w.servers {
		if s.net.Busy() {
			sooner(w.lookedAt.Add(lookEvery))
		}
	}
	w.timer.Reset(max(time.Until(next), 1))
	select {
	case <-w.hand:
	case <-w.timer.C:
	}
	w.timer.Stop()
}

// Advance lets d of simulated time pass, with everything that happens in it.
func (w *World) Advance(d time.Duration) {
	w.runUntil(time.Now().Add(d), func() bool { return false })
}

// Until lets time pass until cond holds; cond is called between steps. The run fails if that takes
// longer than Options.Patience.
func (w *World) Until(cond func() bool) {
	if !w.runUntil(time.Now().Add(w.opt.Patience), cond) {
		w.Fatalf("what Until waits for has not come in %v", w.opt.Patience)
	}
}

// UntilWithin is Until with a limit of its own; it reports whether cond held in time.
func (w *World) UntilWithin(d time.Duration, cond func() bool) bool {
	return w.runUntil(time.Now().Add(d), cond)
}

func (w *World) runUntil(end time.Time, cond func() bool) bool {
	for w.settle(); !cond(); {
		if !time.Now().Before(end) {
			return false
		}
		if !w.step() {
			w.wait(end)
			w.settle()
		}
	}
	return true
}
