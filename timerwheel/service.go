package timerwheel

import (
	"context"
	"fmt"
	"time"
)

// A Service runs timers. Its own SetTimer, KillTimer and so on are those of a Set that runs on the
// Submitter given to New, without MaxPerSet, and whose callbacks have no order: those due together
// are spread over the Submitter's workers. For makes further Sets. All methods may be called from
// any goroutine.
type Service struct {
	core
	own Set
}

// New makes a service whose own timers run on sub. It starts nothing. sub need not be running yet:
// firings that it refuses, even as closed, are offered again until the service stops.
func New(cfg Config, sub Submitter) (*Service, error) {
	cfg = cfg.withDefaults()
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	if sub == nil {
		return nil, fmt.Errorf("timerwheel: nil submitter")
	}
	s := &Service{}
	s.own = Set{c: &s.core, g: group{sub: sub, own: true}}
	s.core.init(cfg, &s.own.g)
	return s, nil
}

// Start starts the wheel. It returns an error if the service is running, if ctx has ended, or if a
// Stop has not ended yet. ctx is not used after Start has returned.
func (s *Service) Start(ctx context.Context) error { return s.start(ctx) }

// Stop kills all timers, those of every Set, and waits until the service's goroutines and running
// callbacks have ended, or until ctx ends: then it returns ctx's error. No callback begins after
// Stop has returned, and running ones end by themselves. In a callback Stop waits for nothing and
// returns nil.
//
// It may be called at any time and more than once: each call waits in the same way, and a call
// before Start does nothing. The service may be started again.
func (s *Service) Stop(ctx context.Context) error { return s.stop(ctx) }

// Running reports whether the service has been started and not stopped.
func (s *Service) Running() bool { return s.live.Load() }

// Len returns the number of live timers, those of all Sets together. A timer that has fired for the
// last time counts until it has been removed, at most some ticks later.
func (s *Service) Len() int { return int(s.count.pending.Load()) }

// Stats returns the current figures. Firings are counted a batch at a time.
func (s *Service) Stats() Stats { return s.count.stats() }

// For makes a Set whose callbacks run on sub, in order. It is cheap (one allocation). A Set without
// timers need not be closed.
func (s *Service) For(sub Submitter) *Set {
	n := s.groups.Add(1)
	return &Set{c: &s.core, g: group{
		sub: sub, limit: int64(s.cfg.MaxPerSet),
		shard: uint32(n & uint64(len(s.shards)-1)),
	}}
}

// SetTimer sets one of the service's own timers: see Set.SetTimer.
func (s *Service) SetTimer(id TimerID, every time.Duration, repeat int, fn func(Firing)) error {
	return s.own.SetTimer(id, every, repeat, fn)
}

// ResetTimer restarts one of the service's own timers: see Set.ResetTimer.
func (s *Service) ResetTimer(id TimerID, every time.Duration) bool {
	return s.own.ResetTimer(id, every)
}

// KillTimer cancels one of the service's own timers: see Set.KillTimer.
func (s *Service) KillTimer(id TimerID) bool { return s.own.KillTimer(id) }

// KillTimerWait cancels one of the service's own timers and waits for its run: see
// Set.KillTimerWait.
func (s *Service) KillTimerWait(ctx context.Context, id TimerID) (toCome bool, err error) {
	return s.own.KillTimerWait(ctx, id)
}

// KillAllTimers cancels the service's own timers, not those of Sets made by For, and returns how
// many had a firing still to come.
func (s *Service) KillAllTimers() int { return s.own.KillAllTimers() }

// After sets a timer that fires once: see Set.After.
func (s *Service) After(d time.Duration, fn func(Firing)) (TimerID, error) {
	return s.own.After(d, fn)
}

// Every sets a timer that repeats until it is killed: see Set.Every.
func (s *Service) Every(d time.Duration, fn func(Firing)) (TimerID, error) {
	return s.own.Every(d, fn)
}
