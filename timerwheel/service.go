package timerwheel

import (
	"context"
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
)

// A Service runs timers. Its own SetTimer, KillTimer and so on are those of a
// Set that runs on the Submitter given to New, on all shards and without
// MaxPerSet; For makes further Sets. All methods may be called from any
// goroutine.
type Service struct {
	own   Set
	cfg   Config
	tick  int64  // ns
	slack int64  // Config.Slack in ticks
	salt  uint64 // spreads the service's own timers over the shards

	base   time.Time             // tick 0, on the monotonic clock
	wall   func(time.Time) int64 // the wall clock in a reading, ns; tests step it
	shards []shard
	sets   atomic.Uint64 // Sets made, to spread them over shards

	// armed holds for each slot the key it will come up for, plus 1; 0 is
	// unarmed. Whoever hangs an entry arms its slot, under the shard's lock;
	// the driver disarms a slot before it locks the first shard to drain it.
	armed [levels * ringLen]atomic.Int64

	pending atomic.Int64
	live    atomic.Bool // started and not stopped
	count   counters
	batches batchPool
	drive   driver
	wheels  wheels

	returned returned

	mu     sync.Mutex // serialises Start and Stop
	places sync.Map   // where callbacks panicked: logged once each
	nplace atomic.Int32
}

// New makes a service whose own timers run on sub. It starts nothing.
func New(cfg Config, sub Submitter) (*Service, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if sub == nil {
		return nil, fmt.Errorf("timerwheel: nil submitter")
	}
	now := time.Now()
	s := &Service{
		cfg:   cfg,
		tick:  int64(cfg.Tick),
		slack: int64(cfg.Slack / cfg.Tick),
		// Tick 0 lies just after a multiple of the tick on the wall clock,
		// which the library counts in: its ticks and ours then fall together.
		base:   now.Add(-time.Duration(now.UnixNano() % int64(cfg.Tick))),
		wall:   time.Time.UnixNano,
		shards: make([]shard, cfg.Shards),
	}
	s.own = Set{svc: s, sub: sub, own: true}
	s.salt = rand.Uint64()
	for i := range s.shards {
		s.shards[i].table.salt = rand.Uint64()
		s.shards[i].index = uint32(i)
		s.shards[i].sets = []*Set{&s.own}
	}
	s.drive.restart(0)
	s.wheels.init(s)
	return s, nil
}

// Start starts the wheel and its watchdog. It is an error if it runs.
func (s *Service) Start(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live.Load() {
		return fmt.Errorf("timerwheel: already running")
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("timerwheel: start: %w", err)
	}
	if err := s.wheels.start(); err != nil {
		return err
	}
	s.live.Store(true)
	return nil
}

// Stop kills all timers, those of every Set, and ends the service's
// goroutines. It does not wait for callbacks that have begun; none begins
// after it. It returns ctx's error if the goroutines have not ended by then,
// which takes a wedged wheel. A second Stop does nothing. The service may be
// started again.
func (s *Service) Stop(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.live.Swap(false) {
		return nil
	}
	var met []runKey
	for i := range s.shards {
		s.shards[i].sweep(s, nil, &met)
	}
	s.returned.wait(s.cfg.KillWait, met...)
	return s.wheels.stop(ctx)
}

// Running reports whether the service has been started and not stopped.
func (s *Service) Running() bool { return s.live.Load() }

// Len returns the number of live timers, those of all Sets together. One that
// has fired for the last time counts until it has been taken away, some ticks
// later at most.
func (s *Service) Len() int { return int(s.pending.Load()) }

// For makes a Set whose callbacks run on sub. It is cheap (one allocation),
// and needs no closing once it has no timers.
func (s *Service) For(sub Submitter) *Set {
	n := s.sets.Add(1)
	return &Set{
		svc: s, sub: sub,
		shard: &s.shards[n&uint64(len(s.shards)-1)],
	}
}

// SetTimer sets a timer of the service's own: see Set.SetTimer.
func (s *Service) SetTimer(id TimerID, every time.Duration, repeat int, fn func(Firing)) error {
	return s.own.SetTimer(id, every, repeat, fn)
}

