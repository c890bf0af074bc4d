package enginetest

import (
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"millrace/engine"
	"millrace/engine/internal/door"
	"millrace/engine/internal/machine"
	"millrace/engine/internal/netio"
	"millrace/engine/internal/sched"
	"millrace/engine/internal/simnet"
)

// World is one run of a simulation: servers, their clients, and the clock. Its methods are called
// by the function given to Run, on its goroutine, unless they say otherwise.
type World struct {
	t       testing.TB
	seed    uint64
	choices *choices
	trace   trace
	opt     Options
	path    Path
	files   atomic.Int64 // file descriptors that the process may have open

	hand    chan struct{} // there may be something to do
	timer   *time.Timer
	servers []*Server
	pools   []*sched.Pool
	clients []*Client
	atEnd   []func() // functions given to Defer

	runners  []*runner
	idle     []*runner // for steps that belong to no loop
	steps    int
	pace     time.Duration // how many times stepTime a step takes
	lookedAt time.Time
	list     []action
	netSteps []simnet.Step
	ending   bool // the run is being shut down: nothing is checked any more

	mu     sync.Mutex
	events []event // guarded by mu; ordered by time
	failed string  // guarded by mu; why the run has failed
}

// Path describes a client's connection: each piece takes Latency, and at random up to Jitter more;
// order is kept. A zero field means the default given at the field.
type Path struct {
	Latency    time.Duration // 500 µs
	Jitter     time.Duration // 1 ms
	SendBuffer int           // bytes buffered by the server's kernel for this client; 64 KiB
	RecvBuffer int           // unread bytes buffered by each kernel; 64 KiB
	Rate       int           // bytes a second, in each direction; 0: unlimited
}

func (p Path) withDefaults() Path {
	or(&p.Latency, 500*time.Microsecond)
	or(&p.Jitter, time.Millisecond)
	or(&p.SendBuffer, 64<<10)
	or(&p.RecvBuffer, 64<<10)
	return p
}

func or[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// event is something scheduled for a time.
type event struct {
	at time.Time
	fn func()
}

// abort ends the function given to Run, when the run has failed.
type abort struct{}

func newWorld(t testing.TB, opt Options, c *choices, keep bool) *World {
	w := &World{t: t, choices: c, opt: opt, path: opt.Path.withDefaults(), hand: make(chan struct{}, 1), timer: time.NewTimer(time.Hour)}
	w.trace.sum, w.trace.keep, w.trace.start = fnvOffset, keep, time.Now()
	w.lookedAt = time.Now()
	w.files.Store(int64(opt.Files))
	w.pace = [...]time.Duration{1, 1, 10, 100}[w.Pick(4)]
	return w
}

// Seed returns the run's seed.
func (w *World) Seed() uint64 { return w.seed }

// Now is how long the run has lasted, in simulated time. The time package tells the same
// time, to everybody in the run. Any goroutine.
func (w *World) Now() time.Duration { return time.Since(w.trace.start) }

// Pick returns a number from 0 to n-1 that the seed gives; when a failing run is shrunk, 0
// is what is tried first. Handlers may use it as well.
func (w *World) Pick(n int) int { return w.choices.choose(n) }

// Chance is true once in n times. Handlers may use it as well.
func (w *World) Chance(n int) bool { return w.choices.chance(n) }

// Between returns a duration of at least from and less than to. Handlers may use it as well.
func (w *World) Between(from, to time.Duration) time.Duration {
	const parts = 1024
	return from + (to-from)*time.Duration(w.Pick(parts))/parts
}

// After has fn called in d of simulated time, on a goroutine of its own, when nothing else
// happens. What fn does is a step of the run like any other: unlike what a timer of the time
// package does when others are due in the same nanosecond. Any goroutine.
func (w *World) After(d time.Duration, fn func()) {
	at := time.Now().Add(d)
	w.mu.Lock()
	i := len(w.events)
	for i > 0 && w.events[i-1].at.After(at) {
		i--
	}
	w.events = append(w.events, event{})
	copy(w.events[i+1:], w.events[i:])
	w.events[i] = event{at, fn}
	w.mu.Unlock()
	w.wake()
}

// Logf adds a line to the trace. Any goroutine.
func (w *World) Logf(format string, args ...any) { w.trace.say(fmt.Sprintf(format, args...)) }

// Trace is what happened up to now as text, its last lines; "" unless Options.Trace is set,
// or the run repeats one that has failed.
func (w *World) Trace() string { return w.trace.text() }

// Hash is over everything that has happened, in its order and with its times: two runs that
// are the same have the same.
func (w *World) Hash() uint64 {
	_, sum := w.trace.sums()
	return sum
}

// Steps is how many steps the run has had.
func (w *World) Steps() int { return w.steps }

// Errorf notes that the run has failed, which ends it before its next step. Any goroutine.
func (w *World) Errorf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.failed == "" && !w.ending {
		w.failed = fmt.Sprintf(format, args...)
		w.trace.say("FAILED: " + w.failed)
	}
}

