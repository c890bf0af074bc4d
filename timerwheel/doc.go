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
// # What runs where
//
// Callbacks run on the goroutines of the Submitter that the Set was made with,
// up to 512 of one Set in a row for each Submit. Due timers are handed out on
// a goroutine of the wheel beneath (github.com/RussellLuo/timingwheel), which
// calls Submit and must not be blocked by it. A Service has four goroutines of
// its own: two of the wheel's, one that arms it, and a watchdog. SetTimer and
// KillTimer never block beyond a shard's lock.
//
// # How
//
// Timers hang on intrusive lists, one for each shard and tick, and one timer
// of the library brings a tick up. Coarser slots of 256 and 65,536 ticks hold
// what is further off; they come up one of their periods early and are re-hung
// in steps, between which what is due is handed out. Killing unlinks; setting a
// live timer to a later deadline stores it. Deadlines are monotonic; a slot that
// comes up early is armed again. Four times in Config.Watchdog the wheel must
// beat and the two clocks must agree: else a new wheel takes over.
//
// While many timers fire, one of the runtime's timers brings up several ticks at
// once, by Config.Slack. Timers that have fired for the last time are taken away
// by the worker that ran them, or later, if it would have to wait for that.
package timerwheel