// ResetTimer starts one of the service's own anew: see Set.ResetTimer.
func (s *Service) ResetTimer(id TimerID, every time.Duration) bool {
	return s.own.ResetTimer(id, every)
}

// KillTimer cancels one of the service's own: see Set.KillTimer.
func (s *Service) KillTimer(id TimerID) bool { return s.own.KillTimer(id) }

// KillAllTimers cancels the service's own, not those of Sets that For made,
// and returns how many had a firing still to come.
func (s *Service) KillAllTimers() int { return s.own.KillAllTimers() }

// After sets one that fires once: see Set.After.
func (s *Service) After(d time.Duration, fn func(Firing)) (TimerID, error) {
	return s.own.After(d, fn)
}

// Every sets one that repeats until it is killed: see Set.Every.
func (s *Service) Every(d time.Duration, fn func(Firing)) (TimerID, error) {
	return s.own.Every(d, fn)
}

// now is the monotonic clock: ns since base.
func (s *Service) now() int64 { return int64(time.Since(s.base)) }

// tickAfter is the first tick at or after a deadline.
func (s *Service) tickAfter(due int64) int64 { return (due + s.tick - 1) / s.tick }

// admit says whether the set may have one more timer, and counts it.
// The shard of the new timer is locked.
func (s *Service) admit(sh *shard, set *Set) error {
	if !s.live.Load() {
		return ErrNotRunning
	}
	if set.closed.Load() {
		return ErrSetClosed
	}
	if n := set.n.Load(); n >= int64(s.cfg.MaxPerSet) ||
		sh.slab.full() || n == 0 && len(sh.spare) == 0 && len(sh.sets) == maxSets {
		s.count.tooMany.Add(1)
		return ErrTooManyTimers
	}
	if s.pending.Add(1) > int64(s.cfg.MaxTimers) {
		s.pending.Add(-1)
		s.count.tooMany.Add(1)
		return ErrTooManyTimers
	}
	return nil
}

// arm makes sure that the slot comes up for key, or sooner.
func (s *Service) arm(level int, key int64) {
	a := &s.armed[slotOf(level, key)]
	for {
		v := a.Load()
		if v != 0 && v <= key+1 {
			return
		}
		if a.CompareAndSwap(v, key+1) {
			if level > 0 || !s.drive.dense.Load() {
				s.wheels.request(level, key)
			}
			return
		}
	}
}

// upBefore reports whether the slot comes up no later than due. An unarmed
// slot with an entry in it is being drained, or about to be: of level 0, at once.
func (s *Service) upBefore(slot uint32, due int64) bool {
	v := s.armed[slot].Load()
	if v == 0 {
		return slot < ringLen
	}
	return upAt(int(slot>>ringBits), v-1)*s.tick < due+s.tick
}

// maxPlaces bounds the panicking places that are remembered.
const maxPlaces = 1024

// panicked counts a callback's panic (nil: runtime.Goexit) and logs it once
// for each place it came from. Called while the stack is still that of the
// panic.
func (s *Service) panicked(p any) {
	s.count.panics.Add(1)
	var pcs [64]uintptr
	place := origin(pcs[:runtime.Callers(3, pcs[:])])
	if s.nplace.Load() >= maxPlaces {
		return
	}
	if _, seen := s.places.LoadOrStore(place, true); seen {
		return
	}
	s.nplace.Add(1)
	stack := make([]byte, 8<<10)
	stack = stack[:runtime.Stack(stack, false)]
	if p == nil {
		p = "runtime.Goexit"
	}
	s.cfg.Logger.Error("timerwheel: panic in a callback", "panic", p, "at", place, "stack", string(stack))
}

// origin names the frame that panicked: the first outside the runtime above
// the runtime's own, which lie above our deferred function's.
func origin(pcs []uintptr) string {
	frames := runtime.CallersFrames(pcs)
	for unwound := false; ; {
		f, more := frames.Next()
		if isRuntime(f.Function) {
			unwound = true
		} else if unwound {
			return fmt.Sprintf("%s:%d", f.File, f.Line)
		}
		if !more {
			return "unknown"
		}
	}
}

func isRuntime(name string) bool { return len(name) > 8 && name[:8] == "runtime." }