// Fatalf is Errorf, and ends the run at once.
func (w *World) Fatalf(format string, args ...any) {
	w.Errorf(format, args...)
	panic(abort{})
}

// Check fails the run if err is not nil.
func (w *World) Check(err error) {
	if err != nil {
		w.Fatalf("%v", err)
	}
}

// failure is why the run has failed; "": it has not.
func (w *World) failure() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.failed
}

// wake says that there may be something to do. Any goroutine.
func (w *World) wake() {
	select {
	case w.hand <- struct{}{}:
	default:
	}
}

// onMachine is a World as a server of its own sees it, or a pool.
type onMachine struct {
	*World
	s *Server // nil: a pool
}

var _ machine.Machine = onMachine{}

func (m onMachine) Network(cfg machine.Network, h netio.Host) door.Below {
	w := m.World
	m.s.net = simnet.New(cfg, h, simnet.Hooks{
		Choose: w.choices.choose,
		Chance: func(n int) bool { return !w.opt.Smooth && w.choices.chance(n) },
		Wake:   w.wake,
		Note:   func(e simnet.Event) { w.trace.note(e.What, e.Conn, e.Loop, e.N, e.B) },
		Files:  m.Files,
	})
	return m.s.net
}

func (m onMachine) Hand() chan struct{} { return m.hand }

func (m onMachine) Workers(p *sched.Pool) {
	m.pools = append(m.pools, p)
	if m.s != nil {
		m.s.pool = p
	}
}

func (m onMachine) Loops(look func()) { m.s.look = look }

func (m onMachine) Files() int { return int(m.files.Load()) }

func (m onMachine) Backlog() int { return 128 }

// Pool makes a pool of the world's and starts it, for servers to share (Config.Pool), and for
// what runs beside them.
func (w *World) Pool(cfg engine.PoolConfig) *engine.Pool {
	p, err := w.NewPool(cfg)
	w.Check(err)
	w.Check(p.Start(w.t.Context()))
	return p
}

// NewPool is Pool without the start.
func (w *World) NewPool(cfg engine.PoolConfig) (*engine.Pool, error) {
	or(&cfg.Workers, 4)
	or(&cfg.StallAfter, engine.Off)
	or(&cfg.Logger, w.Logger())
	return engine.NewPoolOn(onMachine{World: w}, cfg)
}

// Logger writes to the trace.
func (w *World) Logger() *slog.Logger { return slog.New(traceLog{t: &w.trace}) }

// settle waits until nobody runs, and has arrive what is due.
func (w *World) settle() {
	synctest.Wait()
	for _, s := range w.servers {
		if s.net.Settle() {
			synctest.Wait()
		}
	}
	for _, c := range w.clients {
		if !c.silent {
			c.read()
		}
	}
	w.goOn()
}

// goOn ends a run that has failed.
func (w *World) goOn() {
	if !w.ending && w.failure() != "" {
		panic(abort{})
	}
}
