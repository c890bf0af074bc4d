package timerwheel

import (
	"context"
	"math"
	"sync/atomic"
	"time"
)

// afterIDs is where the ids of After and Every begin.
const afterIDs TimerID = 1 << 63

// A Set is a group of timers with ids of its own whose callbacks run on one
// Submitter: on a session's strand, say, so that they are in order with its
// packets and end with it. Its methods may be called from any goroutine, also
// from a callback, and none waits for one but KillTimerWait.
//
// A Set hands its firings to the Submitter in the order of their deadlines, to
// a tick. A Set without timers holds nothing of the service: it needs no Close
// to be collected. When its submitter reports that it has gone, the Set closes
// itself.
type Set struct {
	c   *core
	g   group
	ids atomic.Uint64
}

// SetTimer has fn called after every, then again each period, repeat times in
// all; 0 means until it is killed. If the id is in use, that timer is
// cancelled and started with the new parameters: no run of the old setting
// starts after SetTimer has returned, and Firing.N starts from 1. A run of the
// old one that has started goes on, and may overlap with one of the new.
//
// A firing never comes early. It is handed out at the first tick at or after
// its deadline, plus up to a tick that the wheel takes; while more than 48
// timers fire on each tick, later by up to Config.Slack or the shortest period
// among them; then it is the submitter's. Deadlines are one period apart
// whenever the callback runs (no drift). A period that comes while the firing
// before it has not returned is skipped, counted in Stats.Skipped, and not taken
// off repeat: two runs of one setting never overlap.
//
// fn must not be nil; every must be above 0 unless repeat is 1, and is capped
// at 146 years; repeat is at most 2^32 - 1 (seven weeks of 1 ms). Errors:
// ErrTooManyTimers, ErrSetClosed, ErrNotRunning, ErrPeriod, ErrNoFunc; a timer
// that had the id then lives on.
func (t *Set) SetTimer(id TimerID, every time.Duration, repeat int, fn func(Firing)) error {
	if fn == nil {
		return ErrNoFunc
	}
	if repeat < 0 || uint64(repeat) > math.MaxUint32 || every <= 0 && repeat != 1 {
		return ErrPeriod
	}
	return t.c.shardOf(&t.g, id).set(&t.g, id, max(every, 0), repeat, fn)
}

// ResetTimer starts a live timer anew with another period, its function and
// repeat count as they were set. It is what an idle timeout needs for each
// packet: when the deadline moves later it only stores it. It returns false,
// having done nothing, if the id is not live; if every is not above 0 and the
// timer repeats; or if its firing waits for the submitter and half as many as
// the limits allow wait to be discarded.
func (t *Set) ResetTimer(id TimerID, every time.Duration) bool {
	return t.c.shardOf(&t.g, id).reset(&t.g, id, max(every, 0))
}

// KillTimer cancels the timer and reports whether a firing of it was still to
// come. No run of it starts after KillTimer has returned, also when its firing
// waits in the submitter's queue. A run that a worker has started goes on, and
// KillTimer does not wait for it: see KillTimerWait.
func (t *Set) KillTimer(id TimerID) bool {
	return t.c.shardOf(&t.g, id).kill(&t.g, id).toCome
}

// KillTimerWait is KillTimer, and then waits until no run of that id goes on,
// also of a setting that was killed or replaced before, or until ctx ends: it
// then returns ctx's error. It never waits in a callback, where it might wait
// for itself, but returns ErrInCallback if a run goes on. The timer is killed
// in each case.
//
// A callback must not wait for a goroutine that calls it for the same id.
func (t *Set) KillTimerWait(ctx context.Context, id TimerID) (toCome bool, err error) {
	toCome = t.KillTimer(id)
	return toCome, t.c.runs.wait(ctx, func(r runOf) bool { return r.g == &t.g && r.id == id })
}

// KillAllTimers cancels the Set's timers and returns how many had a firing
// still to come. It waits for no run.
func (t *Set) KillAllTimers() int { return t.c.killAll(&t.g) }

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

// Len returns the number of live timers. A timer counts until the batch of
// firings that its last run came in has been worked off, or some ticks longer.
func (t *Set) Len() int { return int(t.g.live.Load()) }

// Close refuses new timers from now on and kills the Set's, as KillAllTimers.
func (t *Set) Close() int { return t.c.close(&t.g) }
