// Package timerwheel runs functions later, once or a number of times, on goroutines that the caller
// provides.
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
// A timer never fires early, repeats without drift, and is not affected by changes of the wall clock.
// After KillTimer has returned no run of the timer starts.
//
// Callbacks run on the Submitter that the Set was made with, up to 512 of one Set in a row for each
// Submit. Those of a Set run in order. Those of the service's own timers have no order: when one
// takes longer than a tick, the ones after it are submitted again, so that free workers run them.
//
// Submit is called without a lock, on the goroutine that found the timers due. A Submit that blocks
// delays its own Set; other Sets are at most a tick late. Refused firings are offered again, at most
// 256 Submits for each tick.
//
// Only Stop and KillTimerWait wait for callbacks, except when called by a callback. All other calls
// wait at most for a shard's lock, which is held for some hundred timers at a time and never while
// foreign code runs.
//
// docs/timers.md describes the implementation.
package timerwheel
