// Package timerwheel runs functions later, a set number of times, on someone
// else's goroutines.
//
//	timers, err := timerwheel.New(timerwheel.Config{}, pool) // anything with Submit(func()) error
//	...
//	err = timers.Start(ctx)
//	err = timers.SetTimer(1, 100*time.Millisecond, 3, func(f timerwheel.Firing) {
//		log.Print(f.N, " of 3, ", f.Left, " to come")
//	})
//	mine := timers.For(session) // ids of its own, in the session's order
//	id, err := mine.After(time.Minute, func(timerwheel.Firing) { session.Close() })
//	mine.KillTimer(id)
//	err = timers.Stop(ctx)
//
// A timer never fires early, repeats without drift, does not care what is done
// to the wall clock, and after KillTimer has returned no run of it starts.
//
// # What runs where, and what waits
//
// Callbacks run on the goroutines of the Submitter that the Set was made with,
// up to 512 of one Set in a row for each Submit. Those of a Set come in order.
// Those of the service's own come in none: when one takes longer than a tick,
// the ones behind it are submitted again, so that free workers run them.
//
// Submit is called on the goroutine that found the timers due, without a lock.
// One that blocks holds up its own Set; others are late by a tick. Firings that
// it refuses are offered again, at most 256 Submits for each tick.
//
// No call waits for a callback but Stop and KillTimerWait, and those don't when
// a callback makes them. All others wait for a shard's lock at most, which is
// held for some hundred timers and never while foreign code runs.
//
// # How
//
// Timers are on intrusive lists, one for each shard and slot. A slot is one tick,
// or 256, or 65,536 for timers that are further off; those expire early, and
// their timers cascade to finer slots in small steps, between which what is due
// is handed out. Killing a timer takes it off its list; a later deadline for a
// live one is only stored. Deadlines are monotonic: a slot that comes up before
// its time is asked for again.
//
// Two clocks bring slots up. The wheel, of github.com/RussellLuo/timingwheel,
// has one timer for each slot that has any; all calls into it come from a
// goroutine of their own, since they may block for ever. One timer of the
// runtime does what the wheel can't: it finds slots that the wheel has lost and
// replaces a wheel that is dead or whose clock has been stepped, and while many
// timers fire it brings up several ticks at once, by Config.Slack, which costs
// a wake-up instead of one for each tick.
package timerwheel
