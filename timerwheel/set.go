package timerwheel

import (
	"math"
	"sync/atomic"
	"time"
)

// A TimerID names a timer within its Set. Callers choose their own; ids from
// 1<<63 up are those that After and Every give out.
type TimerID uint64

// afterIDs is where the ids of After and Every begin.
const afterIDs TimerID = 1 << 63

// A Firing tells a callback which run it is.
type Firing struct {
	ID   TimerID
	N    uint64 // counts the timer's firings since it was set, from 1
	Left int64  // firings still to come; -1 when it repeats until killed
	// Late is how long after the deadline; never below zero. After two callbacks
	// that were begun within 2 µs, the next three share a reading of the clock, and
	// do not show what one of them may take.
	Late time.Duration
}

// A Set is a group of timers with ids of its own whose callbacks run on one
// Submitter: on a session's strand, say, so that they are in order with its
// packets and end with it. Its methods may be called from any goroutine, also
// from a callback.
//
// A Set without timers holds nothing of the service: it needs no Close to be
// collected. When its submitter reports that it has gone, the Set closes
// itself.
type Set struct {
	svc *Service
	sub Submitter
	own bool // the service's: on all shards, never closed by its user

	shard *shard       // of all its timers; nil when own
	n     atomic.Int64 // its timers; not kept when own
	ids   atomic.Uint64

	index  uint32 // guarded by shard.mu; in shard.sets, 0 without timers
	head   uint32 // guarded by shard.mu; first of its entries
	closed atomic.Bool

	// Touched only by the goroutine that drives the service.
	stuck  bool   // in driver.stuck
	open   *batch // being filled
	parked *batch // refused, oldest first
	tail   *batch
}

func (t *Set) shardOf(id TimerID) *shard {
	if t.shard != nil {
		return t.shard
	}
	h := (uint64(id) ^ t.svc.salt) * 0x9e3779b97f4a7c15
	return &t.svc.shards[(h^h>>32)>>20&uint64(len(t.svc.shards)-1)]
}

// SetTimer has fn called after every, then again each period, repeat times in
// all; 0 means until it is killed. If the id is in use, that timer is
// cancelled and started with the new parameters: nothing of the old setting
// runs after SetTimer has returned, and Firing.N starts from 1.
//
// A firing never comes early. It is handed out at the first tick at or after
// its deadline, plus up to a tick that the wheel takes; while more than 48 timers
// fire on each tick, up to Config.Slack or the shortest period among them later;
// then it is the submitter's. Deadlines are one period apart whenever the
// callback runs (no drift). A period that comes while the firing before it has
// not returned is skipped, counted in Stats.Skipped, and not taken off repeat:
// two runs of one setting never overlap.
//
// fn must not be nil; every must be above 0 unless repeat is 1, and is capped
// at 146 years; repeat is at most 2^32 - 1 (seven weeks of 1 ms). Errors: ErrTooManyTimers, ErrSetClosed, ErrNotRunning,
// ErrPeriod, ErrNoFunc; a timer that had the id then lives on.
func (t *Set) SetTimer(id TimerID, every time.Duration, repeat int, fn func(Firing)) error {
	if fn == nil {
		return ErrNoFunc
	}
	if repeat < 0 || repeat > math.MaxUint32 || every <= 0 && repeat != 1 {
		return ErrPeriod
	}
	met, err := t.shardOf(id).set(t.svc, t, id, max(every, 0), repeat, fn)
	if met != 0 {
		t.svc.returned.wait(t.svc.cfg.KillWait, met)
	}
	return err
}

// ResetTimer starts a live timer anew with another period, its function and
// repeat count as they were set. It is what an idle timeout needs for each
// packet: when the deadline moves later it only stores it. It returns false,
// having done nothing, if the id is not live, or if every is not above 0 and
// the timer repeats.
func (t *Set) ResetTimer(id TimerID, every time.Duration) bool {
	ok, met := t.shardOf(id).reset(t.svc, t, id, max(every, 0))
	if met != 0 {
		t.svc.returned.wait(t.svc.cfg.KillWait, met)
	}
	return ok
}

// KillTimer cancels the timer and reports whether a firing of it was still to
// come. No run of it starts after KillTimer has returned, also when a worker
// was about to start one. A run that has started goes on. To be sure that it
// has, KillTimer waits for it to return, for Config.KillWait (20 ms) at most;
// never when called from a callback, and on the strand that the callbacks run
// on there is no such run.
func (t *Set) KillTimer(id TimerID) bool {
	d := t.shardOf(id).kill(t.svc, t, id)
	if d.met != 0 {
		t.svc.returned.wait(t.svc.cfg.KillWait, d.met)
	}
	return d.killed
}

// KillAllTimers cancels the Set's timers and returns how many had a firing
// still to come.
func (t *Set) KillAllTimers() int {
	var met []runKey
	n := 0
	if t.shard != nil {
		n = t.shard.sweep(t.svc, t, &met)
	} else {
		for i := range t.svc.shards {
			n += t.svc.shards[i].sweep(t.svc, t, &met)
		}
	}
	t.svc.returned.wait(t.svc.cfg.KillWait, met...)
	return n
}

// After has fn called once, d from now, and returns the id to kill it by.
// Errors as SetTimer; the id is then 0.
func (t *Set) After(d time.Duration, fn func(Firing)) (TimerID, error) {
	return t.auto(d, 1, fn)
}

// Every has fn called each d until killed, and returns the id to kill it by.
// Errors as SetTimer; the id is then 0.
func (t *Set) Every(d time.Duration, fn func(Firing)) (TimerID, error) {
	return t.auto(d, 0, fn)
}

func (t *Set) auto(d time.Duration, repeat int, fn func(Firing)) (TimerID, error) {
	id := afterIDs | TimerID(t.ids.Add(1))
	if err := t.SetTimer(id, d, repeat, fn); err != nil {
		return 0, err
	}
	return id, nil
}

// Len returns the number of live timers. A timer counts until the block of
// firings that its last run came in has been worked off, or some ticks longer.
func (t *Set) Len() int { return int(t.n.Load()) }

// Close refuses new timers from now on and kills the Set's, as KillAllTimers.
func (t *Set) Close() int {
	t.closed.Store(true)
	return t.KillAllTimers()
}
