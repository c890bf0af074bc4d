package timerwheel

import (
	"context"
	"math"
	"sync/atomic"
	"time"
)

// afterIDs is the first ID used by After and Every.
const afterIDs TimerID = 1 << 63

// A Set is a group of timers with IDs of its own whose callbacks run on one Submitter: on a
// session's strand, for example, so that they are in order with its packets and end with it. Its
// methods may be called from any goroutine, also from a callback; only KillTimerWait waits for a
// callback.
//
// A Set submits its firings in the order of their deadlines, to the precision of a tick. A Set
// without timers is not referenced by the service: it needs no Close to be garbage collected. When
// its submitter returns net.ErrClosed, the Set closes itself.
type Set struct {
	c   *core
	g   group
	ids atomic.Uint64
}

// SetTimer makes fn run after every, then again each period, repeat times in all; 0 means until it
// is killed. If the ID is in use, that timer is cancelled and started with the new parameters: no
// run of the old setting starts after SetTimer has returned, and Firing.N starts from 1. A run of
// the old setting in progress continues, and may overlap with one of the new.
//
// A firing is never early. It is submitted at the first tick at or after its deadline, plus up to a
// tick that the wheel takes; while more than 48 timers fire on each tick, later by up to
// Config.Slack or the shortest period among them. Deadlines are one period apart whenever the
// callback runs (no drift). A period that passes while the previous firing has not returned is
// skipped, counted in Stats.Skipped, and not subtracted from repeat: two runs of one setting never
// overlap.
//
// fn must not be nil; every must be above 0 unless repeat is 1, and is capped at 146 years; repeat
// is at most 2^32 - 1 (seven weeks of 1 ms). Errors: ErrTooManyTimers, ErrSetClosed, ErrNotRunning,
// ErrPeriod, ErrNoFunc; after an error a timer that already had the ID continues.
func (t *Set) SetTimer(id TimerID, every time.Duration, repeat int, fn func(Firing)) error {
	if fn == nil {
		return ErrNoFunc
	}
	if repeat < 0 || uint64(repeat) > math.MaxUint32 || every <= 0 && repeat != 1 {
		return ErrPeriod
	}
	return t.c.shardOf(&t.g, id).set(&t.g, id, max(every, 0), repeat, fn)
}

// ResetTimer restarts a live timer with another period; its function and repeat count stay. It is
// meant for idle timeouts that are reset by each packet: a later deadline is only stored. It
// returns false, and does nothing, if the ID is not live; if every is not above 0 and the timer
// repeats; or if the timer's firing is queued at the submitter and half as many cancelled firings
// as the limits allow already wait to be discarded.
func (t *Set) ResetTimer(id TimerID, every time.Duration) bool {
	return t.c.shardOf(&t.g, id).reset(&t.g, id, max(every, 0))
}

// KillTimer cancels the timer and reports whether a firing of it was still to come. No run of it
// starts after KillTimer has returned, even if its firing is queued at the submitter. A run in
// progress continues, and KillTimer does not wait for it: see KillTimerWait.
func (t *Set) KillTimer(id TimerID) bool {
	return t.c.shardOf(&t.g, id).kill(&t.g, id).toCome
}

// KillTimerWait is KillTimer, and then waits until no run of that ID is in progress, including runs
// of settings that were killed or replaced before, or until ctx ends: then it returns ctx's error.
// In a callback it never waits, because it might wait for itself, but returns ErrInCallback if a
// run is in progress. The timer is killed in each case.
//
// A callback must not wait for a goroutine that calls KillTimerWait for the callback's own ID.
func (t *Set) KillTimerWait(ctx context.Context, id TimerID) (toCome bool, err error) {
	toCome = t.KillTimer(id)
	return toCome, t.c.runs.wait(ctx, func(r runOf) bool { return r.g == &t.g && r.id == id })
}

// KillAllTimers cancels the Set's timers and returns how many had a firing still to come. It does
// not wait for runs in progress.
func (t *Set) KillAllTimers() int { return t.c.killAll(&t.g) }

// After makes fn run once, d from now, and returns the ID to kill it by. Errors are those of
// SetTimer; the ID is then 0.
func (t *Set) After(d time.Duration, fn func(Firing)) (TimerID, error) {
	return t.auto(d, 1, fn)
}

// Every makes fn run each d until killed, and returns the ID to kill it by. Errors are those of
// SetTimer; the ID is then 0.
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

// Len returns the number of live timers. A timer counts until the batch of firings with its last
// run has been processed, or some ticks longer.
func (t *Set) Len() int { return int(t.g.live.Load()) }

// Close refuses new timers from now on and kills the Set's timers; it returns what KillAllTimers
// does.
func (t *Set) Close() int { return t.c.close(&t.g) }
